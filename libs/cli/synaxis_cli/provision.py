"""What a running system needs before anybody can use it: a catalog, a tenant with a key, and a provider."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from synaxis_cli import announce, demo
from synaxis_cli.children import Child, Say
from synaxis_cli.client import AdminClient, AdminError
from synaxis_cli.environment import of_demo
from synaxis_cli.ports import free_port
from synaxis_cli.state import DataDirectory
from synaxis_cli.waiting import CannotStart, until
from synaxis_common import key_variables

CATALOG_TIMEOUT_S = 60.0
KEYS_TIMEOUT_S = 12.0
"""How long providers whose keys are here may take to show their models before we say so and go on."""
DEMO_TIMEOUT_S = 20.0
TENANT = "default"
SYNC_JOB = "models-dev-sync"
_HTTP_UNAUTHORIZED = 401
_HTTP_CONFLICT = 409


class Provisioning:
    """Asks for it through the admin API, as any operator could.

    Every method raises CannotStart, AdminError and what aiohttp's client raises.
    """

    def __init__(
        self,
        client: AdminClient,
        directory: DataDirectory,
        environment: Mapping[str, str],
        say: Say,
        begun: datetime,
    ) -> None:
        """`begun`: when the services were started, or earlier."""
        self._client, self._directory, self._environment = client, directory, environment
        self._say, self._begun = say, begun

    async def await_catalog(self) -> None:
        """Wait until the registry knows what the first sync found; later starts have it already."""
        ended: list[dict[str, Any]] = []

        async def has_ended() -> bool:
            runs = (await self._client.ask("GET", f"/jobs/{SYNC_JOB}/runs"))["data"]
            ended[:] = [run for run in runs if run["status"] != "running"]
            return bool(ended)

        await until("the first sync has ended", has_ended, CATALOG_TIMEOUT_S)
        if any(datetime.fromisoformat(run["finished_at"]) < self._begun for run in ended):
            return
        if ended[0]["error"]:
            self._say(f"sync: {ended[0]['error']}")
        expected = int(ended[0]["counts"].get("providers", 0))

        async def is_applied() -> bool:
            return len(await self._client.all("/providers")) >= expected

        try:
            await until("the registry knows what the sync found", is_applied, CATALOG_TIMEOUT_S)
        except CannotStart as error:
            self._say(f"{error}: going on")

    async def tenant_key(self) -> str:
        """The key that was made at the first start, or, where that is no longer good, a new one."""
        kept = self._directory.read().tenant_key
        if kept is not None:
            answer = await self._client.http("GET", "/v1/models", key=kept)
            if answer.status != _HTTP_UNAUTHORIZED:
                return kept
        try:
            await self._client.ask("POST", "/tenants", {"id": TENANT, "name": "Made by synaxis up"})
        except AdminError as error:
            if error.status != _HTTP_CONFLICT:
                raise
        made = await self._client.ask("POST", f"/tenants/{TENANT}/keys", {"name": "made by synaxis up"})
        key = str(made["key"])
        self._directory.update(tenant_key=key)
        return key

    async def real_providers(self) -> bool:
        """Whether any provider but the demo is on, once discovery has told which keys are here.

        Those that come on are waited for until they were asked for their models, but not for long.
        """
        rows = await self._real_rows()
        hoped = {row["id"] for row in rows if self._may_come_on(row)}
        # On by a key that was here last time; discovery is about to miss it, unless another one has it.
        doubted = {row["id"] for row in rows if row["is_on"]} - hoped
        waited: set[str] = set()

        async def settled() -> bool:
            now = await self._real_rows()
            on = {row["id"] for row in now if row["is_on"]}
            polled = {row["id"] for row in now if row["last_poll_at"]}
            waited.clear()
            waited.update(hoped - (on & polled), doubted & on)
            return not waited

        try:
            await until("discovery has told of the keys", settled, KEYS_TIMEOUT_S)
        except CannotStart:
            self._say(f"nothing heard yet of {', '.join(sorted(waited))}: going on")
        for row in await self._real_rows():
            if row["is_on"] and row["last_poll_at"] and not row["models_available"]:
                self._say(f"{row['id']} offers no model: {row['last_poll_outcome']}")
        if not hoped and not waited:
            return False
        for row in await self._client.all("/providers"):
            if row["id"] in demo.FLAVOURS:
                await self._client.ask("DELETE", f"/providers/{row['id']}")
        return True

    async def _real_rows(self) -> list[Any]:
        return [row for row in await self._client.all("/providers") if row["id"] not in demo.FLAVOURS]

    def _may_come_on(self, row: Mapping[str, Any]) -> bool:
        """Whether a provider needs no key, or has one here that discovery will tell of."""
        if row["is_on"]:
            return not row["api_key_envs"] or any(name in self._environment for name in row["api_key_envs"])
        return row["off_reason"] == "no_key" and any(
            name in self._environment and key_variables.switches_on(name) for name in row["api_key_envs"]
        )

    async def start_demo(self, children: list[Child]) -> str:
        """Start both demo providers and have them found; answers the root of the cheaper one.

        What is started is added to `children` at once, for whoever stops them.
        """
        kept = self._directory.read().demo_ports
        ports = kept if len(kept) == len(demo.FLAVOURS) else tuple(free_port() for _ in demo.FLAVOURS)
        self._directory.update(demo_ports=ports)
        for flavour, port in zip(demo.FLAVOURS.values(), ports, strict=True):
            arguments = ("synaxis_cli.demo", of_demo(self._environment), self._say, flavour.name, str(port))
            children.append(Child(flavour.name, *arguments))
        roots = {name: f"http://127.0.0.1:{port}" for name, port in zip(demo.FLAVOURS, ports, strict=True)}
        await asyncio.gather(*(child.start() for child in children))
        await asyncio.gather(*(self._put_demo(name, root) for name, root in roots.items()))

        async def found() -> bool:
            # Asked of whoever routes, whose view may be a moment behind the stored state.
            plan = await self._client.ask("POST", "/route", {"model": demo.MODEL})
            return {one["provider_id"] for one in plan["candidates"]} >= set(demo.FLAVOURS)

        await until("the demo providers are found", found, DEMO_TIMEOUT_S)
        return roots[demo.THRIFTY.name]

    async def _put_demo(self, name: str, root: str) -> None:
        async def serves() -> bool:
            return await self._client.is_up(f"{root}/v1/models")

        await until(f"{name} serves", serves, DEMO_TIMEOUT_S)
        body = {"base_url": f"{root}/v1", "kind": "openai", "name": name, "api_key_env": None}
        await self._client.ask("PUT", f"/providers/{name}", body)

    async def providers_on(self) -> tuple[str, ...]:
        """The ids of the providers that are on, sorted."""
        return tuple(sorted(row["id"] for row in await self._client.all("/providers") if row["is_on"]))

    async def models(self, tenant_key: str) -> tuple[int, str | None]:
        """How many models the key may use now, and one to try."""
        answer = await self._client.http("GET", "/v1/models", key=tenant_key)
        rows = answer.body["data"] if answer.status == 200 else []
        return len(rows), announce.chat_model(rows)
