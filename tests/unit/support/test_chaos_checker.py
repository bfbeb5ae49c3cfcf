"""The checker of a chaos run: what is right passes, and each kind of wrong is found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from decimal import Decimal

import pytest
from tests.chaos.auditor import Billed
from tests.chaos.books import Books, Budget, Charge, Line
from tests.chaos.checker import Evidence, Finding, check, most_at_once, worst_window
from tests.chaos.load import Seen
from tests.chaos.nemesis import Wound
from tests.chaos.world import PRICES, Limit, Tenant

BUDGET = Decimal("0.01")
TENANT = Tenant("acme", 1.0, {"*": Limit(rpm=4, tpm=1_000, budget=BUDGET, concurrency=2)})
KEY = "key-1"
COST = PRICES["alpha", "talker-9"].cost(100, 50)


def billed(number: int, came: float, **changes: object) -> Billed:
    """A request that was answered and billed 100 + 50 tokens."""
    one = Billed(
        serial=number,
        request_id=f"request-{number}",
        provider="alpha",
        model="talker-9",
        tenant="acme",
        key=0,
        stream=False,
        came=came,
        came_at=came,
        ended=came + 0.5,
        status=200,
        prompt=100,
        completion=50,
        usage_said=True,
        is_complete=True,
    )
    return replace(one, **changes)  # type: ignore[arg-type]


def line_of(one: Billed, **changes: object) -> Line:
    """The ledger's line that fits."""
    line = Line(
        request_id=one.request_id,
        tenant=one.tenant,
        key_id=KEY,
        model=one.model,
        provider=one.provider,
        prompt=one.prompt,
        completion=one.completion,
        cost=one.cost,
        is_estimated=False,
        reserved=Decimal("0.001"),
        gateway_id="host-77-abc",
        attempts=({"outcome": "ok"},),
    )
    return replace(line, **changes)  # type: ignore[arg-type]


def evidence_of(
    requests: Iterable[Billed],
    lines: Iterable[Line] | None = None,
    *,
    wounds: tuple[Wound, ...] = (),
    unconfirmed: Decimal = Decimal(0),
    reserved: Decimal = Decimal(0),
    charges: tuple[Charge, ...] = (),
) -> Evidence:
    """A run with these requests, all else being as it should."""
    all_billed = list(requests)
    ledger = {one.request_id: one for one in (map(line_of, all_billed) if lines is None else lines)}
    cost = sum((one.cost or Decimal(0) for one in ledger.values()), Decimal(0))
    total = (len(ledger), 0, 0, cost)
    seen = [
        Seen("acme", False, one.came, 0.5, 200, None, one.request_id, is_complete=True)
        for one in all_billed
        if one.is_complete
    ]
    seen.append(Seen("acme", False, 0.0, 0.1, 429, "rate_limit_exceeded", "refused", retry_after=True))
    return Evidence(
        tenants=(TENANT,),
        key_ids={"acme": [KEY]},
        billed=all_billed,
        seen=seen,
        books=Books(
            ledger=ledger,
            budgets={"t/acme/*": Budget(cost + unconfirmed, reserved, unconfirmed)},
            charges=list(charges),
            sums={"usage_ledger": total, "usage_hour": total, "usage_day": total},
            settled_after_s=1.0,
        ),
        wounds=wounds,
        seconds=30.0,
    )


def broken(evidence: Evidence) -> list[str]:
    """The promises that were not kept."""
    return [finding.promise for finding in check(evidence) if not finding.is_kept]


def detail(evidence: Evidence, promise: str) -> Finding:
    return next(finding for finding in check(evidence) if finding.promise.startswith(promise))


FOUR = [billed(number, 20.0 * number) for number in range(4)]
DEAD = Wound("gateway", "kill", 77, 20.2, 20.2)


def test_a_run_in_which_all_is_right_has_nothing_broken() -> None:
    assert broken(evidence_of(FOUR)) == []


@pytest.mark.parametrize(
    ("times", "worst"),
    [([], 0), ([0, 59.9], 2), ([0, 60.0], 1), ([0, 30, 60, 61, 89, 150], 4), ([5, 5, 5], 3)],
)
def test_the_fullest_window_is_found_wherever_it_begins(times: list[float], worst: int) -> None:
    assert worst_window((time, 1) for time in times)[0] == worst


def test_what_ends_when_another_begins_does_not_overlap_it() -> None:
    assert most_at_once([(0, 2), (1, 3), (2, 4)]) == 2


def test_one_request_too_many_in_a_window_is_found_with_what_was_done_then() -> None:
    crowd = [billed(number, 10.0 + number) for number in range(5)]
    found = detail(evidence_of(crowd, wounds=(DEAD,)), "requests a minute")
    assert not found.is_kept
    assert "5 of 4" in found.detail
    assert "kill gateway 77" in found.detail


def test_a_second_attempt_at_a_request_is_not_a_second_request() -> None:
    again = billed(9, 40.5, request_id="request-2", status=500, prompt=0, completion=0)
    assert broken(evidence_of([*FOUR, again], map(line_of, FOUR))) == []


def test_too_many_tokens_in_a_window_are_found() -> None:
    greedy = [billed(0, 0.0, prompt=900), billed(1, 1.0)]
    assert "tokens a minute of t/acme/*" in broken(evidence_of(greedy))


def test_too_many_at_once_are_found() -> None:
    together = [billed(number, number / 10) for number in range(3)]
    assert "requests at once of t/acme/*" in broken(evidence_of(together))


def test_a_budget_that_is_passed_is_found() -> None:
    dear = billed(0, 0.0, completion=5_000)
    lines = [line_of(dear, reserved=dear.cost)]
    assert "budget of t/acme/*: true cost within it" in broken(evidence_of([dear], lines))
    assert "budget of t/acme/*: spent + reserved within it" in broken(evidence_of([dear], lines))


def test_a_provider_that_bills_more_than_the_worst_case_is_an_overrun_and_allowed() -> None:
    lie = billed(0, 0.0, completion=900)
    tight = evidence_of([lie], [line_of(lie, reserved=Decimal("0.0001"))])
    lied_to = replace(TENANT, limits={"*": Limit(budget=Decimal("0.0001"))})
    assert broken(replace(tight, tenants=(lied_to,))) == []


def test_a_billed_request_that_is_not_in_the_ledger_is_found() -> None:
    silent = billed(1, 20.0, is_complete=False)
    promise = "every billed request is in the ledger, but those that a killed gateway had under way"
    evidence = evidence_of([FOUR[0], silent], [line_of(FOUR[0])])
    assert promise in broken(evidence)
    killed = evidence_of(
        [FOUR[0], silent],
        [line_of(FOUR[0])],
        wounds=(DEAD,),
        unconfirmed=COST,
        charges=(Charge("lease", "host-77-abc", "acme", COST, scopes=("t/acme/*",)),),
    )
    assert broken(killed) == []


def test_what_a_killed_gateway_never_reported_must_be_charged() -> None:
    silent = billed(1, 20.0, is_complete=False)
    free_of_charge = evidence_of([silent], [], wounds=(DEAD,))
    assert broken(free_of_charge) == ["budget of t/acme/*: what was never reported is charged"]


def test_an_answer_that_a_client_has_must_be_in_the_ledger_whoever_was_killed() -> None:
    evidence = evidence_of([billed(1, 20.0)], [], wounds=(DEAD,), unconfirmed=COST)
    assert "every request whose client has its answer is in the ledger" in broken(evidence)


def test_a_line_that_no_provider_saw_is_found() -> None:
    ghost = line_of(billed(99, 0.0))
    assert "nothing is in the ledger that no provider saw" in broken(
        evidence_of(FOUR, [*map(line_of, FOUR), ghost])
    )


def test_a_cent_too_much_or_a_token_too_few_is_found() -> None:
    promise = "what is not estimated is right, token by token and cent by cent"
    for changes in ({"cost": COST + Decimal("0.00000001")}, {"prompt": 99}):
        lines = [line_of(FOUR[0], **changes), *map(line_of, FOUR[1:])]
        assert promise in broken(evidence_of(FOUR, lines))


def test_an_estimate_of_what_the_provider_has_told_is_found() -> None:
    lines = [line_of(FOUR[0], is_estimated=True), *map(line_of, FOUR[1:])]
    assert broken(evidence_of(FOUR, lines)) == ["nothing is estimated that a provider has told"]


def test_money_that_is_still_reserved_is_found() -> None:
    assert broken(evidence_of(FOUR, reserved=Decimal("0.000001"))) == ["nothing is reserved at the end"]


def test_a_charge_for_a_gateway_that_lives_is_found() -> None:
    charge = Charge("lease", "host-78-abc", "acme", COST, scopes=("t/acme/*",))
    assert broken(evidence_of(FOUR, unconfirmed=COST, charges=(charge,), wounds=(DEAD,))) == [
        "only leases of killed gateways are charged unconfirmed"
    ]


def test_a_charge_that_is_in_no_budget_is_found() -> None:
    charge = Charge("lease", "host-77-abc", "acme", COST, scopes=("t/acme/*",))
    assert broken(evidence_of(FOUR, charges=(charge,), wounds=(DEAD,))) == [
        "what leases were charged for is what their scopes have unconfirmed"
    ]


def test_a_line_of_another_tenant_is_found() -> None:
    lines = [line_of(FOUR[0], key_id="key-2"), *map(line_of, FOUR[1:])]
    assert broken(evidence_of(FOUR, lines)) == ["every line names its tenant, key and model"]


def test_sums_that_differ_from_the_ledger_are_found() -> None:
    evidence = evidence_of(FOUR)
    evidence.books.sums["usage_day"] = (3, 0, 0, COST)
    assert broken(evidence) == ["the sums by hour and day are the ledger's"]
