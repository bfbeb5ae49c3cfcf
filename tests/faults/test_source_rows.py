"""Rows 26 and 27: one wrong word of a provider's list or of models.dev takes nothing away and moves no price.

What the documents themselves may be (cut, endless, of another schema) is tested with the jobs that read them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from tests.support.registry import MODEL, PROVIDERS, Rig, eventually, running_registries

from synaxis_common.contracts.routing import RoutePlan

BOTH: dict[str, str | None] = {"alpha": None, "beta": None}
CONFIRMED_AFTER = timedelta(minutes=1)
MANY = 10


@pytest.fixture
async def served(fresh_nats_url: str, fresh_database_url: str) -> AsyncIterator[Rig]:
    async with running_registries(fresh_nats_url, fresh_database_url, count=2) as rig:
        await rig.catalog(datetime.now(UTC), run=1)
        for provider_id in PROVIDERS:
            await rig.put_provider(provider_id)
            await rig.observe(provider_id, (MODEL,))
        await eventually(lambda: _is(rig, BOTH), "both providers are available")
        yield rig


async def _is(rig: Rig, expected: dict[str, str | None]) -> bool:
    return await rig.available() == expected


async def _prices(rig: Rig, key_hash: str) -> dict[str, Decimal | None]:
    plan = await rig.route(key_hash)
    assert isinstance(plan, RoutePlan)
    return {one.provider_id: one.prices.input for one in plan.candidates if one.prices is not None}


async def test_one_empty_list_changes_nothing_and_a_second_one_confirms_it(served: Rig) -> None:
    start = datetime.now(UTC)
    await served.observe("alpha", (), at=start)
    # What is told after it about the other one is applied after it.
    more = (f"{MODEL}-{number}" for number in range(MANY))
    await served.observe("beta", (MODEL, *more), at=start)
    await eventually(lambda: _lists(served, "beta", MANY + 1), "the long list is applied")
    assert await served.available() == BOTH
    await served.observe("alpha", (), at=start + CONFIRMED_AFTER)
    await eventually(lambda: _is_gone(served, "alpha"), "what two lists lack is gone")


async def _lists(rig: Rig, provider_id: str, models: int) -> bool:
    found = await rig.database.fetchval(
        "SELECT count(*) FROM provider_model WHERE provider_id = $1", provider_id
    )
    return bool(found == models)


async def _is_gone(rig: Rig, provider_id: str) -> bool:
    return (await rig.available())[provider_id] is not None


@pytest.mark.parametrize("price", ["100", "0"], ids=["a thousand times", "nothing"])
async def test_a_price_that_jumps_is_not_in_force_before_an_operator_says_so(served: Rig, price: str) -> None:
    key_hash = await served.new_key("acme")
    before = await _prices(served, key_hash)
    await served.catalog(datetime.now(UTC) + timedelta(days=1), run=2, prices=dict.fromkeys(PROVIDERS, price))
    assert await _prices(served, key_hash) == before
