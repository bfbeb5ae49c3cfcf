"""What a report comes to: who served the request, what was used, what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from synaxis_common.contracts.usage import AttemptOutcome, TokenUsage
from synaxis_common.pricing import Used, cost, total
from synaxis_registry.core.reading import AnyAttempt, AnyReport


@dataclass(frozen=True, slots=True)
class Settlement:
    """A line of the ledger. `cost_usd` is None when a price that it needs was unknown."""

    provider_id: str | None
    provider_model_id: str | None
    usage: Used
    cost_usd: Decimal | None
    is_estimated: bool


def settlement(report: AnyReport) -> Settlement:
    """Sum up all attempts that were billed, each at the prices it was planned with."""
    attempts: Sequence[AnyAttempt] = report.attempts
    billed = [(attempt, attempt.usage) for attempt in attempts if attempt.usage is not None]
    costs = [cost(attempt.prices, usage) for attempt, usage in billed]
    served = next((one for one in reversed(attempts) if one.outcome is AttemptOutcome.OK), None)
    named = served or (attempts[-1] if attempts else None)
    return Settlement(
        provider_id=None if named is None else named.provider_id,
        provider_model_id=None if named is None else named.provider_model_id,
        usage=billed[0][1] if len(billed) == 1 else _together([usage for _, usage in billed]),
        cost_usd=None
        if any(one is None for one in costs)
        else total(one for one in costs if one is not None),
        is_estimated=any(attempt.usage_estimated for attempt, _ in billed),
    )


def _together(usages: Sequence[Used]) -> TokenUsage:
    return TokenUsage(
        **{name: sum(getattr(usage, name) for usage in usages) for name in TokenUsage.model_fields}
    )


def reserved_usd(report: AnyReport) -> Decimal:
    """What was reserved for all its attempts."""
    return total(draw.usd for draw in report.draws)


def overrun_usd(report: AnyReport, settled: Settlement) -> Decimal:
    """By how much a request that had a reservation was dearer than it: more than its worst case was."""
    reserved = reserved_usd(report)
    if not reserved or settled.cost_usd is None:
        return Decimal(0)
    return max(settled.cost_usd - reserved, Decimal(0))
