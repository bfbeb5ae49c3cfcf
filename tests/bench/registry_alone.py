"""One registry in a process of its own, on one core with its Postgres; NATS and the measuring have others.

Numbers depend on the machine, so they are told and never asserted. Load goes to loopback only.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import asyncpg
from pydantic import SecretStr
from tests.support.registry import ADMIN_KEY, MODEL, Rig, eventually

from synaxis_cli.embedded.nats import NatsServer
from synaxis_cli.embedded.postgres import PostgresServer
from synaxis_common.bus import Bus
from synaxis_common.settings import ServiceSettings

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_USER, _OF_CHILDREN = 11, 13
"""Where /proc/<pid>/stat has the ticks of a process, and those of its children that have ended."""


class Cpu(NamedTuple):
    """Seconds on the core."""

    registry: float
    postgres: float

    def since(self, earlier: Cpu) -> Cpu:
        """How much more."""
        return Cpu(self.registry - earlier.registry, self.postgres - earlier.postgres)


@dataclass
class Alone:
    """The registry and what it works with."""

    rig: Rig
    registry: int
    postgres: int

    def cpu(self) -> Cpu:
        """What has been used so far."""
        children = _children(self.postgres)
        return Cpu(
            _seconds(self.registry),
            _seconds(self.postgres, with_ended=True) + sum(map(_seconds, children)),
        )

    @contextmanager
    def held_up(self) -> Iterator[None]:
        """The registry stands still meanwhile."""
        os.kill(self.registry, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.registry, signal.SIGCONT)


@asynccontextmanager
async def registry_alone() -> AsyncIterator[Alone]:
    """Start all of it, with one model at one provider."""
    cores = sorted(os.sched_getaffinity(0))
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        folder.chmod(0o755)
        nats, postgres = NatsServer(folder / "nats"), PostgresServer(folder / "postgres")
        for server in (nats, postgres):
            server.start()
            stack.callback(server.stop)
        assert postgres.pid is not None
        for process in (postgres.pid, *_children(postgres.pid)):
            os.sched_setaffinity(process, cores[:1])
        registry = _start(nats.url, postgres.url(), core=cores[0])
        stack.callback(_stop, registry)
        bus = Bus(ServiceSettings(nats_url=SecretStr(nats.url)), "bench")
        await bus.connect()
        stack.push_async_callback(bus.close)
        database = await asyncpg.connect(postgres.url())
        stack.push_async_callback(database.close)
        alone = Alone(Rig(bus, database), registry.pid, postgres.pid)
        await _settle_in(alone.rig)
        yield alone


async def _settle_in(rig: Rig) -> None:
    async def is_there() -> bool:
        return bool(await rig.database.fetchval("SELECT to_regclass('webhook_delivery') IS NOT NULL"))

    await eventually(is_there, "the database is made")
    await rig.catalog(datetime.now(UTC), run=1, prices={"alpha": "0.10"})
    await rig.put_provider("alpha")
    await rig.observe("alpha", (MODEL,))

    async def available() -> bool:
        return await rig.available() == {"alpha": None}

    await eventually(available, "the provider is available")


def _start(nats_url: str, database_url: str, core: int) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "SYNAXIS_NATS_URL": nats_url,
        "SYNAXIS_DATABASE_URL": database_url,
        "SYNAXIS_ADMIN_KEY": ADMIN_KEY,
        "SYNAXIS_ALLOW_PRIVATE_PROVIDERS": "true",
        "SYNAXIS_HEALTH_PORT": "0",
        "SYNAXIS_LOG_LEVEL": "ERROR",
    }
    process = subprocess.Popen([sys.executable, "-m", "synaxis_registry"], env=environment)
    os.sched_setaffinity(process.pid, {core})
    return process


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _children(process: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def process_cpu_s(process: int) -> float:
    """Seconds of CPU that its threads have had, to the nanosecond where the kernel tells."""
    stats = [
        Path(f"/proc/{process}/task/{task.name}/schedstat")
        for task in Path(f"/proc/{process}/task").iterdir()
    ]
    return sum(int(one.read_text().split()[0]) for one in stats) / 1e9


def _seconds(process: int, *, with_ended: bool = False) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    until = _OF_CHILDREN + 2 if with_ended else _OF_CHILDREN
    return sum(map(int, fields[_USER:until])) * TICK_S


def run(measure: Callable[[], Coroutine[Any, Any, dict[str, Any]]]) -> None:
    """Print what a measurement found."""
    for name, value in asyncio.run(measure()).items():
        print(f"  {name:48} {value}")
