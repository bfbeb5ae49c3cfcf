"""The system under test: `synaxis up` with our providers and tenants."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos.world import MODELS, PRICES, PROVIDER_KEYS, PROVIDER_LIMITS, Limit, Tenant
from tests.support.models_dev import ModelsDevServer, small_world
from tests.support.system import System

GATEWAYS, REGISTRIES = 3, 2
AVAILABLE_WITHIN_S = 30.0


@dataclass
class World:
    """A running system that is ready for the load. `keys` and `key_ids` are by tenant."""

    system: System
    journal: Path
    keys: dict[str, list[str]]
    key_ids: dict[str, list[str]]

    @property
    def folder(self) -> Path:
        """Where logs, spools and the bus' store are."""
        return self.system.log.parent

    @property
    def secrets(self) -> list[str]:
        """What must be nowhere."""
        tenant_keys = [key for keys in self.keys.values() for key in keys]
        return [*tenant_keys, *(key for _, key in PROVIDER_KEYS.values())]


class Refused(Exception):
    """The admin API did not take what the run needs."""


@asynccontextmanager
async def prepared(
    tenants: tuple[Tenant, ...], seed: int, folder: Path, more_environment: Mapping[str, str]
) -> AsyncIterator[World]:
    """Start everything; `folder` is for what outlives the system."""
    journal = folder / "journal.jsonl"
    async with _auditor(journal, seed) as port:
        api, models = small_world()
        one_provider = json.dumps({"gamma": api["gamma"]}).encode()
        with ModelsDevServer(one_provider, json.dumps(models).encode()) as models_dev:
            environment = {
                "SYNAXIS_MODELS_DEV_URL": models_dev.url,
                "SYNAXIS_DISCOVERY_SCHEDULE": "1h",
                "SYNAXIS_KEY_VARIABLES": ",".join(variable for variable, _ in PROVIDER_KEYS.values()),
                **dict(PROVIDER_KEYS.values()),
                **more_environment,
            }
            counts = ("--gateways", str(GATEWAYS), "--registries", str(REGISTRIES))
            async with System.started(environment, *counts) as system:
                world = World(system, journal, {}, {})
                await _providers(system, port)
                await asyncio.gather(*(_tenant(world, tenant) for tenant in tenants))
                yield world


@asynccontextmanager
async def _auditor(journal: Path, seed: int) -> AsyncIterator[int]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.chaos.auditor", "--journal", str(journal), "--seed", str(seed)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        yield int(json.loads(await process.stdout.readline())["port"])
    finally:
        process.kill()
        await process.communicate()


async def _ask(system: System, method: str, path: str, body: Any = None) -> Any:
    answer = await system.admin(method, path, body)
    if answer.status >= 300:
        raise Refused(f"{method} {path} {body}: {answer.status} {answer.body}")
    return answer.body


async def _providers(system: System, port: int) -> None:
    for provider, (variable, _) in PROVIDER_KEYS.items():
        body = {
            "base_url": f"http://127.0.0.1:{port}/{provider}/v1",
            "kind": "openai",
            "api_key_env": variable,
        }
        await _ask(system, "PUT", f"/providers/{provider}", body)
    deadline = time.monotonic() + AVAILABLE_WITHIN_S
    while True:
        rows = [
            (row["provider_id"], row["global_model_id"])
            for model in MODELS
            for row in (await system.admin("GET", f"/provider-models?model={model}&available=true")).body.get(
                "data", []
            )
        ]
        if set(rows) >= PRICES.keys():
            break
        if time.monotonic() > deadline:
            raise Refused(f"the models did not become available: only {rows}")
        await asyncio.sleep(0.1)
    for (provider, model), price in PRICES.items():
        patch: dict[str, Any] = {
            "input_price": str(price.input),
            "output_price": str(price.output),
            "context_window": 32_000,
            "max_output": 4_000,
        }
        if (provider, model) in PROVIDER_LIMITS:
            patch["rate_limit_rpm"] = PROVIDER_LIMITS[provider, model]
        await _ask(system, "PATCH", f"/provider-models/{provider}/{model}", patch)


async def _tenant(world: World, tenant: Tenant) -> None:
    system, name = world.system, tenant.name
    await _ask(system, "POST", "/tenants", {"id": name, "name": name})
    for model, limit in tenant.limits.items():
        await _ask(system, "PUT", f"/tenants/{name}/limits/{model}", limit.body())
    world.keys[name], world.key_ids[name] = [], []
    for number, limit in enumerate(tenant.key_limits):
        made = await _ask(system, "POST", f"/tenants/{name}/keys", {"name": str(number)})
        world.keys[name].append(made["key"])
        world.key_ids[name].append(made["key_id"])
        if limit != Limit():
            await _ask(system, "PUT", f"/tenants/{name}/keys/{made['key_id']}/limits", limit.body())
