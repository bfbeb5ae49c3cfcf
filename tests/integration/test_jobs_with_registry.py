"""Sync and discovery against a real registry: what models.dev and a provider say ends up in its rows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import SecretStr
from tests.support.models_dev import ModelsDevServer
from tests.support.registry import Rig, running_registries
from tests.support.upstream import FakeProvider

from synaxis_common.bus import Bus
from synaxis_common.clock import SystemClock
from synaxis_common.health import Health
from synaxis_common.service import Runtime
from synaxis_common.settings import ServiceSettings
from synaxis_common.tasks import TaskSupervisor
from synaxis_discovery.app import discovering
from synaxis_discovery.settings import DiscoverySettings
from synaxis_sync.app import syncing
from synaxis_sync.settings import SyncSettings

SYNC, DISCOVERY = "models-dev-sync", "provider-discovery"


async def eventually(what: str, check: Callable[[], Awaitable[bool]], within_s: float = 20.0) -> None:
    """Wait until `check` holds, or fail saying that `what` did not come true."""
    try:
        async with asyncio.timeout(within_s):
            while not await check():
                await asyncio.sleep(0.05)
    except TimeoutError:
        pytest.fail(f"not within {within_s} s: {what}")


@asynccontextmanager
async def worker(nats_url: str) -> AsyncIterator[Runtime]:
    """The surroundings of one worker process."""
    bus = Bus(ServiceSettings(nats_url=SecretStr(nats_url)), "worker")
    await bus.connect()
    runtime = Runtime(bus=bus, tasks=TaskSupervisor(), health=Health(), clock=SystemClock())
    try:
        yield runtime
    finally:
        await runtime.tasks.stop()
        await bus.close()


async def runs(rig: Rig, job: str) -> list[dict[str, Any]]:
    """The runs of a job, newest first."""
    reply = await rig.admin("job.runs", job=job)
    assert isinstance(reply.body, dict), reply
    data = reply.body["data"]
    assert isinstance(data, list)
    return [run for run in data if isinstance(run, dict)]


@pytest.fixture
async def rig(fresh_nats_url: str, fresh_database_url: str) -> AsyncIterator[Rig]:
    async with running_registries(fresh_nats_url, fresh_database_url, count=2) as made:
        yield made


async def test_a_sync_fills_the_registry_once_and_a_second_one_finds_nothing_new(
    rig: Rig, fresh_nats_url: str
) -> None:
    async def ended(number: int) -> bool:
        found = await runs(rig, SYNC)
        return len(found) == number and found[0]["status"] == "succeeded"

    async def applied() -> bool:
        names = await rig.database.fetch("SELECT name FROM catalog_source")
        return {"etag/api.json", "etag/models.json"} <= {row["name"] for row in names}

    with ModelsDevServer.of_small_world() as models_dev:
        settings = SyncSettings(models_dev_url=models_dev.url)
        async with (
            worker(fresh_nats_url) as one,
            worker(fresh_nats_url) as two,
            syncing(one, settings),
            syncing(two, settings),
        ):
            await eventually("one of two workers has run the sync", lambda: ended(1))
            await eventually("what it said is applied", applied)
            assert await rig.database.fetchval("SELECT count(*) FROM provider_model") == 3
            assert (await rig.admin("job.run", job=SYNC)).status == "accepted"
            await eventually("a manual run has ended", lambda: ended(2))
    second, first = await runs(rig, SYNC)
    assert (first["trigger"], first["counts"]["provider_models"]) == ("schedule", 3)
    assert (second["trigger"], second["counts"]) == ("manual", {"not_modified": 1})


async def test_a_key_in_discovery_s_environment_switches_a_provider_on_and_its_models_become_available(
    rig: Rig, fresh_nats_url: str
) -> None:
    async def is_on(provider_id: str) -> bool:
        reply = await rig.admin("provider.get", provider=provider_id)
        return isinstance(reply.body, dict) and reply.body.get("is_on") is True

    async def available() -> bool:
        reply = await rig.admin(
            "provider-model.get", provider="alpha", provider_model_id="acme/talker-2-mini"
        )
        return isinstance(reply.body, dict) and reply.body.get("is_available") is True

    keys = {"BETA_API_KEY": "secret-of-beta"}
    with ModelsDevServer.of_small_world() as models_dev:
        async with (
            FakeProvider("alpha", models=["acme/talker-2-mini"]) as provider,
            worker(fresh_nats_url) as one,
            worker(fresh_nats_url) as two,
            syncing(one, SyncSettings(models_dev_url=models_dev.url)),
            discovering(two, DiscoverySettings(discovery_targets_interval_s=0.2), keys),
        ):
            await eventually("beta is on", lambda: is_on("beta"))
            assert not await is_on("alpha")
            body = {"base_url": provider.base_url, "api_key_env": None}
            assert (await rig.admin("provider.put", body, provider="alpha")).status == "ok"
            await eventually("alpha's model is available", available)
            assert await runs(rig, DISCOVERY)
