"""The leases that a gateway holds: drawing, giving back, asking for more in time."""

from __future__ import annotations

from decimal import Decimal
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synaxis_common.contracts.leases import LEASE_MARGIN_S, LEASE_TTL_S, LeaseDraw, Permit, SlotGrant
from synaxis_gateway.admission.account import GROWTH, HORIZON_S, PROJECTED_FROM, Account, Lease
from synaxis_gateway.admission.shape import rounded_up
from synaxis_gateway.admission.slots import Slots

NOTHING = Decimal(0)
CENT = Decimal("0.01")


def is_low(held: Account, now: float) -> bool:
    return held.is_low(now, held.left(now)[2])


def lease(permits: int = 1, tokens: int = 0, usd: Decimal = NOTHING, asked_at: float = 0.0) -> Lease:
    permit = Permit(
        lease_id=uuid4(), permits=permits, tokens=tokens, reserved_usd=usd, expires_in_s=LEASE_TTL_S
    )
    return Lease.granted(permit, "acme", asked_at)


def account(*leases: Lease) -> Account:
    made = Account()
    for one in leases:
        made.add(one)
    return made


def test_a_lease_admits_as_many_as_it_has_permits_for() -> None:
    held = account(lease(permits=2))
    assert [held.draw(0.1, 0, NOTHING) is not None for _ in range(3)] == [True, True, False]


def test_a_draw_takes_tokens_and_money_with_the_permit() -> None:
    first = lease(permits=5, tokens=100, usd=5 * CENT)
    held = account(first)
    assert held.draw(0, 60, 2 * CENT) == LeaseDraw(lease_id=first.lease_id, tokens=60, usd=2 * CENT)
    assert held.draw(0, 60, CENT) is None, "only 40 tokens are left"
    assert held.draw(0, 40, 4 * CENT) is None, "only three cents are left"
    assert held.draw(0, 40, 3 * CENT) is not None


def test_nothing_is_admitted_from_a_lease_that_is_over_by_the_time_it_was_asked_for() -> None:
    held = account(lease(permits=1, asked_at=10.0))
    assert held.draw(10.0 + LEASE_TTL_S - LEASE_MARGIN_S, 0, NOTHING) is None
    assert held.draw(10.0 + LEASE_TTL_S - LEASE_MARGIN_S - 0.01, 0, NOTHING) is not None


def test_the_oldest_lease_is_used_first() -> None:
    old, new = lease(asked_at=0.0), lease(asked_at=1.0)
    held = account(old, new)
    drawn = held.draw(1.5, 0, NOTHING)
    assert drawn is not None
    assert drawn.lease_id == old.lease_id


def test_a_lease_that_has_ended_is_given_back_once_with_what_was_not_used() -> None:
    one = lease(permits=3, tokens=30, usd=3 * CENT)
    held = account(one)
    held.draw(0, 10, CENT)
    assert held.take_over(1.0) == []
    (returned,) = held.take_over(LEASE_TTL_S)
    assert (returned.lease_id, returned.tenant_id) == (one.lease_id, "acme")
    assert (returned.unused_permits, returned.unused_tokens, returned.unused_usd) == (2, 20, 2 * CENT)
    assert held.take_over(LEASE_TTL_S) == []


def test_a_lease_that_was_used_up_is_not_given_back() -> None:
    held = account(lease(permits=1))
    held.draw(0, 0, NOTHING)
    assert held.take_over(LEASE_TTL_S) == []


def test_what_is_put_back_can_be_drawn_again_until_its_lease_is_given_back() -> None:
    held = account(lease(permits=1, usd=CENT))
    drawn = held.draw(0, 0, CENT)
    assert drawn is not None
    assert held.put_back(drawn)
    again = held.draw(0, 0, CENT)
    assert again is not None
    held.take_over(LEASE_TTL_S)
    assert not held.put_back(again)


def test_money_for_another_attempt_takes_no_permit() -> None:
    held = account(lease(permits=1, usd=3 * CENT))
    assert held.draw_money(0, 4 * CENT) is None
    drawn = held.draw_money(0, 2 * CENT)
    assert drawn is not None
    assert (drawn.permits, drawn.usd) == (0, 2 * CENT)
    assert held.draw(0, 0, CENT) is not None


def test_with_thin_traffic_nothing_is_held_in_store() -> None:
    held = account()
    held.arrived(0.0)
    assert held.wanted(0.0) == 1
    assert not is_low(held, 0.0)


def test_with_busy_traffic_a_lease_lasts_a_second_and_the_next_is_asked_for_in_time() -> None:
    held = account()
    for number in range(100):
        held.arrived(number / 100)
    assert held.wanted(1.0) == 100
    assert is_low(held, 1.0), "nothing is held"
    held.add(lease(permits=100, asked_at=1.0))
    assert not is_low(held, 1.0)
    for number in range(51):
        held.arrived(1.0 + number / 100)
        assert held.draw(1.0 + number / 100, 0, NOTHING) is not None
    assert is_low(held, 1.51), "less than half a second's worth is left"


def test_a_lease_that_is_about_to_end_counts_as_used_up() -> None:
    held = account(lease(permits=1000))
    for number in range(10):
        held.arrived(number / 10)
    assert not is_low(held, 0.9)
    assert is_low(held, LEASE_TTL_S - LEASE_MARGIN_S - 0.5)


@pytest.mark.parametrize("round_trip_ms", [10, 20, 50])
def test_when_traffic_begins_nobody_waits_after_the_second_answer(round_trip_ms: int) -> None:
    held = account()
    arrivals = (number / 1_000 for number in range(1, 3_000))
    question: tuple[float, Lease] | None = None
    waiting, waited = 0, 0
    for now in arrivals:
        held.take_over(now)
        if question is not None and question[0] <= now:
            held.add(question[1])
            question = None
            while waiting and held.draw(now, 0, NOTHING):
                waiting -= 1
        held.arrived(now)
        if held.draw(now, 0, NOTHING) is None:
            waiting += 1
            waited += 1
        if question is None and (waiting or is_low(held, now)):
            granted = lease(permits=held.wanted(now, waiting), asked_at=now)
            question = now + round_trip_ms / 1_000, granted
    assert waited <= 2 * round_trip_ms + 2


def test_a_few_at_once_say_nothing_of_how_many_will_come() -> None:
    held = account()
    for _ in range(PROJECTED_FROM - 1):
        held.arrived(0.001)
    assert held.wanted(0.002) == PROJECTED_FROM - 1


def test_many_at_once_bring_a_few_times_as_many_permits_and_not_a_thousand() -> None:
    held = account()
    for _ in range(50):
        held.arrived(0.0)
    assert held.wanted(0.0) == GROWTH * 50
    assert held.wanted(0.5) == 2 * 50
    assert held.wanted(HORIZON_S) == 50


def test_those_who_wait_are_asked_for_together() -> None:
    assert account().wanted(0.0, waiting=7) == 7


def test_demand_is_forgotten_when_nobody_comes() -> None:
    held = account()
    for _ in range(50):
        held.arrived(0.0)
    assert held.demand(1.5) == 50
    assert held.demand(2.1) == 0


@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(0, 50), st.integers(0, 50)), max_size=5),
    st.lists(st.tuples(st.floats(0, 3), st.integers(0, 20), st.integers(0, 20), st.booleans()), max_size=40),
)
def test_what_is_drawn_and_what_is_returned_is_what_was_granted(
    grants: list[tuple[int, int, int]], draws: list[tuple[float, int, int, bool]]
) -> None:
    leases = [lease(permits, tokens, cents * CENT) for permits, tokens, cents in grants]
    granted = {one.lease_id: (one.permits, one.tokens, one.usd) for one in leases}
    held = account(*leases)
    used: dict[UUID, list[LeaseDraw]] = {one: [] for one in granted}
    for now, tokens, cents, keep in sorted(draws):
        drawn = held.draw(now, tokens, cents * CENT)
        if drawn is None:
            continue
        if keep or not held.put_back(drawn):
            used[drawn.lease_id].append(drawn)
    returned = {one.lease_id: one for one in held.take_all()}
    for lease_id, (permits, tokens, usd) in granted.items():
        rest = returned.get(lease_id)
        drawn_all = used[lease_id]
        assert permits == sum(one.permits for one in drawn_all) + (rest.unused_permits if rest else 0)
        assert tokens == sum(one.tokens for one in drawn_all) + (rest.unused_tokens if rest else 0)
        assert usd == sum((one.usd for one in drawn_all), NOTHING) + (rest.unused_usd if rest else NOTHING)


@given(st.integers(0, 2**40))
def test_a_size_is_rounded_up_by_a_quarter_at_most(size: int) -> None:
    assert size <= rounded_up(size) <= size * 5 // 4 + 1


def test_there_are_few_sizes() -> None:
    assert len({rounded_up(size) for size in range(1, 100_000)}) < 70


def test_no_more_enter_than_there_are_slots() -> None:
    slots = Slots()
    assert not slots.enter(["t/acme/*"], 0.0), "nobody has granted any"
    assert slots.needed() == {"t/acme/*": 1}
    slots.granted([SlotGrant(scope="t/acme/*", slots=2)], 0.0, seq=1)
    assert [slots.enter(["t/acme/*"], 1.0) for _ in range(3)] == [True, True, False]
    slots.leave(["t/acme/*"])
    assert slots.enter(["t/acme/*"], 1.0)


def test_a_request_enters_all_its_scopes_or_none() -> None:
    slots = Slots()
    slots.granted([SlotGrant(scope="a", slots=1), SlotGrant(scope="b", slots=0)], 0.0, seq=1)
    assert not slots.enter(["a", "b"], 0.0)
    assert slots.enter(["a"], 0.0)


def test_slots_that_were_not_renewed_admit_nobody() -> None:
    slots = Slots()
    slots.granted([SlotGrant(scope="a", slots=1, expires_in_s=5.0)], 0.0, seq=1)
    assert not slots.enter(["a"], 5.0)


def test_while_slots_are_renewed_no_more_enter_than_were_named() -> None:
    slots = Slots()
    slots.granted([SlotGrant(scope="a", slots=5)], 0.0, seq=1)
    slots.enter(["a"], 0.0)
    assert slots.to_renew(2) == {"a": 1}
    assert not slots.enter(["a"], 0.0)
    slots.granted([SlotGrant(scope="a", slots=3)], 0.0, seq=2)
    assert slots.enter(["a"], 0.0)


def test_slots_that_nobody_uses_are_given_back() -> None:
    slots = Slots()
    slots.granted([SlotGrant(scope="a", slots=5)], 0.0, seq=1)
    assert slots.to_renew(2) == {"a": 0}
    slots.granted([SlotGrant(scope="a", slots=0)], 0.0, seq=1)
    assert slots.to_renew(2) == {}


def test_an_answer_that_was_overtaken_does_not_count() -> None:
    slots = Slots()
    slots.granted([SlotGrant(scope="a", slots=2)], 0.0, seq=2)
    slots.granted([SlotGrant(scope="a", slots=9)], 0.0, seq=1)
    assert [slots.enter(["a"], 0.0) for _ in range(3)] == [True, True, False]


def test_an_answer_older_than_the_renewal_that_gave_the_scope_back_does_not_count() -> None:
    slots = Slots()
    slots.granted([SlotGrant(scope="a", slots=1)], 0.0, seq=1)
    assert slots.to_renew(3) == {"a": 0}
    slots.granted([SlotGrant(scope="a", slots=2)], 0.0, seq=2)
    assert not slots.enter(["a"], 0.0), "the registry may have granted them to another gateway"
    slots.granted([SlotGrant(scope="a", slots=2)], 0.0, seq=4)
    assert slots.enter(["a"], 0.0)
