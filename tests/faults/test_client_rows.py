"""Rows 28, 29 and 30 of the fault matrix: clients that send nothing, clients that leave, rights that end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, Final

import aiohttp
import pytest
import pytest_asyncio
from tests.support.models_dev import ModelsDevServer
from tests.support.registry import eventually
from tests.support.system import System
from tests.support.upstream import Behaviour, FakeProvider

MODEL: Final = "talker-2-mini"
ASK: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}
IDLE: Final = 1_000
LOOKS: Final = 12
"""Requests, each on a connection of its own, that see every gateway of two in all but one run of 2,000."""
EFFECTIVE_WITHIN_S: Final = 5.0
"""The matrix says 1 s; a slow machine may take five times as long."""

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(90)]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def provider() -> AsyncIterator[FakeProvider]:
    async with FakeProvider("alpha", models=["acme/talker-2-mini"]) as provider:
        yield provider


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def system(provider: FakeProvider) -> AsyncIterator[System]:
    with ModelsDevServer.of_small_world() as models_dev:
        environment = {"SYNAXIS_MODELS_DEV_URL": models_dev.url}
        async with System.started(environment, "--gateways", "2", "--registries", "2") as system:
            body = {"base_url": provider.base_url, "kind": "openai", "api_key_env": None}
            assert (await system.admin("PUT", "/providers/alpha", body)).status == 200

            async def is_served() -> bool:
                found = await system.admin("GET", f"/provider-models?model={MODEL}&available=true")
                return bool(found.body["data"])

            await eventually(is_served, "the model is served")
            yield system


@pytest_asyncio.fixture(loop_scope="module")
async def mine(system: System, provider: FakeProvider) -> dict[str, str]:
    """A tenant of the test's own and its key, while the provider is well."""
    provider.behaviour = Behaviour()
    tenant = f"tenant-{len((await system.admin('GET', '/tenants')).body['data'])}"
    await system.admin("POST", "/tenants", {"id": tenant, "name": tenant})
    made = await system.admin("POST", f"/tenants/{tenant}/keys", {"name": ""})
    return {"tenant": tenant, "key": made.body["key"], "key_id": made.body["key_id"]}


async def statuses(system: System, key: str) -> set[int]:
    """What clients get at all gateways, under load as it were."""
    asked = (system.http("POST", "/v1/chat/completions", json.dumps(ASK).encode(), key) for _ in range(LOOKS))
    return {answer.status for answer in await asyncio.gather(*asked)}


async def used(system: System, tenant: str) -> dict[str, Any]:
    return dict((await system.admin("GET", f"/usage?tenant={tenant}")).body["data"][0])


async def test_row_28_connections_that_send_nothing_keep_nobody_from_being_served(
    system: System, mine: dict[str, str]
) -> None:
    host, port = system.url.removeprefix("http://").split(":")
    async with AsyncExitStack() as stack:
        for _ in range(IDLE):
            _, writer = await asyncio.open_connection(host, int(port))
            stack.callback(writer.close)
        async with asyncio.timeout(5):
            assert (await system.http("GET", "/healthz", key=None)).status == 200
            assert await statuses(system, mine["key"]) == {200}


@pytest.mark.parametrize("stream", [False, True], ids=["before the answer", "in the midst of it"])
async def test_row_29_a_client_that_leaves_ends_its_request_and_what_was_used_is_in_the_ledger(
    system: System, provider: FakeProvider, mine: dict[str, str], stream: bool
) -> None:
    provider.behaviour = Behaviour(stall_after=2) if stream else Behaviour(hang=True)
    number = len(provider.calls) + 1
    async with aiohttp.ClientSession() as session:
        asking = asyncio.create_task(_read_some(session, system, mine["key"], stream=stream))
        call = await provider.wait_for_call(number)
        if stream:
            assert await asking
        else:
            asking.cancel()
    async with asyncio.timeout(5):
        await call.client_left.wait()

    async def is_booked() -> bool:
        return bool((await used(system, mine["tenant"]))["requests"])

    await eventually(is_booked, "the request is in the ledger")
    found = await used(system, mine["tenant"])
    assert int(found["requests"]) == 1
    assert int(found["input_tokens"]) > 0


async def _read_some(session: aiohttp.ClientSession, system: System, key: str, *, stream: bool) -> bytes:
    body, headers = {**ASK, "stream": stream}, {"Authorization": f"Bearer {key}"}
    async with session.post(f"{system.url}/v1/chat/completions", json=body, headers=headers) as answer:
        return await answer.content.readany()


async def revoke(system: System, mine: dict[str, str]) -> None:
    await system.admin("DELETE", f"/tenants/{mine['tenant']}/keys/{mine['key_id']}")


async def end_budget(system: System, mine: dict[str, str]) -> None:
    await system.admin("PUT", f"/tenants/{mine['tenant']}/limits/*", {"monthly_budget_usd": "0"})


async def forbid(system: System, mine: dict[str, str]) -> None:
    await system.admin("PUT", f"/tenants/{mine['tenant']}/limits/{MODEL}", {"allowed": False})


@pytest.mark.parametrize(
    ("end", "status"), [(revoke, 401), (end_budget, 429), (forbid, 403)], ids=["key", "budget", "model"]
)
async def test_row_30_a_right_that_ends_has_ended_at_every_gateway_within_a_moment(
    system: System,
    mine: dict[str, str],
    end: Callable[[System, dict[str, str]], Awaitable[None]],
    status: int,
) -> None:
    assert await statuses(system, mine["key"]) == {200}
    await end(system, mine)

    async def is_effective() -> bool:
        return await statuses(system, mine["key"]) == {status}

    await eventually(is_effective, f"every gateway answers {status}", within_s=EFFECTIVE_WITHIN_S)
