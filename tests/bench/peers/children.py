"""Child processes in sessions of their own, which end with what started them, and all their children too."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from synaxis_cli.embedded.process import dies_with_parent, machine_environment

STOP_WITHIN_S = 5.0
_OF_AN_INSTALLER = ("HOME", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
_SETTINGS_OF_INSTALLERS = (
    "PIP_",
    "NPM_CONFIG_",
    "npm_config_",
    "SSL_CERT_",
    "REQUESTS_CA_",
    "NODE_EXTRA_CA_",
)


def installers_environment() -> dict[str, str]:
    """What pip and npm need of our environment: which index they are to use, and how they get there."""
    return machine_environment() | {
        name: value
        for name, value in os.environ.items()
        if name in _OF_AN_INSTALLER or name.startswith(_SETTINGS_OF_INSTALLERS)
    }


@asynccontextmanager
async def child(
    command: Sequence[str],
    log: Path,
    environment: Mapping[str, str],
    *,
    directory: Path,
    cores: frozenset[int] | None = None,
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that writes into `log`, on these cores from its first instruction on; ended at the end.

    It is pinned before it runs, so that it sees how many cores it has, and starts as many workers.
    """
    die_with_us = dies_with_parent()

    def prepare() -> None:
        die_with_us()
        if cores is not None:
            os.sched_setaffinity(0, cores)

    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            cwd=directory,
            preexec_fn=prepare,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    """The process, and whatever is left of its session."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_WITHIN_S):
                await process.wait()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def end_of(log: Path, lines: int = 15) -> str:
    """The last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
