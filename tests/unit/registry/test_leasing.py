"""Leases as values: what is granted, given back, charged and recorded."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from uuid import UUID

from synaxis_common.contracts.leases import GATEWAY_TTL_S, LeaseDraw, LeaseReturn
from synaxis_registry.core.admission import Grant
from synaxis_registry.core.leasing import Ask, Books, Bounds, Budget, Terms, grant, renew_slots
from synaxis_registry.core.settling import Call, give_back, lapse, record

NOW = datetime(2026, 6, 30, 12, tzinfo=UTC).timestamp()
JUNE = date(2026, 6, 1)
TERMS = Terms(lapse_s=900.0)
SCOPE = "t/acme/*"
DOLLAR = Decimal(1)


def an_id(number: int) -> UUID:
    return UUID(int=number)


def an_ask(number: int = 1, *, permits: int = 1, gateway_id: str = "g", usd: Decimal = DOLLAR) -> Ask:
    return Ask(an_id(number), gateway_id, "acme", (SCOPE,), permits, tokens_each=10, usd_each=usd)


def granted(books: Books, ask: Ask, bounds: Bounds, now: float = NOW) -> tuple[Books, Grant]:
    books, answer = grant(books, ask, {SCOPE: bounds}, TERMS, now)
    assert answer is not None
    return books, answer


def verdict(answer: Grant) -> str | None:
    return answer.uses[0].verdict


def a_call(number: int, *, cost: Decimal, tokens: int = 10, lease: int = 1) -> Call:
    draw = LeaseDraw(lease_id=an_id(lease), permits=1, tokens=10, usd=DOLLAR)
    return Call(an_id(100 + number), "acme", "key", "m", NOW, cost, tokens, (draw,))


def test_a_permit_counts_from_its_grant_until_a_minute_after_the_lease_ends() -> None:
    one_a_minute = Bounds(allowed_rpm=1)
    books, _ = granted(Books(), an_ask(1), one_a_minute)
    for later in (0, 2, 62):
        _, answer = granted(books, an_ask(2), one_a_minute, NOW + later)
        assert verdict(answer) == "rpm"
        assert answer.uses[0].retry_after_s == 63 - later
    assert verdict(granted(books, an_ask(2), one_a_minute, NOW + 63)[1]) is None


def test_a_lease_takes_a_share_of_what_is_left_and_of_the_limit_and_at_least_one_permit() -> None:
    books, first = granted(Books(), an_ask(1, permits=100), Bounds(allowed_rpm=100))
    assert first.permits == 10
    books, second = granted(books, an_ask(2, permits=100), Bounds(allowed_rpm=14))
    assert second.permits == 1


def test_asking_again_books_nothing_more_and_is_answered_the_same() -> None:
    bounds = Bounds(allowed_rpm=100, monthly_budget_usd=Decimal(50))
    books, first = granted(Books(), an_ask(1, permits=3), bounds)
    again, second = granted(books, an_ask(1, permits=3), bounds, NOW + 1)
    assert again == books
    assert (second.permits, second.tokens, second.usd) == (first.permits, first.tokens, first.usd)
    assert verdict(granted(books, an_ask(1, permits=3), bounds, NOW + 3)[1]) == "gone"


def test_a_lease_given_back_before_it_was_asked_for_is_not_granted() -> None:
    books, done = give_back(Books(), LeaseReturn(lease_id=an_id(1), everything=True), {}, NOW)
    assert not done
    books, answer = granted(books, an_ask(1), Bounds(allowed_rpm=1))
    assert verdict(answer) == "gone"
    assert books.traffic == {}


def test_what_is_given_back_is_free_at_once_and_only_once() -> None:
    bounds = Bounds(allowed_rpm=20, monthly_budget_usd=Decimal(100))
    books, answer = granted(Books(), an_ask(1, permits=2), bounds)
    assert answer.permits == 2
    rest = LeaseReturn(
        lease_id=an_id(1), tenant_id="acme", unused_permits=1, unused_tokens=10, unused_usd=DOLLAR
    )
    books, done = give_back(books, rest, {}, NOW)
    again, once_more = give_back(books, rest, {}, NOW)
    assert (done, once_more) == (True, False)
    assert again == books
    assert books.budget(SCOPE, JUNE) == Budget(reserved=DOLLAR)
    assert books.traffic[SCOPE].requests.used(int(NOW)) == 1


def test_a_request_is_recorded_once_with_its_true_cost_and_tokens() -> None:
    books, _ = granted(Books(), an_ask(), Bounds(allowed_tpm=100))
    call = a_call(1, cost=Decimal("0.3"), tokens=4)
    books, added = record(books, [call, call], {}, NOW + 1)
    again, nothing = record(books, [call], {}, NOW + 2)
    assert added == {call.request_id}
    assert not nothing
    assert again == books
    assert books.budget(SCOPE, JUNE) == Budget(spent=Decimal("0.3"))
    assert books.traffic[SCOPE].tokens.used(int(NOW)) == 4


def test_a_dead_gateways_money_is_charged_until_a_late_report_says_better() -> None:
    books, _ = granted(Books(), an_ask(), Bounds(monthly_budget_usd=Decimal(5)))
    books, nothing = lapse(books, {}, GATEWAY_TTL_S, NOW + GATEWAY_TTL_S)
    assert nothing == ()
    books, lapsed = lapse(books, {}, GATEWAY_TTL_S, NOW + GATEWAY_TTL_S + 1)
    assert [one.usd for one in lapsed] == [DOLLAR]
    assert books.budget(SCOPE, JUNE) == Budget(spent=DOLLAR, unconfirmed=DOLLAR)
    books, _ = record(books, [a_call(1, cost=Decimal("0.3"))], {}, NOW + 60)
    assert books.budget(SCOPE, JUNE) == Budget(spent=Decimal("0.3"))


def test_a_settlement_dearer_than_its_reservation_is_an_overrun_and_never_refused() -> None:
    bounds = Bounds(monthly_budget_usd=DOLLAR)
    books, _ = granted(Books(), an_ask(), bounds)
    books, _ = record(books, [a_call(1, cost=Decimal(3))], {SCOPE: bounds}, NOW)
    assert books.budget(SCOPE, JUNE).spent == 3
    assert [one.percent for one in books.told] == [50, 80, 95, 100]
    assert verdict(granted(books, an_ask(2), bounds)[1]) == "budget"


def test_a_cost_is_spent_in_the_month_of_its_lease() -> None:
    before_july = datetime(2026, 6, 30, 23, 59, 59, tzinfo=UTC).timestamp()
    books, _ = granted(Books(), an_ask(), Bounds(allowed_rpm=1), before_july)
    books, _ = record(books, [a_call(1, cost=DOLLAR)], {}, before_july + 60)
    assert books.budget(SCOPE, JUNE).spent == DOLLAR


def test_slots_of_a_silent_gateway_are_free_again_and_its_older_word_does_not_count() -> None:
    two_at_once = Bounds(allowed_concurrency=2)
    books, held = renew_slots(Books(), "g", {SCOPE: 2}, {SCOPE: two_at_once}, NOW, seq=2)
    assert held == {SCOPE: 2}
    other = replace(an_ask(2), gateway_id="h")
    assert verdict(granted(books, other, two_at_once)[1]) == "concurrency"
    books, held = renew_slots(books, "g", {SCOPE: 0}, {SCOPE: two_at_once}, NOW, seq=1)
    assert held == {SCOPE: 2}
    assert verdict(granted(books, other, two_at_once, NOW + GATEWAY_TTL_S)[1]) is None
