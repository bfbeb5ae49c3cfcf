"""TensorZero's gateway, out of the wheel that carries all of it; no database, so nothing is kept."""

from __future__ import annotations

from pathlib import Path

from tests.bench.peers import versions
from tests.bench.peers.install import python, with_pip
from tests.bench.peers.peer import Launch, Peer
from tests.bench.upstream import MODEL

_SERVE = Path(__file__).with_name("tensorzero_server.py")


async def _install(folder: Path) -> None:
    await with_pip(folder, versions.requirement("tensorzero", versions.TENSORZERO))


def _launch(folder: Path, upstream: str, _port: int) -> Launch:
    config = folder / "tensorzero.toml"
    config.write_text(configuration(upstream))
    # -P: else it would find this folder's module of that name before the package.
    return Launch(command=(str(python(folder)), "-P", str(_SERVE), str(config)), completions=None)


def configuration(upstream: str) -> str:
    """One model at one provider, with nothing written down and nothing sent home."""
    return f"""\
[gateway]
observability.enabled = false
disable_pseudonymous_usage_analytics = true

[models.{MODEL}]
routing = ["upstream"]

[models.{MODEL}.providers.upstream]
type = "openai"
model_name = "{MODEL}"
api_base = "{upstream}/"
api_key_location = "none"
"""


TENSORZERO = Peer("TensorZero", versions.TENSORZERO, f"tensorzero::model_name::{MODEL}", _install, _launch)
