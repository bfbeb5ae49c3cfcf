"""The registry as its neighbours see it: on a real bus, with a real database, several at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from tests.support.registry import MODEL, Rig, eventually, report, running_registries

from synaxis_common import ids, subjects
from synaxis_common.contracts.jobs import ClaimReply, JobClaim, JobFinish, JobGrant, LeaseReply, RunStatus
from synaxis_common.contracts.leases import LEASE_TTL_S
from synaxis_common.contracts.routing import ModelsPage, ModelsRequest, RefusalCode, RoutePlan
from synaxis_common.contracts.usage import AttemptOutcome
from synaxis_registry.store.migrate import migrations


@pytest.fixture
async def rig(fresh_nats_url: str, fresh_database_url: str) -> AsyncIterator[Rig]:
    async with running_registries(fresh_nats_url, fresh_database_url, count=2) as running:
        yield running


@pytest.fixture
async def served(rig: Rig) -> Rig:
    """Two providers that serve one model; `alpha` is the cheaper one."""
    await rig.catalog(datetime.now(UTC), run=1)
    for provider_id in ("alpha", "beta"):
        await rig.put_provider(provider_id)
        await rig.observe(provider_id, (MODEL,))
    await eventually(lambda: has(rig, alpha=None, beta=None), "both providers are available")
    return rig


async def has(rig: Rig, **expected: str | None) -> bool:
    return await rig.available() == expected


async def test_many_registries_that_start_at_once_migrate_once(
    fresh_nats_url: str, empty_database_url: str
) -> None:
    async with running_registries(fresh_nats_url, empty_database_url, count=6) as rig:
        applied = await rig.database.fetch("SELECT number FROM schema_migration ORDER BY number")
        assert [row["number"] for row in applied] == [number for number, _, _ in migrations()]


async def test_a_key_made_through_one_registry_routes_through_all_at_once(served: Rig) -> None:
    key_hash = await served.new_key("acme")
    answers = await asyncio.gather(*(served.route(key_hash) for _ in range(40)))
    assert all(isinstance(answer, RoutePlan) for answer in answers)
    plan = answers[0]
    assert isinstance(plan, RoutePlan)
    assert [one.provider_id for one in plan.candidates] == ["alpha", "beta"]


async def test_a_model_is_found_by_other_spellings_and_an_unknown_one_gets_the_nearest(served: Rig) -> None:
    key_hash = await served.new_key("acme")
    assert isinstance(await served.route(key_hash, "acme/Talker-2-Mini"), RoutePlan)
    pinned = await served.route(key_hash, f"beta/{MODEL}")
    assert isinstance(pinned, RoutePlan)
    assert [one.provider_id for one in pinned.candidates] == ["beta"]
    refused = await served.route(key_hash, "talker-2-min")
    assert not isinstance(refused, RoutePlan)
    assert (refused.code, refused.nearest) == (RefusalCode.MODEL_NOT_FOUND, (MODEL,))


async def test_unknown_keys_are_refused(served: Rig) -> None:
    refused = await served.route("k1:nobody")
    assert not isinstance(refused, RoutePlan)
    assert refused.code is RefusalCode.INVALID_API_KEY


async def test_a_provider_is_gone_only_when_a_second_poll_says_so_and_comes_back(served: Rig) -> None:
    await eventually(lambda: has_events(served, 2), "both came with an event")
    start = datetime.now(UTC)
    await served.observe("alpha", None, at=start)
    await served.observe("beta", (MODEL,), at=start)
    await eventually(lambda: polled(served, "alpha", "unreachable"), "the failed poll is applied")
    assert await served.available() == {"alpha": None, "beta": None}
    await served.observe("alpha", None, at=start + timedelta(seconds=1))
    await eventually(lambda: has(served, alpha="unreachable", beta=None), "alpha is gone")
    await served.observe("alpha", (MODEL,), at=start + timedelta(seconds=2))
    await eventually(lambda: has(served, alpha=None, beta=None), "alpha is back")
    await eventually(lambda: has_events(served, 4), "each change has its event")
    assert (await served.events())[2:] == [
        f"model.unavailable.alpha.{MODEL}",
        f"model.available.alpha.{MODEL}",
    ]
    bucket = await served.bus.jetstream.key_value(subjects.BUCKET_AVAILABILITY)
    state = await bucket.get(subjects.availability_key("alpha", MODEL))
    assert state.value is not None
    assert b'"is_available":true' in state.value


async def has_events(rig: Rig, count: int) -> bool:
    found = [
        event for event in await rig.events() if event.startswith(("model.available", "model.unavailable"))
    ]
    return len(found) == count


async def polled(rig: Rig, provider_id: str, outcome: str) -> bool:
    found = await rig.database.fetchval(
        "SELECT record ->> 'last_poll_outcome' FROM provider WHERE provider_id = $1", provider_id
    )
    return bool(found == outcome)


async def test_old_polls_and_repeated_ones_change_nothing(served: Rig) -> None:
    now = datetime.now(UTC)
    await served.observe("alpha", (MODEL,), at=now + timedelta(seconds=10))
    await served.observe("alpha", None, at=now - timedelta(hours=1))
    await served.observe("alpha", None, at=now - timedelta(minutes=30))
    await served.observe("beta", None, at=now + timedelta(seconds=10))
    await eventually(lambda: polled(served, "beta", "unreachable"), "the last message is applied")
    assert await served.available() == {"alpha": None, "beta": None}


async def test_the_same_catalog_again_changes_no_row_and_tells_nobody(served: Rig) -> None:
    everything = (
        "SELECT 'p' || provider_id, xmin::text FROM provider UNION ALL "
        "SELECT provider_id || provider_model_id, xmin::text FROM provider_model UNION ALL "
        "SELECT id, xmin::text FROM global_model ORDER BY 1"
    )
    await eventually(lambda: has_events(served, 2), "both came with an event")
    rows, events = await served.database.fetch(everything), await served.events()
    await served.catalog(datetime.now(UTC) + timedelta(days=1), run=2)
    assert await served.database.fetch(everything) == rows
    assert await served.events() == events


async def test_a_price_that_collapses_waits_for_an_operator(served: Rig) -> None:
    await served.catalog(
        datetime.now(UTC) + timedelta(days=1), run=2, prices={"alpha": "0.09", "beta": "0.001"}
    )
    key_hash = await served.new_key("acme")
    plan = await served.route(key_hash)
    assert isinstance(plan, RoutePlan)
    assert {one.provider_id: one.prices.input for one in plan.candidates} == {
        "alpha": Decimal("0.09"),
        "beta": Decimal("0.20"),
    }


async def test_a_key_variable_switches_its_provider_on_and_off(rig: Rig) -> None:
    await rig.catalog(datetime.now(UTC), run=1)
    await eventually(lambda: has(rig, alpha="provider_off", beta="provider_off"), "both are known and off")

    async def told() -> bool:
        return (await rig.targets("BETA_API_KEY", "PATH")).key_variables == ("ALPHA_API_KEY", "BETA_API_KEY")

    await eventually(told, "both registries know the providers")
    await eventually(lambda: has(rig, alpha="provider_off", beta="not_polled"), "beta is on")
    await rig.observe("beta", (MODEL,))
    await eventually(lambda: has(rig, alpha="provider_off", beta=None), "beta serves")
    await rig.targets()
    await eventually(lambda: has(rig, alpha="provider_off", beta="provider_off"), "beta is off again")


async def test_no_more_requests_a_minute_are_admitted_than_allowed_however_many_ask(served: Rig) -> None:
    key_hash = await served.new_limited_key("acme", MODEL, {"allowed_rpm": 20})
    answers = await asyncio.gather(*(served.route(key_hash) for _ in range(100)))
    plans = [answer for answer in answers if isinstance(answer, RoutePlan)]
    refusals = [answer for answer in answers if not isinstance(answer, RoutePlan)]
    assert len(plans) == 20
    assert {refusal.code for refusal in refusals} == {RefusalCode.RATE_LIMIT_EXCEEDED}
    assert all(0 < (refusal.retry_after_s or 0) <= 61 + LEASE_TTL_S for refusal in refusals)
    assert min(plan.rate_limits.remaining_requests or 0 for plan in plans) == 0


async def test_a_repeated_question_is_booked_once_and_a_returned_permit_is_free_again(served: Rig) -> None:
    key_hash = await served.new_limited_key("acme", MODEL, {"allowed_rpm": 1})
    request_id = ids.uuid7()
    for _ in range(3):
        assert isinstance(await served.route(key_hash, request_id=request_id), RoutePlan)
    assert not isinstance(await served.route(key_hash), RoutePlan)
    await served.give_back(request_id, unused_permits=1)
    assert isinstance(await served.route(key_hash), RoutePlan), "the returned permit is free again"


async def test_spent_and_reserved_never_pass_the_budget_and_settle_to_the_exact_cost(served: Rig) -> None:
    key_hash = await served.new_limited_key("acme", "*", {"monthly_budget_usd": "0.01"})
    answers = await asyncio.gather(*(served.route(key_hash, input_tokens=100) for _ in range(30)))
    plans = [answer for answer in answers if isinstance(answer, RoutePlan)]
    refusals = {answer.code for answer in answers if not isinstance(answer, RoutePlan)}
    assert plans
    assert refusals == {RefusalCode.INSUFFICIENT_QUOTA}
    budget = await served.database.fetchrow("SELECT * FROM budget WHERE scope = 't/acme/*'")
    assert budget is not None
    assert budget["spent"] == 0
    assert (
        budget["reserved"]
        == sum(plan.permit.reserved_usd for plan in plans if plan.permit)
        <= Decimal("0.01")
    )
    for plan in plans:
        message = report(plan, input=1_000, output=7)
        for _ in range(3):
            await served.store(subjects.USAGE, message)

    async def settled() -> bool:
        count = await served.database.fetchval("SELECT count(*) FROM usage_ledger")
        return bool(count == len(plans))

    await eventually(settled, "every report is in the ledger")
    budget = await served.database.fetchrow("SELECT * FROM budget WHERE scope = 't/acme/*'")
    assert budget is not None
    cost = (1_000 * Decimal("0.10") + 7 * Decimal("0.20")) / 1_000_000
    assert (budget["spent"], budget["reserved"]) == (cost * len(plans), 0)
    usage = await served.admin("usage.query")
    assert isinstance(usage.body, dict)
    rows = usage.body["data"]
    assert isinstance(rows, list)
    assert isinstance(rows[0], dict)
    assert Decimal(str(rows[0]["cost_usd"])) == cost * len(plans)


async def test_a_poisonous_message_is_set_aside_and_the_next_ones_are_handled(served: Rig) -> None:
    for subject in (subjects.USAGE, subjects.observation("alpha"), subjects.catalog_models()):
        await served.bus.store(subject, b'{"not": "a message", "nul": "\\u0000"}', str(ids.uuid7()))
    key_hash = await served.new_key("acme")
    plan = await served.route(key_hash)
    assert isinstance(plan, RoutePlan)
    await served.store(subjects.USAGE, report(plan, input=1, output=1))

    async def all_handled() -> bool:
        dead = await served.database.fetchval("SELECT count(*) FROM dead_letter")
        return bool(dead == 3) and await served.database.fetchval("SELECT count(*) FROM usage_ledger") == 1

    await eventually(all_handled, "three are set aside, one is in the ledger")


async def test_five_failures_in_a_row_put_an_endpoint_behind_the_others(served: Rig) -> None:
    key_hash = await served.new_key("acme")
    plan = await served.route(key_hash)
    assert isinstance(plan, RoutePlan)
    for number in range(5):
        failed = report(plan, outcome=AttemptOutcome.SERVER_ERROR)
        await served.store(subjects.USAGE, failed.model_copy(update={"request_id": UUID(int=number)}))

    async def beta_first() -> bool:
        answer = await served.route(key_hash)
        return isinstance(answer, RoutePlan) and answer.candidates[0].provider_id == "beta"

    await eventually(beta_first, "beta is tried first")


async def test_a_tenant_sees_the_models_it_may_use(served: Rig) -> None:
    key_hash = await served.new_key("acme")

    async def listed() -> list[str]:
        request = ModelsRequest(key_hash=key_hash)
        page = await served.bus.request(subjects.MODELS, request, ModelsPage, timeout=10)
        return [model.id for model in page.models]

    assert await listed() == [MODEL]
    await served.admin("limit.put", {"allowed": False}, tenant="acme", model=MODEL)

    async def hidden() -> bool:
        return await listed() == []

    async def refused() -> bool:
        answers = await asyncio.gather(*(served.route(key_hash) for _ in range(10)))
        codes = {None if isinstance(answer, RoutePlan) else answer.code for answer in answers}
        return codes == {RefusalCode.MODEL_NOT_ALLOWED}

    await eventually(hidden, "the model is not listed any more", within_s=1.0)
    await eventually(refused, "every registry refuses the model", within_s=1.0)


async def test_a_slot_is_granted_once_a_requested_run_at_once_and_a_lost_worker_is_replaced(rig: Rig) -> None:
    slot = datetime(2026, 1, 1, tzinfo=UTC)

    async def claim(worker: str, at: datetime = slot, lease_s: float = 60) -> JobGrant | None:
        message = JobClaim(job="models-dev-sync", worker_id=worker, scheduled_at=at, lease_s=lease_s)
        answer = (await rig.bus.request(subjects.JOB_CLAIM, message, ClaimReply, timeout=10)).answer
        return answer if isinstance(answer, JobGrant) else None

    async def finish(grant: JobGrant) -> bool:
        ended = JobFinish(run_id=grant.run_id, fence=grant.fence, status=RunStatus.SUCCEEDED)
        return (await rig.bus.request(subjects.JOB_FINISH, ended, LeaseReply, timeout=10)).held

    grants = [grant for grant in await asyncio.gather(*(claim(f"w{i}") for i in range(5))) if grant]
    assert [grant.trigger for grant in grants] == ["schedule"]
    assert await finish(grants[0])
    assert not await finish(grants[0])
    assert await claim("w1") is None
    assert (await rig.admin("job.run", job="models-dev-sync")).status == "accepted"
    manual = await claim("w1")
    assert manual is not None
    assert manual.trigger == "manual"
    assert await finish(manual)

    later = slot + timedelta(days=1)
    lost = await claim("w1", later, lease_s=0.1)
    assert lost is not None

    async def replaced() -> bool:
        grant = await claim("w2", later)
        return grant is not None and grant.trigger == "retry"

    await eventually(replaced, "another worker is granted the slot of the lost one")
    assert not await finish(lost)
