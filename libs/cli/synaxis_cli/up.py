"""`synaxis up`: the whole system on this machine, from servers to services, until it is told to stop."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from synaxis_cli import demo
from synaxis_cli.children import Child
from synaxis_cli.client import AdminClient, AdminError
from synaxis_cli.embedded.nats import NatsServer
from synaxis_cli.embedded.postgres import PostgresServer
from synaxis_cli.environment import of_service
from synaxis_cli.state import DataDirectory, Kept
from synaxis_common import key_variables

READY_TIMEOUT_S = 60.0
KEYS_TIMEOUT_S = 12.0
"""How long providers whose keys are here may take to show their models before we say so and go on."""
TENANT = "default"
SYNC_JOB = "models-dev-sync"


class CannotStart(Exception):
    """What keeps the system from running, for the operator to read."""


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
        self._begun = time.monotonic()
        self._nats: NatsServer | None = None
        self._postgres: PostgresServer | None = None
        self._services: dict[str, list[Child]] = {"registry": [], "gateway": [], "sync": [], "discovery": []}
        self._demos: list[Child] = []
        self._port_holder: socket.socket | None = None
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT. Raises CannotStart."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        try:
            starting = asyncio.create_task(self._start())
            stopping = asyncio.create_task(self._stop.wait())
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                starting.cancel()
                with suppress(asyncio.CancelledError):
                    await starting
                return
            starting.result()
            await stopping
        finally:
            await self._stop_everything()

    def _on_signal(self) -> None:
        if self._stop.is_set():
            self._say("killed")
            for child in self._children():
                child.kill()
        self._stop.set()

    def _say(self, text: str) -> None:
        print(f"{time.monotonic() - self._begun:7.1f} s  {text}", file=sys.stderr, flush=True)

    async def _start(self) -> None:
        kept = self._directory.read()
        self._environment.setdefault("SYNAXIS_ADMIN_KEY", kept.admin_key)
        self._environment.setdefault("SYNAXIS_KEY_PEPPER", kept.key_pepper)
        port = self._take_port()
        await self._start_servers(kept)
        await self._start_services(port)
        url = f"http://127.0.0.1:{port}"
        admin_key = self._environment["SYNAXIS_ADMIN_KEY"]
        async with AdminClient(url, admin_key) as client:
            await self._until("gateway and registry answer", lambda: self._answers(client), READY_TIMEOUT_S)
            await self._await_catalog(client)
            tenant_key = await self._tenant_key(client, kept)
            providers = await self._providers(client)
            models = await self._models(client, tenant_key)
            self._announce(url, admin_key, tenant_key, providers, models)

    def _take_port(self) -> int:
        """Hold the gateways' port for them, so that nobody else's server is taken for ours."""
        wanted = int(self._environment.get("SYNAXIS_HTTP_PORT", "8080"))
        host = self._environment.setdefault("SYNAXIS_HTTP_HOST", "127.0.0.1")
        probe = socket.socket()
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, wanted))
            port = int(probe.getsockname()[1])
        except OSError as error:
            raise CannotStart(
                f"port {wanted} is taken: set SYNAXIS_HTTP_PORT to another one (0 picks a free one)"
            ) from error
        finally:
            probe.close()
        holder = socket.socket()
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind((host, port))
        self._port_holder = holder
        return port

    async def _start_servers(self, kept: Kept) -> None:
        if "SYNAXIS_NATS_URL" not in self._environment:
            self._nats = NatsServer(self._directory.path / "nats", kept.nats_port)
            self._start_on_free_port(self._nats, lambda: NatsServer(self._directory.path / "nats"))
            self._environment["SYNAXIS_NATS_URL"] = self._nats.url
            self._directory.update(nats_port=int(self._nats.url.rpartition(":")[2]))
            self._say(f"nats-server at {self._nats.url}")
        if "SYNAXIS_DATABASE_URL" not in self._environment:
            folder = self._directory.path / "postgres"
            port = kept.postgres_port if _is_free(kept.postgres_port) else 0
            self._postgres = PostgresServer(folder, port)
            try:
                self._postgres.start()
            except RuntimeError as error:
                raise CannotStart(str(error)) from error
            url = self._postgres.url()
            self._environment["SYNAXIS_DATABASE_URL"] = url
            self._directory.update(postgres_port=int(url.rpartition(":")[2].partition("/")[0]))
            self._say(f"Postgres at 127.0.0.1:{url.rpartition(':')[2].partition('/')[0]}")

    def _start_on_free_port(self, server: NatsServer, anywhere: Callable[[], NatsServer]) -> None:
        try:
            server.start()
        except RuntimeError:
            self._nats = anywhere()  # the port it had last time is taken now
            try:
                self._nats.start()
            except RuntimeError as error:
                raise CannotStart(str(error)) from error

    async def _start_services(self, port: int) -> None:
        self._environment |= {
            "SYNAXIS_HTTP_PORT": str(port),
            "SYNAXIS_REUSE_PORT": "true",
            "SYNAXIS_HEALTH_PORT": "0",
        }
        self._environment.setdefault("SYNAXIS_ALLOW_PRIVATE_PROVIDERS", "true")
        self._environment.setdefault("SYNAXIS_LOG_LEVEL", "WARNING")
        counts = {"registry": self._options.registries, "gateway": self._options.gateways}
        for service, children in self._services.items():
            for number in range(1, counts.get(service, 1) + 1):
                name = service if counts.get(service, 1) == 1 else f"{service} {number}"
                environment = of_service(service, self._environment)
                children.append(Child(name, f"synaxis_{service}", environment, self._say))
        await asyncio.gather(*(child.start() for children in self._services.values() for child in children))
        self._say("registry, gateway, sync and discovery started")

    async def _answers(self, client: AdminClient) -> bool:
        if (await client.http("GET", "/readyz")).status != 200:
            return False
        await client.ask("GET", "/providers?limit=1")
        return True

    async def _await_catalog(self, client: AdminClient) -> None:
        """Wait until the registry knows what models.dev lists; after the first start it does already."""
        known = len(await client.all("/providers"))
        if known == 0:
            await self._until("the first sync has ended", lambda: self._sync_ended(client), READY_TIMEOUT_S)
            run = (await client.ask("GET", f"/jobs/{SYNC_JOB}/runs"))["data"][0]
            if run["error"]:
                self._say(f"sync: {run['error']}")
            expected = run["counts"].get("providers", 0)

            async def applied() -> bool:
                return len(await client.all("/providers")) >= expected

            await self._until("the catalog is in the registry", applied, READY_TIMEOUT_S)
            known = len(await client.all("/providers"))
        self._say(f"{known} providers known")

    async def _sync_ended(self, client: AdminClient) -> bool:
        runs = (await client.ask("GET", f"/jobs/{SYNC_JOB}/runs"))["data"]
        return bool(runs) and runs[0]["status"] != "running"

    async def _tenant_key(self, client: AdminClient, kept: Kept) -> str:
        if kept.tenant_key is not None:
            answer = await client.http("GET", "/v1/models", key=kept.tenant_key)
            if answer.status == 200:
                return kept.tenant_key
        try:
            await client.ask("POST", "/tenants", {"id": TENANT, "name": "Made by synaxis up"})
        except AdminError as error:
            if error.status != 409:
                raise
        made = await client.ask("POST", f"/tenants/{TENANT}/keys", {"name": "made by synaxis up"})
        key = str(made["key"])
        self._directory.update(tenant_key=key)
        return key

    async def _providers(self, client: AdminClient) -> list[str]:
        """The providers that are on; with none, the demo providers are started."""
        rows = await client.all("/providers")
        hoped = [row for row in rows if row["id"] not in demo.FLAVOURS and self._may_come_on(row)]
        if hoped:

            async def shown() -> bool:
                on = [row for row in await client.all("/providers") if row["is_on"] and row["last_poll_at"]]
                return {row["id"] for row in on} >= {row["id"] for row in hoped}

            with suppress(CannotStart):
                await self._until("providers with a key show their models", shown, KEYS_TIMEOUT_S)
            for name in demo.FLAVOURS:
                if any(row["id"] == name and row["is_on"] for row in rows):
                    await client.ask("DELETE", f"/providers/{name}")
        else:
            await self._start_demo(client)
        return sorted(row["id"] for row in await client.all("/providers") if row["is_on"])

    def _may_come_on(self, row: Mapping[str, Any]) -> bool:
        """Whether a provider is on, or will be once discovery has told of its key."""
        has_key = any(
            name in self._environment for name in row["api_key_envs"] if key_variables.switches_on(name)
        )
        return bool(row["is_on"] or (row["off_reason"] == "no_key" and has_key))

    async def _start_demo(self, client: AdminClient) -> None:
        self._say("no provider has a key here: starting two demo providers")
        for flavour in demo.FLAVOURS.values():
            port = _free_port()
            environment = of_service("sync", self._environment)
            child = Child(flavour.name, "synaxis_cli.demo", environment, self._say, flavour.name, str(port))
            self._demos.append(child)
            await child.start()
            base_url = f"http://127.0.0.1:{port}/v1"

            async def serves(url: str = f"{base_url}/models") -> bool:
                return await client.is_up(url)

            await self._until(f"{flavour.name} serves", serves, READY_TIMEOUT_S)
            body = {"base_url": base_url, "kind": "openai", "name": flavour.name, "api_key_env": None}
            await client.ask("PUT", f"/providers/{flavour.name}", body)

        async def available() -> bool:
            rows = await client.all("/provider-models?available=true")
            return {row["provider_id"] for row in rows} >= set(demo.FLAVOURS)

        await self._until("the demo providers are found", available, READY_TIMEOUT_S)

    async def _models(self, client: AdminClient, tenant_key: str) -> list[Any]:
        answer = await client.http("GET", "/v1/models", key=tenant_key)
        return list(answer.body["data"]) if answer.status == 200 else []

    async def _until(self, what: str, holds: Callable[[], Awaitable[bool]], timeout: float) -> None:
        try:
            async with asyncio.timeout(timeout):
                while True:
                    with suppress(aiohttp.ClientError, AdminError, ConnectionError):
                        if await holds():
                            self._say(what)
                            return
                    await asyncio.sleep(0.1)
        except TimeoutError as error:
            raise CannotStart(f"not within {timeout:.0f} s: {what}; the log above may say why") from error

    def _announce(
        self, url: str, admin_key: str, tenant_key: str, providers: list[str], models: list[Any]
    ) -> None:
        if self._options.as_json:
            pids: dict[str, Any] = {
                "nats-server": None if self._nats is None else self._nats.pid,
                "postgres": None if self._postgres is None else self._postgres.pid,
            }
            pids |= {
                service: [child.pid for child in children] for service, children in self._services.items()
            }
            line = {
                "url": url,
                "admin_key": admin_key,
                "tenant_key": tenant_key,
                "nats_url": self._environment["SYNAXIS_NATS_URL"],
                "database_url": self._environment["SYNAXIS_DATABASE_URL"],
                "monitoring_url": None if self._nats is None else self._nats.monitoring_url,
                "providers": providers,
                "models": len(models),
                "pids": pids,
            }
            print(json.dumps(line), flush=True)
            return
        model = models[0]["id"] if models else "MODEL"
        print(
            f"""
Synaxis is ready.

  URL         {url}/v1
  admin key   {admin_key}
  tenant key  {tenant_key}
  providers   {", ".join(providers) or "none"}
  models      {len(models)}

Try it:

  curl {url}/v1/chat/completions -H "Authorization: Bearer {tenant_key}" \\
    -H "Content-Type: application/json" \\
    -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello"}}]}}'
""",
            flush=True,
        )
        if self._demos:
            root = self._demo_url()
            print(
                f"""These are demo providers, not language models. Export NVIDIA_API_KEY, HF_TOKEN or any other
variable that models.dev names, and start again. To see a failover, make the cheaper one fail:

  curl -X POST {root}/demo/fail -d '{{"mode": "500"}}'

Ctrl-C stops everything.
""",
                flush=True,
            )

    def _demo_url(self) -> str:
        child = next(child for child in self._demos if child.name == demo.THRIFTY.name)
        return f"http://127.0.0.1:{child.arguments[-1]}"

    def _children(self) -> list[Child]:
        return [child for children in self._services.values() for child in children] + self._demos

    async def _stop_everything(self) -> None:
        """Gateways first, since they need the others to finish what they have begun; servers last."""
        self._say("stopping")
        for names in (("gateway",), ("sync", "discovery"), ("registry",)):
            await asyncio.gather(*(child.stop() for name in names for child in self._services[name]))
        await asyncio.gather(*(child.stop() for child in self._demos))
        for server in (self._postgres, self._nats):
            if server is not None:
                await asyncio.to_thread(server.stop)
        if self._port_holder is not None:
            self._port_holder.close()
        self._say("stopped")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def up(options: Options) -> int:
    """Run the system; answers the exit status."""
    with DataDirectory(options.data_dir) as directory:
        try:
            asyncio.run(Up(options, directory, os.environ).run())
        except CannotStart as error:
            print(f"synaxis: {error}", file=sys.stderr)
            return 1
    return 0
