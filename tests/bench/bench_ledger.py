"""How many call reports a second one registry takes from JetStream into Postgres, and what each costs."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from tests.bench.bench_events import Subscriber, poll, settle_in, tell
from tests.bench.registry_alone import Alone, registry_alone, run
from tests.support.registry import MODEL, Rig, eventually, report

from synaxis_common import ids, subjects
from synaxis_common.contracts.leases import LeaseAsk
from synaxis_common.contracts.routing import RoutePlan
from synaxis_common.contracts.usage import CallReport, join_reports

REPORTS_A_MESSAGE = 60
"""What a gateway gathers in 5 ms at 12,000 requests a second."""
TENANTS = 10
CALLS_A_LEASE = 100
MODELS = 1_000
AT_MOST = 30_000
SECONDS = 3.0


async def measure() -> dict[str, Any]:
    """Reports of attempts at one endpoint, or spread over 200; then events of models that change at once.

    Tenants have budgets, and each call drew on a lease.
    """
    found: dict[str, Any] = {}
    async with registry_alone() as alone:
        plans = await _plans(alone.rig)
        for endpoints in (1, 200):
            half, plans = plans[: AT_MOST // CALLS_A_LEASE], plans[AT_MOST // CALLS_A_LEASE :]
            told = await _rate(alone, half, endpoints)
            found[f"with_{endpoints}_endpoints"] = told
        found["events_per_s"] = await _events(alone.rig)
    return found


async def _rate(alone: Alone, plans: list[RoutePlan], endpoints: int) -> dict[str, float]:
    with alone.held_up():
        sent = await _fill(alone.rig, plans, endpoints)
        before, cpu, begun = await _lines(alone.rig), alone.cpu(), time.perf_counter()
    await asyncio.sleep(SECONDS)
    with alone.held_up():
        took, used = time.perf_counter() - begun, alone.cpu().since(cpu)
        done = await _lines(alone.rig) - before

    async def are_all_there() -> bool:
        return await _lines(alone.rig) == before + sent

    await eventually(are_all_there, "all reports are in the ledger", within_s=60)
    if done == sent:
        raise RuntimeError("too few reports for a machine this fast: raise AT_MOST")
    return {
        "reports_per_s": round(done / took),
        "registry_us": round(used.registry / done * 1e6, 1),
        "postgres_us": round(used.postgres / done * 1e6, 1),
    }


async def _events(rig: Rig) -> int:
    """How many events a second are with a subscriber, of models whose prices one poll has changed."""
    subscriber = Subscriber()
    await rig.bus.client.subscribe(f"{subjects.EVENTS}.model.repriced.>", cb=subscriber.take)
    await settle_in(rig, MODELS)
    begun = time.perf_counter()
    await tell(rig, poll(MODELS, Decimal("0.15")))
    await subscriber.wait_for(MODELS)
    return round(MODELS / (time.perf_counter() - begun))


async def _lines(rig: Rig) -> int:
    found: int = await rig.database.fetchval("SELECT coalesce(sum(requests), 0)::bigint FROM usage_day")
    return found


async def _plans(rig: Rig) -> list[RoutePlan]:
    """A plan with a lease for every `CALLS_A_LEASE`."""
    plans: list[RoutePlan] = []
    for number in range(TENANTS):
        limit = {"monthly_budget_usd": "1000000", "allowed_rpm": 100_000_000}
        key_hash = await rig.new_limited_key(f"tenant-{number}", "*", limit)
        for _ in range(2 * AT_MOST // CALLS_A_LEASE // TENANTS):
            lease = LeaseAsk(lease_id=ids.uuid7(), gateway_id="bench", permits=CALLS_A_LEASE)
            plan = await rig.route(key_hash, MODEL, lease=lease, input_tokens=500, max_output_tokens=100)
            assert isinstance(plan, RoutePlan), plan
            plans.append(plan)
    return plans


async def _fill(rig: Rig, plans: list[RoutePlan], endpoints: int) -> int:
    """Put reports on the bus; answers how many."""
    numbers = itertools.count()
    sent = 0
    calls = iter(
        [one for plan in plans for one in itertools.islice(_calls(plan, endpoints, numbers), CALLS_A_LEASE)]
    )
    while together := list(itertools.islice(calls, REPORTS_A_MESSAGE)):
        await rig.bus.store(
            subjects.USAGE, join_reports(one.to_bytes() for one in together), str(ids.uuid7())
        )
        sent += len(together)
    return sent


def _calls(plan: RoutePlan, endpoints: int, numbers: Iterator[int]) -> Iterator[CallReport]:
    first = report(plan, request_id=ids.uuid7(), input=512, output=128)
    attempt = first.attempts[0]
    for number in numbers:
        provider_id = f"p{number % endpoints}" if number % endpoints else attempt.provider_id
        cost = Decimal(number % 7) / 100
        there = attempt.model_copy(
            update={"provider_id": provider_id, "prices": attempt.prices.model_copy(update={"input": cost})}
        )
        yield first.model_copy(update={"request_id": ids.uuid7(), "attempts": (there,)})


if __name__ == "__main__":
    run(measure)
