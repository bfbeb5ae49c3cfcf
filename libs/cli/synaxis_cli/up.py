"""`synaxis up`: the whole system on this machine, from servers to services, until it is told to stop."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp

from synaxis_cli import announce
from synaxis_cli.announce import Ready
from synaxis_cli.children import GRACE_S, Child, KeptServer
from synaxis_cli.client import AdminClient, AdminError
from synaxis_cli.embedded.nats import ANY_PORT as ANY_NATS_PORT
from synaxis_cli.embedded.nats import NatsServer
from synaxis_cli.embedded.postgres import ANY_PORT as ANY_POSTGRES_PORT
from synaxis_cli.embedded.postgres import PostgresServer
from synaxis_cli.embedded.process import EmbeddedServer, ServerFailed
from synaxis_cli.environment import of_service
from synaxis_cli.ports import PortUnavailable, hold, url_of
from synaxis_cli.provision import Provisioning
from synaxis_cli.state import DataDirectory, DirectoryUnusable, Kept
from synaxis_cli.waiting import CannotStart, until

READY_TIMEOUT_S = 60.0
UNUSED_GRACE_S = 3.0
"""For stopping what nobody has used yet."""
DEFAULT_PORT = "8080"
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    data_dir: Path
    gateways: int = 1
    registries: int = 1
    as_json: bool = False


class Up:
    """Starts everything in order, keeps it running, and stops it in the opposite order."""

    def __init__(self, options: Options, directory: DataDirectory, environment: Mapping[str, str]) -> None:
        self._options, self._directory = options, directory
        self._environment = {name: value for name, value in environment.items() if value}
        self._begun, self._begun_at = time.monotonic(), datetime.now(UTC)
        self._nats: NatsServer | None = None
        self._postgres: PostgresServer | None = None
        self._servers: list[KeptServer] = []
        self._services: dict[str, list[Child]] = {"registry": [], "gateway": [], "sync": [], "discovery": []}
        self._demos: list[Child] = []
        self._port_holder: socket.socket | None = None
        self._is_ready = False
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Run until SIGTERM, SIGINT or SIGHUP. Raises CannotStart."""
        loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            # What nohup has ignored stays so; a shell's background job has SIGINT ignored, too, but means us.
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, self._on_signal)
        starting = asyncio.create_task(self._start())
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                starting.cancel()
                with suppress(asyncio.CancelledError):
                    await starting
                return
            starting.result()
            await stopping
        finally:
            stopping.cancel()
            await self._stop_everything()

    def _on_signal(self) -> None:
        if self._stop.is_set():
            self._say("told to stop again: killing everything")
            for child in self._children():
                child.kill()
            for server in self._servers:
                server.kill()
        self._stop.set()

    def _say(self, text: str) -> None:
        print(f"{time.monotonic() - self._begun:7.1f} s  {text}", file=sys.stderr, flush=True)

    async def _start(self) -> None:
        try:
            kept = self._directory.read_or_make()
            url = self._take_port()
            self._settle_environment(kept)
            await self._start_servers(kept)
            await self._start_services()
            async with AdminClient(url, self._environment["SYNAXIS_ADMIN_KEY"]) as client:
                await self._await_services(client)
                ready = await self._provide(client, url)
        except (ServerFailed, PortUnavailable, DirectoryUnusable) as error:
            raise CannotStart(str(error)) from error
        except (AdminError, aiohttp.ClientError, OSError) as error:
            raise CannotStart(f"{error or type(error).__name__}; the log above may say why") from error
        self._directory.update(url=url)
        self._is_ready = True
        print(announce.as_json(ready) if self._options.as_json else announce.as_text(ready), flush=True)

    def _take_port(self) -> str:
        """Hold the gateways' port for them, so that nobody else's server is taken for ours."""
        wanted = self._environment.get("SYNAXIS_HTTP_PORT", DEFAULT_PORT)
        if not wanted.isdecimal():
            raise PortUnavailable(f"SYNAXIS_HTTP_PORT must be a number, not {wanted!r}")
        host = self._environment.setdefault("SYNAXIS_HTTP_HOST", "127.0.0.1")
        self._port_holder = hold(host, int(wanted))
        port = int(self._port_holder.getsockname()[1])
        self._environment["SYNAXIS_HTTP_PORT"] = str(port)
        return url_of(host, port)

    def _settle_environment(self, kept: Kept) -> None:
        defaults = {
            "SYNAXIS_ADMIN_KEY": kept.admin_key,
            "SYNAXIS_KEY_PEPPER": kept.key_pepper,
            "SYNAXIS_WEBHOOK_SECRET": _webhook_secret(kept),
            "SYNAXIS_WEBHOOK_ALLOW_PRIVATE": "true",
            "SYNAXIS_ALLOW_PRIVATE_PROVIDERS": "true",
            "SYNAXIS_UPSTREAM_NO_PROXY": "localhost,127.0.0.1,::1",  # a proxy elsewhere has another localhost
            "SYNAXIS_LOG_LEVEL": "WARNING",
            "SYNAXIS_SPOOL_DIR": str(self._directory.path / "spool"),
        }
        self._environment = {
            **defaults,
            **self._environment,
            "SYNAXIS_REUSE_PORT": "true",
            "SYNAXIS_HEALTH_HOST": "127.0.0.1",
        }

    async def _start_servers(self, kept: Kept) -> None:
        if "SYNAXIS_NATS_URL" not in self._environment:
            self._nats = NatsServer(self._directory.path / "nats", kept.nats_port or ANY_NATS_PORT)
            await self._keep(self._nats)
            self._environment["SYNAXIS_NATS_URL"] = self._nats.url
            self._directory.update(nats_port=self._nats.port)
            self._say(f"nats-server at 127.0.0.1:{self._nats.port}")
        if "SYNAXIS_DATABASE_URL" not in self._environment:
            folder = self._directory.path / "postgres"
            self._postgres = PostgresServer(folder, kept.postgres_port or ANY_POSTGRES_PORT)
            await self._keep(self._postgres)
            self._environment["SYNAXIS_DATABASE_URL"] = self._postgres.url()
            self._directory.update(postgres_port=self._postgres.port)
            self._say(f"Postgres at 127.0.0.1:{self._postgres.port}, its data in {self._postgres.directory}")

    async def _keep(self, server: EmbeddedServer) -> None:
        kept = KeptServer(server, self._say)
        self._servers.append(kept)
        await kept.start()

    async def _start_services(self) -> None:
        counts = {"registry": self._options.registries, "gateway": self._options.gateways}
        for service, children in self._services.items():
            count = counts.get(service, 1)
            environment = of_service(service, self._environment)
            for number in range(1, count + 1):
                name = service if count == 1 else f"{service} {number}"
                module, is_worker = f"synaxis_{service}", service != "gateway"
                children.append(Child(name, module, environment, self._say, is_worker=is_worker))
        await asyncio.gather(*(child.start() for children in self._services.values() for child in children))

    async def _await_services(self, client: AdminClient) -> None:
        """Wait until every worker says that it is ready, and a gateway answers with a registry's help."""

        async def gateway_ready() -> bool:
            self._refuse_misconfigured()
            if (await client.http("GET", "/readyz")).status != 200:
                return False
            await client.ask("GET", "/jobs")
            return True

        deadline = time.monotonic() + READY_TIMEOUT_S
        for child in self._children():
            if child.health_url is not None:

                async def ready(worker: Child = child) -> bool:
                    self._refuse_misconfigured()
                    return await client.is_up(f"{worker.health_url}/readyz")

                await until(f"{child.name} is ready", ready, deadline - time.monotonic())
        await until("a gateway answers", gateway_ready, deadline - time.monotonic())
        self._say("gateway, registry, sync and discovery are ready")

    def _refuse_misconfigured(self) -> None:
        for child in self._children():
            if child.is_misconfigured:
                raise CannotStart(f"the settings of {child.name} are wrong; it says above which")

    async def _provide(self, client: AdminClient, url: str) -> Ready:
        provisioning = Provisioning(client, self._directory, self._environment, self._say, self._begun_at)
        await provisioning.await_catalog()
        self._say("the catalog of models.dev is there")
        tenant_key = await provisioning.tenant_key()
        demo_url = None
        if not await provisioning.real_providers():
            self._say("no provider has a key here: starting two demo providers")
            demo_url = await provisioning.start_demo(self._demos)
        models, chat_model = await provisioning.models(tenant_key)
        pids: dict[str, Any] = {
            "nats-server": None if self._nats is None else self._nats.pid,
            "postgres": None if self._postgres is None else self._postgres.pid,
        }
        pids |= {service: [child.pid for child in children] for service, children in self._services.items()}
        return Ready(
            url=url,
            admin_key=self._environment["SYNAXIS_ADMIN_KEY"],
            tenant_key=tenant_key,
            nats_url=self._environment["SYNAXIS_NATS_URL"],
            database_url=self._environment["SYNAXIS_DATABASE_URL"],
            monitoring_url=None if self._nats is None else self._nats.monitoring_url,
            providers=await provisioning.providers_on(),
            models=models,
            chat_model=chat_model,
            pids=pids,
            demo_url=demo_url,
        )

    def _children(self) -> list[Child]:
        return [child for children in self._services.values() for child in children] + self._demos

    async def _stop_everything(self) -> None:
        """Gateways first, since they need the others to finish what they have begun; servers last."""
        self._say("stopping")
        grace_s = GRACE_S if self._is_ready else UNUSED_GRACE_S
        await asyncio.gather(*(child.stop(grace_s) for child in self._services["gateway"]))
        await asyncio.gather(*(child.stop(grace_s) for child in self._children()))
        await asyncio.gather(*(server.stop() for server in self._servers))
        if self._port_holder is not None:
            self._port_holder.close()
        self._say("stopped")


def up(options: Options) -> int:
    """Run the system; answers the exit status."""
    try:
        with DataDirectory(options.data_dir) as directory:
            asyncio.run(Up(options, directory, os.environ).run())
    except (CannotStart, DirectoryUnusable) as error:
        print(f"synaxis: {error}", file=sys.stderr)
        return 1
    return 0


def _webhook_secret(kept: Kept) -> str:
    """From what is kept already, so that a directory of an older release needs nothing more."""
    return hmac.new(kept.key_pepper.encode(), b"webhooks", hashlib.sha256).hexdigest()
