"""LiteLLM's proxy: one Uvicorn worker, a master key, no database, no callbacks."""

from __future__ import annotations

import json
from pathlib import Path

from tests.bench.peers import versions
from tests.bench.peers.install import with_pip
from tests.bench.peers.peer import Launch, Peer
from tests.bench.upstream import MODEL

KEY = "sk-bench"
TIMEOUT_S = 600
"""What its page on production has."""
ENVIRONMENT = {
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_LOG": "ERROR",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it asks for prices on the internet, and waits for them
    "DISABLE_ADMIN_UI": "True",
    "NO_DOCS": "True",
}


async def _install(folder: Path) -> None:
    await with_pip(
        folder,
        versions.requirement("litellm", versions.LITELLM, extra="proxy"),
        versions.requirement("httptools", versions.HTTPTOOLS),
    )


def _launch(folder: Path, upstream: str, port: int) -> Launch:
    config = folder / "config.yaml"
    config.write_text(json.dumps(configuration(upstream)))  # JSON is YAML
    return Launch(
        command=(
            *(str(folder / "venv" / "bin" / "litellm"), "--config", str(config)),
            *("--host", "127.0.0.1", "--port", str(port), "--num_workers", "1", "--telemetry", "False"),
        ),
        completions=f"http://127.0.0.1:{port}/v1/chat/completions",
        environment=ENVIRONMENT,
    )


def configuration(upstream: str) -> dict[str, object]:
    """What its page on production recommends, without a database."""
    parameters = {"model": f"openai/{MODEL}", "api_base": upstream, "api_key": "none"}
    return {
        "model_list": [{"model_name": MODEL, "litellm_params": parameters}],
        "general_settings": {"master_key": KEY},
        "litellm_settings": {"request_timeout": TIMEOUT_S, "set_verbose": False},
    }


LITELLM = Peer("LiteLLM", versions.LITELLM, MODEL, _install, _launch, key=KEY)
