"""Row 33: a whole fleet starts cold, and all its clients want the same model of the same tenant at once."""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import aiohttp
import pytest
from nats.aio.msg import Msg
from tests.support.gateway import PEPPER as GATEWAY_PEPPER
from tests.support.gateway import Rig as Gateway
from tests.support.gateway import running_gateway
from tests.support.registry import MODEL, PEPPER, Rig, eventually, running_registries
from tests.support.stopwatch import Stopwatch
from tests.support.upstream import FakeProvider

from synaxis_common import ids, subjects
from synaxis_common.contracts.routing import RouteRequest
from synaxis_gateway.admission.account import HORIZON_S

GATEWAYS = 20
REQUESTS_EACH = 15
ANSWERED_WITHIN_S = 10.0
"""The matrix says 1 s for what the registry does; here all of it runs in one process on two cores."""
ASK = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}


@dataclass(frozen=True)
class Answered:
    """What a client got, and when: by the clock on the wall, and by a stopwatch."""

    status: int
    took_s: float
    stopped_s: float


async def key_of_a_limited_tenant(rig: Rig) -> str:
    assert PEPPER == GATEWAY_PEPPER
    await rig.admin("tenant.create", {"id": "acme", "name": "Acme"})
    await rig.admin("limit.put", {"allowed_rpm": 100_000}, tenant="acme", model=MODEL)
    made = ids.new_tenant_key()
    body = {"name": "", "key_id": made.key_id, "key_hash": ids.key_hash(made.key, PEPPER)}
    assert (await rig.admin("key.create", body, tenant="acme")).status == "created"
    return made.key


@pytest.mark.timeout(120)
async def test_each_gateway_asks_once_for_all_its_clients_and_everybody_is_answered(
    fresh_nats_url: str, fresh_database_url: str
) -> None:
    questions: dict[str, set[UUID]] = defaultdict(set)

    async def asked(message: Msg) -> None:
        request = RouteRequest.model_validate_json(message.data)
        assert request.lease is not None
        questions[request.lease.gateway_id].add(request.request_id)

    async with (
        FakeProvider("alpha", models=[MODEL]) as provider,
        running_registries(fresh_nats_url, fresh_database_url, count=2) as rig,
        AsyncExitStack() as stack,
    ):
        await rig.catalog(datetime.now(UTC), run=1)
        put = {"base_url": provider.base_url, "api_key_env": None}
        assert (await rig.admin("provider.put", put, provider="alpha")).status == "ok"
        await rig.observe("alpha", (MODEL,))

        async def is_available() -> bool:
            return (await rig.available()).get("alpha", "not there") is None

        await eventually(is_available, "the model is available")
        key = await key_of_a_limited_tenant(rig)
        await rig.bus.client.subscribe(subjects.ROUTE, cb=asked)
        gateways = [
            await stack.enter_async_context(running_gateway(fresh_nats_url, registry=False))
            for _ in range(GATEWAYS)
        ]
        session = await stack.enter_async_context(
            aiohttp.ClientSession(
                headers={"Authorization": f"Bearer {key}"}, connector=aiohttp.TCPConnector(limit=0)
            )
        )

        async def post(gateway: Gateway) -> Answered:
            begun, stopwatch = time.monotonic(), Stopwatch()
            url = f"{gateway.url}/v1/chat/completions"
            async with session.post(url, data=json.dumps(ASK)) as answer:
                await answer.read()
                return Answered(answer.status, time.monotonic() - begun, stopwatch.s())

        answers = await asyncio.gather(*(post(gateway) for gateway in gateways for _ in range(REQUESTS_EACH)))
    assert {answer.status for answer in answers} == {200}
    assert max(answer.stopped_s for answer in answers) < ANSWERED_WITHIN_S
    assert len(provider.calls) == GATEWAYS * REQUESTS_EACH
    assert len(questions) == GATEWAYS
    # One for the plan, and more permits in the background; these again as long as it takes.
    assert max(map(len, questions.values())) <= 3 + max(answer.took_s for answer in answers) // HORIZON_S
