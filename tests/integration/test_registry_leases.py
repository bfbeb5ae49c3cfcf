"""Leases: many requests booked at once, exactly, by any number of registries for any number of gateways."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from tests.support.registry import MODEL, Rig, eventually, report, running_registries

from synaxis_common import ids, subjects
from synaxis_common.contracts.events import BudgetChange
from synaxis_common.contracts.leases import (
    LEASE_TTL_S,
    GatewayAlive,
    GatewayAliveReply,
    LeaseAsk,
    Permit,
    PlansStale,
    ProviderLease,
    ProviderLeaseAsk,
)
from synaxis_common.contracts.routing import RefusalCode, RoutePlan, RouteRefusal

CENTS = Decimal("0.01")


@pytest.fixture
async def rig(fresh_nats_url: str, fresh_database_url: str) -> AsyncIterator[Rig]:
    """Two registries, and a provider that serves one model."""
    async with running_registries(fresh_nats_url, fresh_database_url, count=2) as running:
        await running.catalog(datetime.now(UTC), run=1, prices={"alpha": "0.10"})
        await running.put_provider("alpha")
        await running.observe("alpha", (MODEL,))

        async def available() -> bool:
            return await running.available() == {"alpha": None}

        await eventually(available, "the provider is available")
        yield running


def ask(permits: int = 1, gateway: str = "g1", lease_id: UUID | None = None, **changes: Any) -> LeaseAsk:
    return LeaseAsk(lease_id=lease_id or ids.uuid7(), gateway_id=gateway, permits=permits, **changes)


async def leased(rig: Rig, key_hash: str, lease: LeaseAsk, **needs: Any) -> tuple[RoutePlan, Permit]:
    answer = await rig.route(key_hash, lease=lease, **needs)
    assert isinstance(answer, RoutePlan), answer
    assert answer.permit is not None
    return answer, answer.permit


async def refused(rig: Rig, key_hash: str, lease: LeaseAsk, **needs: Any) -> RouteRefusal:
    answer = await rig.route(key_hash, lease=lease, **needs)
    assert isinstance(answer, RouteRefusal)
    return answer


async def budget(rig: Rig, scope: str = "t/acme/*") -> tuple[Decimal, Decimal, Decimal]:
    """What is spent, reserved and unconfirmed."""
    row = await rig.database.fetchrow("SELECT * FROM budget WHERE scope = $1", scope)
    if row is None:
        return Decimal(0), Decimal(0), Decimal(0)
    return row["spent"], row["reserved"], row["unconfirmed"]


async def becomes(rig: Rig, spent: Decimal, reserved: Decimal, unconfirmed: Decimal = Decimal(0)) -> None:
    async def so() -> bool:
        return await budget(rig) == (spent, reserved, unconfirmed)

    await eventually(so, f"{spent} spent, {reserved} reserved, {unconfirmed} unconfirmed")


async def test_a_lease_holds_as_many_permits_as_were_asked_for_within_its_share(rig: Rig) -> None:
    key_hash = await rig.new_limited_key("acme", MODEL, {"allowed_rpm": 200})
    plan, permit = await leased(rig, key_hash, ask(8))
    assert (permit.permits, permit.expires_in_s) == (8, LEASE_TTL_S)
    assert plan.rate_limits.remaining_requests == 192
    _, permit = await leased(rig, key_hash, ask(1_000))
    assert permit.permits == 20, "a tenth of the limit"


async def test_the_last_permits_are_handed_out_one_by_one(rig: Rig) -> None:
    key_hash = await rig.new_limited_key("acme", MODEL, {"allowed_rpm": 10})
    granted = [(await leased(rig, key_hash, ask(5)))[1].permits for _ in range(10)]
    assert granted == [1] * 10
    refusal = await refused(rig, key_hash, ask(5))
    assert refusal.code is RefusalCode.RATE_LIMIT_EXCEEDED
    assert "10 requests a minute" in refusal.message


async def test_a_lease_counts_from_its_last_second(rig: Rig) -> None:
    key_hash = await rig.new_limited_key("acme", MODEL, {"allowed_rpm": 1})
    await leased(rig, key_hash, ask())
    refusal = await refused(rig, key_hash, ask())
    assert refusal.retry_after_s is not None
    assert 61 <= refusal.retry_after_s <= 61 + LEASE_TTL_S


@pytest.mark.parametrize("bound", ["allowed_rpm", "allowed_tpm", "monthly_budget_usd"])
async def test_two_registries_that_are_asked_at_once_never_grant_too_much(rig: Rig, bound: str) -> None:
    limit: dict[str, Any] = {"allowed_rpm": 1_000, "allowed_tpm": 1_000_000, "monthly_budget_usd": "1"}
    tight: dict[str, Any] = {"allowed_rpm": 60, "allowed_tpm": 15_000, "monthly_budget_usd": "0.005"}
    key_hash = await rig.new_limited_key("acme", "*", limit | {bound: tight[bound]})
    needs: dict[str, Any] = {"input_tokens": 100, "max_output_tokens": 100}
    answers = await asyncio.gather(
        *(rig.route(key_hash, lease=ask(4, gateway=f"g{number % 3}"), **needs) for number in range(120))
    )
    granted = [answer.permit for answer in answers if isinstance(answer, RoutePlan) and answer.permit]
    sums: dict[str, tuple[Decimal | int, Decimal | int]] = {
        "allowed_rpm": (sum(permit.permits for permit in granted), 1),
        "allowed_tpm": (sum(permit.tokens for permit in granted), granted[0].tokens_each),
        "monthly_budget_usd": (sum(permit.reserved_usd for permit in granted), granted[0].usd_each),
    }
    (booked, each), allowed = sums[bound], Decimal(tight[bound])
    assert allowed - each < booked <= allowed, "all of it is granted, and no more"
    assert (await budget(rig))[1] == sum(permit.reserved_usd for permit in granted)


async def test_a_repeated_question_is_answered_the_same_and_booked_once(rig: Rig) -> None:
    key_hash = await rig.new_limited_key("acme", MODEL, {"allowed_rpm": 100, "monthly_budget_usd": "1"})
    lease = ask(5)
    answers = await asyncio.gather(*(leased(rig, key_hash, lease) for _ in range(6)))
    assert {permit for _, permit in answers} == {answers[0][1]}
    assert {plan.rate_limits.remaining_requests for plan, _ in answers} == {95}
    assert await rig.database.fetchval("SELECT sum(requests) FROM rate_bucket") == 5


async def test_what_is_returned_is_free_at_once_and_returning_it_again_changes_nothing(rig: Rig) -> None:
    key_hash = await rig.new_limited_key("acme", "*", {"allowed_rpm": 60, "monthly_budget_usd": "1"})
    _, permit = await leased(rig, key_hash, ask(6))
    for _ in range(2):
        await rig.give_back(permit.lease_id, unused_permits=4, unused_usd=4 * permit.usd_each)
    assert await rig.database.fetchval("SELECT sum(requests) FROM rate_bucket") == 2
    assert await budget(rig) == (Decimal(0), 2 * permit.usd_each, Decimal(0))


async def test_a_lease_that_was_given_back_before_it_was_granted_is_not_granted_any_more(rig: Rig) -> None:
    key_hash = await rig.new_limited_key("acme", MODEL, {"allowed_rpm": 60})
    late = ask(6)
    await rig.give_back(late.lease_id, everything=True)
    assert (await refused(rig, key_hash, late)).code is RefusalCode.UNAVAILABLE
    assert await rig.database.fetchval("SELECT count(*) FROM rate_bucket") == 0


async def test_money_for_another_attempt_takes_no_permit(rig: Rig) -> None:
    key_hash = await rig.new_limited_key("acme", "*", {"allowed_rpm": 1, "monthly_budget_usd": "1"})
    await leased(rig, key_hash, ask())
    _, permit = await leased(rig, key_hash, ask(0, usd=CENTS))
    assert (permit.permits, permit.reserved_usd) == (0, CENTS)
    assert (await refused(rig, key_hash, ask(0, usd=Decimal(1)))).code is RefusalCode.INSUFFICIENT_QUOTA


async def test_requests_of_a_lease_are_settled_one_by_one_at_their_exact_cost(rig: Rig) -> None:
    key_hash = await rig.new_limited_key("acme", "*", {"allowed_rpm": 60, "monthly_budget_usd": "1"})
    plan, permit = await leased(rig, key_hash, ask(3))
    for number in range(2):
        message = report(plan, request_id=ids.uuid7(), input=1_000, output=500)
        for _ in range(2):
            await rig.store(subjects.USAGE, message)
        await becomes(rig, (number + 1) * Decimal("0.0002"), (2 - number) * permit.usd_each)
    await rig.give_back(permit.lease_id, unused_permits=1, unused_usd=permit.usd_each)
    await becomes(rig, Decimal("0.0004"), Decimal(0))


async def test_true_tokens_take_the_place_of_booked_ones(rig: Rig) -> None:
    key_hash = await rig.new_limited_key("acme", "*", {"allowed_tpm": 10_000})
    plan, permit = await leased(rig, key_hash, ask(), input_tokens=1_000, max_output_tokens=8_000)
    assert permit.tokens == 9_000
    assert plan.rate_limits.remaining_tokens == 1_000
    await refused(rig, key_hash, ask(), input_tokens=2_000)
    await rig.store(subjects.USAGE, report(plan, input=900, output=100))

    async def has_room() -> bool:
        used = await rig.database.fetchval("SELECT sum(tokens) FROM rate_bucket WHERE scope = 't/acme/*'")
        return bool(used == 1_000)

    await eventually(has_room, "a thousand tokens were used")


async def test_what_a_dead_gateway_held_is_charged_unconfirmed_until_a_late_report_says_better(
    rig: Rig,
) -> None:
    key_hash = await rig.new_limited_key("acme", "*", {"allowed_rpm": 60, "monthly_budget_usd": "1"})
    plan, permit = await leased(rig, key_hash, ask(2, gateway="dead"))
    alive = GatewayAlive(gateway_id="alive")
    await rig.bus.request(subjects.LEASE_ALIVE, alive, GatewayAliveReply, timeout=5)
    await leased(rig, key_hash, ask(1, gateway="alive"))
    await rig.database.execute("UPDATE lease SET granted_at = granted_at - interval '20 seconds'")
    lapsed = await rig.database.fetch("SELECT * FROM lapse_leases(15, 100)")
    assert [(row["lapsed_gateway"], row["lapsed_usd"]) for row in lapsed] == [("dead", permit.reserved_usd)]
    assert await budget(rig) == (permit.reserved_usd, permit.usd_each, permit.reserved_usd)

    await rig.store(subjects.USAGE, report(plan, request_id=ids.uuid7(), input=1_000))
    await becomes(rig, permit.usd_each + Decimal("0.0001"), permit.usd_each, permit.usd_each)
    await rig.give_back(permit.lease_id, unused_permits=1, unused_usd=permit.usd_each)
    await becomes(rig, Decimal("0.0001"), permit.usd_each)


async def test_registries_charge_by_themselves_what_was_held_too_long(rig: Rig) -> None:
    key_hash = await rig.new_limited_key("acme", "*", {"monthly_budget_usd": "1"})
    _, permit = await leased(rig, key_hash, ask(2))
    await rig.database.execute("UPDATE lease SET lapses_at = clock_timestamp()")
    await becomes(rig, permit.reserved_usd, Decimal(0), permit.reserved_usd)


async def test_gateways_share_a_limit_on_requests_at_once(rig: Rig) -> None:
    key_hash = await rig.new_limited_key("acme", "*", {"allowed_concurrency": 3})
    _, permit = await leased(rig, key_hash, ask(2, gateway="g1", slots_seq=1))
    assert [(grant.scope, grant.slots) for grant in permit.slots] == [("t/acme/*", 2)]
    _, permit = await leased(rig, key_hash, ask(1, gateway="g2", slots_seq=1))
    assert permit.slots[0].slots == 1
    refusal = await refused(rig, key_hash, ask(1, gateway="g2", slots={"t/acme/*": 2}, slots_seq=2))
    assert (refusal.code, "3 requests at once" in refusal.message) == (RefusalCode.RATE_LIMIT_EXCEEDED, True)

    said = GatewayAlive(gateway_id="g1", slots={"t/acme/*": 1}, slots_seq=5)
    reply = await rig.bus.request(subjects.LEASE_ALIVE, said, GatewayAliveReply, timeout=5)
    assert reply.slots[0].slots == 1
    _, permit = await leased(rig, key_hash, ask(1, gateway="g2", slots={"t/acme/*": 2}, slots_seq=3))
    assert permit.slots[0].slots == 2


async def test_an_older_word_on_slots_does_not_count_against_a_newer_one(rig: Rig) -> None:
    key_hash = await rig.new_limited_key("acme", "*", {"allowed_concurrency": 9})
    await leased(rig, key_hash, ask(1, gateway="g1", slots={"t/acme/*": 4}, slots_seq=7))
    late = GatewayAlive(gateway_id="g1", slots={"t/acme/*": 0}, slots_seq=6)
    reply = await rig.bus.request(subjects.LEASE_ALIVE, late, GatewayAliveReply, timeout=5)
    assert reply.slots[0].slots == 4


async def test_a_key_has_limits_of_its_own(rig: Rig) -> None:
    key_hash = await rig.new_key("acme")
    key_id = await rig.database.fetchval("SELECT key_id FROM api_key")
    await rig.database.execute("INSERT INTO key_limit (key_id, allowed_rpm) VALUES ($1, 2)", key_id)

    async def is_limited() -> bool:
        answer = await rig.route(key_hash, lease=ask(0))
        return isinstance(answer, RoutePlan) and answer.permit is not None

    await eventually(is_limited, "both registries know the limit")
    await eventually(is_limited, "both registries know the limit")
    for _ in range(2):
        await leased(rig, key_hash, ask())
    refusal = await refused(rig, key_hash, ask())
    assert "2 requests a minute for this key" in refusal.message
    other = await rig.new_key("acme")
    assert isinstance(await rig.route(other, lease=ask()), RoutePlan), "another key is not limited by it"


async def test_a_providers_own_limit_is_shared_by_all_who_ask(rig: Rig) -> None:
    body = {"base_url": "http://127.0.0.1:9/alpha/v1", "api_key_env": None, "rate_limit_rpm": 5}
    await rig.admin("provider.put", body, provider="alpha")

    async def lease(gateway: str) -> ProviderLease:
        said = ProviderLeaseAsk(
            lease_id=ids.uuid7(), gateway_id=gateway, provider_id="alpha", provider_model_id=MODEL
        )
        return await rig.bus.request(subjects.LEASE_PROVIDER, said, ProviderLease, timeout=5)

    granted = [await lease(f"g{number % 2}") for number in range(6)]
    assert [one.permits for one in granted] == [1, 1, 1, 1, 1, 0]
    assert (granted[-1].retry_after_s or 0) > 0
    key_hash = await rig.new_key("acme")

    async def is_marked() -> bool:
        plan = await rig.route(key_hash)
        return isinstance(plan, RoutePlan) and plan.candidates[0].is_rate_limited

    await eventually(is_marked, "plans say that an attempt needs a permit")


async def test_a_budget_tells_of_each_threshold_once(rig: Rig) -> None:
    key_hash = await rig.new_limited_key("acme", "*", {"monthly_budget_usd": "0.1"})
    plan, _ = await leased(rig, key_hash, ask())
    for tokens in (400_000, 200_000, 100_000, 150_000, 100_000, 100_000, 10_000):
        await rig.store(subjects.USAGE, report(plan, request_id=ids.uuid7(), input=tokens))

    async def told() -> bool:
        return len([one for one in await rig.events() if one.startswith("tenant.")]) >= 4

    await eventually(told, "four thresholds are passed")
    assert [one for one in await rig.events() if one.startswith("tenant.")] == [
        "tenant.budget.threshold.acme",
        "tenant.budget.threshold.acme",
        "tenant.budget.threshold.acme",
        "tenant.budget.exhausted.acme",
    ]
    changes = [event.data for event in await rig.read_events() if isinstance(event.data, BudgetChange)]
    told_of = [
        (one.before.threshold_percent, one.after.threshold_percent)
        for one in changes
        if one.before and one.after
    ]
    assert told_of == [(0, 50), (50, 80), (80, 95), (95, 100)]
    assert all(one.cause.kind == "usage" for one in changes)
    for one in changes:
        assert one.before is not None
        assert one.after is not None
        assert Decimal(one.before.spent_usd) < Decimal(one.after.spent_usd) == Decimal(one.spent_usd)


async def test_gateways_are_told_of_what_makes_their_plans_wrong(rig: Rig) -> None:
    heard: list[PlansStale] = []

    async def hear(message: Any) -> None:
        heard.append(PlansStale.model_validate_json(message.data))

    await rig.bus.client.subscribe(subjects.PLANS_STALE, cb=hear)
    await rig.new_limited_key("acme", MODEL, {"allowed_rpm": 7})

    async def told_of_the_limit() -> bool:
        return any("acme" in hint.tenants for hint in heard)

    await eventually(told_of_the_limit, "a limit has changed")
    await rig.admin("provider-model.patch", {"enabled": False}, provider="alpha", provider_model_id=MODEL)

    async def told_of_the_endpoint() -> bool:
        return any(name.provider_id == "alpha" for hint in heard for name in hint.endpoints)

    await eventually(told_of_the_endpoint, "an endpoint takes no requests")
