"""What a report comes to, and when it is dearer than what was reserved for it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any
from uuid import UUID

from tests.unit.registry.core_world import NOW, REQUEST, TENANT, prices, usd

from synaxis_common.contracts.catalog import Prices
from synaxis_common.contracts.leases import LeaseDraw
from synaxis_common.contracts.usage import (
    AttemptOutcome,
    AttemptReport,
    CallReport,
    RequestOutcome,
    TokenUsage,
)
from synaxis_registry.core.settle import overrun_usd, reserved_usd, settlement

TEN = TokenUsage(input=10, output=10)


def attempt(
    provider_id: str, usage: TokenUsage | None = TEN, cost: Prices | None = None, **others: Any
) -> AttemptReport:
    """An attempt at 1 and 2 USD for a million tokens."""
    return AttemptReport(
        provider_id=provider_id,
        provider_model_id="m",
        outcome=others.pop("outcome", AttemptOutcome.OK),
        latency_s=1.0,
        usage=usage,
        prices=prices("1", "2") if cost is None else cost,
        **others,
    )


def call(*attempts: AttemptReport, draws: tuple[str, ...] = ()) -> CallReport:
    return CallReport(
        request_id=REQUEST,
        draws=tuple(LeaseDraw(lease_id=UUID(int=n), usd=usd(one)) for n, one in enumerate(draws)),
        tenant_id=TENANT,
        key_id="key-1",
        global_model_id="m",
        model_asked="m",
        started_at=NOW,
        outcome=RequestOutcome.OK,
        http_status=200,
        latency_s=1.0,
        attempts=attempts,
    )


def test_every_attempt_that_was_billed_counts_and_who_answered_is_named() -> None:
    cut = attempt("a", outcome=AttemptOutcome.STREAM_CUT, usage_estimated=True)
    refused = attempt("b", None, outcome=AttemptOutcome.CONNECT_ERROR)
    found = settlement(call(cut, refused, attempt("c")))
    assert (found.provider_id, found.usage, found.cost_usd) == (
        "c",
        TokenUsage(input=20, output=20),
        Decimal("0.00006"),
    )
    assert found.is_estimated


def test_a_price_that_is_unknown_makes_the_cost_unknown() -> None:
    report = call(attempt("a", cost=Prices()), draws=("0.1",))
    assert settlement(report).cost_usd is None
    assert overrun_usd(report, settlement(report)) == 0


def test_all_draws_of_a_request_are_its_reservation() -> None:
    report = call(attempt("a"), draws=("0.00002", "0.000005"))
    assert reserved_usd(report) == Decimal("0.000025")
    assert overrun_usd(report, settlement(report)) == Decimal("0.000005")


def test_what_costs_no_more_than_its_reservation_is_no_overrun() -> None:
    report = call(attempt("a"), draws=("0.00003",))
    assert overrun_usd(report, settlement(report)) == 0


def test_without_a_reservation_there_is_no_overrun() -> None:
    report = call(attempt("a"))
    assert overrun_usd(report, settlement(report)) == 0
