"""A fleet of real processes whose servers are ours to kill, with connections that are ours to spoil."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.books import Where
from tests.chaos.nemesis import children_of
from tests.chaos.system import World, prepared
from tests.chaos.world import Limit, Tenant
from tests.support.proxy import Proxy

from synaxis_cli.embedded.nats import NatsServer
from synaxis_cli.embedded.postgres import PostgresServer
from synaxis_cli.embedded.process import EmbeddedServer, ServerFailed

TENANTS = (
    Tenant("free", 6.0, streamed=0.0, max_tokens=20),
    Tenant("bounded", 6.0, {"*": Limit(rpm=6_000)}, streamed=0.0, max_tokens=20),
)
"""One without limits, and one whose every request needs a permit, of which there are enough."""

DATABASE_DISK_BYTES = 256 << 20
SERVER_BACK_WITHIN_S = 30.0
"""A Postgres that was killed does not start before the last of its backends has noticed."""
_SHIFTED = Path(__file__).parent / "shifted"


@dataclass
class Stage:
    """The fleet, its servers and the proxies between them."""

    world: World
    nats: NatsServer
    nats_folder: Path
    postgres: PostgresServer
    bus_link: Proxy
    """Between all services and NATS."""
    database_link: Proxy
    """Between all registries and Postgres."""
    clock_file: Path
    database_disk: Path | None
    """Where Postgres has a small disk of its own; None where none may be mounted."""
    gateway_kills: list[float] = field(default_factory=list)
    """Monotonic seconds: what a gateway had under way then may be charged instead of reported."""

    @property
    def where(self) -> Where:
        """The books, by a way that no fault is on."""
        return Where(self.postgres.url(), self.nats.url)

    def processes(self, module: str) -> list[int]:
        """The pids of a service, as `synaxis_gateway`."""
        found = []
        for pid in children_of(self.world.system.process.pid):
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if module.encode() in words:
                found.append(pid)
        return sorted(found)

    async def start_again(self, server: EmbeddedServer) -> None:
        """Start a server that was killed. Raises ServerFailed when it does not come back."""
        deadline = time.monotonic() + SERVER_BACK_WITHIN_S
        while True:
            try:
                # A child dies with the thread that made it, so only the waiting is given to another one.
                await asyncio.to_thread(server.prepare)
                server.launch()
                await asyncio.to_thread(server.await_ready)
                return
            except ServerFailed:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.2)

    def empty_nats(self) -> None:
        """Take its disk away from a NATS that is not running."""
        shutil.rmtree(self.nats_folder / "jetstream", ignore_errors=True)

    def shift_clock(self, seconds: float) -> None:
        """Have the gateways' wall clocks jump."""
        beside = self.clock_file.with_suffix(".new")
        beside.write_text(str(seconds))
        os.replace(beside, self.clock_file)


@asynccontextmanager
async def staged(seed: int = 0) -> AsyncIterator[Stage]:
    """Start everything, and stop it at the end."""
    with tempfile.TemporaryDirectory(prefix="synaxis-faults-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # Postgres may have to run as another user
        nats_folder, database_folder = folder / "nats", folder / "postgres"
        nats, postgres = NatsServer(nats_folder), PostgresServer(database_folder)
        clock_file = folder / "clock"
        clock_file.write_text("0")
        with _small_disk(database_folder) as database_disk:
            try:
                nats.start()
                postgres.start()
                async with (
                    Proxy("127.0.0.1", nats.port) as bus_link,
                    Proxy("127.0.0.1", postgres.port) as database_link,
                ):
                    environment = {
                        "SYNAXIS_NATS_URL": f"nats://127.0.0.1:{bus_link.listen_port}",
                        "SYNAXIS_DATABASE_URL": postgres.url().replace(
                            f":{postgres.port}/", f":{database_link.listen_port}/"
                        ),
                        "PYTHONPATH": str(_SHIFTED),
                        "FAULTS_CLOCK_FILE": str(clock_file),
                    }
                    async with prepared(TENANTS, seed, folder, environment) as world:
                        yield Stage(
                            world,
                            nats,
                            nats_folder,
                            postgres,
                            bus_link,
                            database_link,
                            clock_file,
                            database_disk,
                        )
            finally:
                postgres.stop()
                nats.stop()


@contextmanager
def _small_disk(folder: Path) -> Iterator[Path | None]:
    """A disk that is soon full; None where this process may not mount one."""
    folder.mkdir()
    options = f"size={DATABASE_DISK_BYTES},mode=755"
    mounted = (
        os.geteuid() == 0
        and subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], capture_output=True, check=False
        ).returncode
        == 0
    )
    try:
        yield folder if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)
