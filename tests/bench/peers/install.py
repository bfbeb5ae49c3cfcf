"""Installs peers with pip and npm, each into a folder of its own, and once only for the same pins."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.bench.peers.children import child, end_of, installers_environment
from tests.bench.peers.peer import Peer
from tests.bench.peers.versions import PINS

FOLDER = Path(".bench-peers")
STEP_WITHIN_S = 600.0
"""A cold pip takes minutes for LiteLLM's hundred packages."""
_STAMP = "installed"
_LOG = "install.log"
_SAYS_WHY = ("error:", "npm error", "npm err!")


class NotInstalled(Exception):
    """Why a peer is not there, in one line."""


async def installed(peer: Peer, root: Path = FOLDER) -> Path:
    """The folder of a peer, which is installed unless it is there already. Raises NotInstalled."""
    folder = (root / peer.name.lower()).resolve()
    stamp = folder / _STAMP
    if stamp.is_file() and stamp.read_text() == PINS:
        return folder
    shutil.rmtree(folder, ignore_errors=True)  # half of an attempt that was broken off, or another version
    folder.mkdir(parents=True)
    await peer.install(folder)
    stamp.write_text(PINS)
    return folder


async def with_pip(folder: Path, *requirements: str) -> None:
    """Into a virtual environment in `folder`, from the index that pip knows. Raises NotInstalled."""
    await _step(folder, (sys.executable, "-m", "venv", "venv"))
    quietly = ("--disable-pip-version-check", "--no-input", "--prefer-binary")
    await _step(folder, (str(python(folder)), "-m", "pip", "install", *quietly, *requirements))


def python(folder: Path) -> Path:
    """The interpreter that `with_pip` made."""
    return folder / "venv" / "bin" / "python"


async def with_npm(folder: Path, dependencies: Mapping[str, str], overrides: Mapping[str, str]) -> None:
    """Into `node_modules` in `folder`, from the registry that npm knows. Raises NotInstalled."""
    missing = [tool for tool in ("node", "npm") if shutil.which(tool) is None]
    if missing:
        raise NotInstalled(f"{' and '.join(missing)} not found")
    manifest = {"private": True, "dependencies": dict(dependencies), "overrides": dict(overrides)}
    (folder / "package.json").write_text(json.dumps(manifest))
    # Without scripts: nothing that is installed has to run anything for it.
    quietly = ("--no-audit", "--no-fund", "--no-update-notifier", "--ignore-scripts", "--omit=dev")
    await _step(folder, ("npm", "install", *quietly))


async def _step(folder: Path, command: Sequence[str], within_s: float = STEP_WITHIN_S) -> None:
    log = folder / _LOG
    try:
        async with child(command, log, installers_environment(), directory=folder) as process:
            async with asyncio.timeout(within_s):
                status = await process.wait()
    except TimeoutError:
        raise NotInstalled(f"{Path(command[0]).name} was not done within {within_s:.0f} s") from None
    if status:
        raise NotInstalled(reason(end_of(log), f"{Path(command[0]).name} ended with {status}"))


def reason(said: str, otherwise: str) -> str:
    """What an installer gives as the cause, of all that it said: its last line about an error."""
    lines = [line.strip() for line in said.splitlines()]
    causes = [line for line in lines if line.lower().startswith(_SAYS_WHY)]
    # npm ends with where its log is, which is no cause.
    causes = [line for line in causes if "complete log of this run" not in line] or [otherwise]
    return causes[-1]
