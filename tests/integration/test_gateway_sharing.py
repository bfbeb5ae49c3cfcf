"""What one gateway sees of a candidate, all others act on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from tests.support.gateway import Rig, candidate, post, running_gateway
from tests.support.upstream import Behaviour, FakeProvider

from synaxis_common import subjects
from synaxis_common.bus import Bus
from synaxis_common.contracts.health import Seen, Sighting, Sightings
from synaxis_common.settings import ServiceSettings
from synaxis_gateway.dispatch.cooldown import LONGEST_S, TRIP_AFTER

ASK: Any = {"model": "test-model", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
async def cheap() -> AsyncIterator[FakeProvider]:
    async with FakeProvider("cheap") as provider:
        yield provider


@pytest.fixture
async def dear() -> AsyncIterator[FakeProvider]:
    async with FakeProvider("dear") as provider:
        yield provider


@pytest.fixture
async def fleet(nats_url: str, cheap: FakeProvider, dear: FakeProvider) -> AsyncIterator[list[Rig]]:
    """Three gateways on one bus."""
    async with AsyncExitStack() as stack:
        gateways = [running_gateway(nats_url, candidate(cheap), candidate(dear)) for _ in range(3)]
        yield [await stack.enter_async_context(gateway) for gateway in gateways]


async def answered_by(rig: Rig) -> str:
    status, headers, _ = await post(rig, ASK)
    assert status == 200
    return str(headers["x-synaxis-provider"])


async def test_a_dead_candidate_costs_the_whole_fleet_at_most_five_requests_and_is_back_within_ten_seconds(
    fleet: list[Rig], cheap: FakeProvider
) -> None:
    cheap.behaviour = Behaviour(status=500)
    for number in range(30):
        assert await answered_by(fleet[number % 3]) == "dear"
        await asyncio.sleep(0.015)  # a message of one gateway has come to the others
    assert TRIP_AFTER <= len(cheap.calls) <= 5
    cheap.behaviour = Behaviour()
    loop = asyncio.get_running_loop()
    well_since = loop.time()
    while {await answered_by(rig) for rig in fleet} != {"cheap"}:
        assert loop.time() - well_since < LONGEST_S + 2, "back within 10 s"
        await asyncio.sleep(0.02)


async def test_a_failure_now_and_then_moves_nobody(fleet: list[Rig], cheap: FakeProvider) -> None:
    for number in range(30):
        if number % 10 == 0:
            cheap.next_behaviours.append(Behaviour(status=500))
        expected = "dear" if number % 10 == 0 else "cheap"
        assert await answered_by(fleet[number % 3]) == expected


async def test_what_cannot_be_understood_is_left_alone(
    nats_url: str, fleet: list[Rig], cheap: FakeProvider
) -> None:
    bus = Bus(ServiceSettings(nats_url=nats_url), "stranger")
    await bus.connect()
    await bus.client.publish(subjects.SIGHTINGS, b'{"gateway_id": "x"}')
    seen = Sighting(
        provider_id="cheap", provider_model_id="cheap/model", seen=Seen.FAILED, is_enough=True, cool_down_s=60
    )
    await bus.publish(subjects.SIGHTINGS, Sightings(gateway_id="another", sightings=(seen,)))
    await bus.client.flush()
    async with asyncio.timeout(5):
        for rig in fleet:
            while await answered_by(rig) != "dear":
                await asyncio.sleep(0.01)
    await bus.close()
