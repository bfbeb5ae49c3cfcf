"""Every attempt that may be billed is covered: by our share of a provider's limits, and by reserved money."""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from synaxis_common.contracts.routing import Candidate, Needs
from synaxis_common.pricing import booked_tokens, worst_case_cost
from synaxis_gateway import metrics
from synaxis_gateway.admission.admission import Admission
from synaxis_gateway.admission.provider_limits import ProviderLimits, Turn
from synaxis_gateway.dispatch.call import Attempt, Call

_NOTHING: Final = Decimal(0)
_ANY_TIME: Final = Turn()


class Cover:
    """Asked before each attempt."""

    def __init__(self, admission: Admission, provider_limits: ProviderLimits) -> None:
        self._admission = admission
        self._provider_limits = provider_limits

    def at_hand(self, call: Call, candidate: Candidate) -> Turn | None:
        """The turn of an attempt that needs no more cover than its request came with; None: ask."""
        return None if call.attempts or candidate.is_rate_limited else _ANY_TIME

    async def turn(self, call: Call, candidate: Candidate) -> Turn:
        """Take a permit of the limits that all tenants share at a candidate."""
        if not candidate.is_rate_limited:
            return _ANY_TIME
        turn = await self._provider_limits.take(candidate, booked_tokens(call.admitted.needs))
        if turn.wait_s is not None:
            metrics.PROVIDER_LIMITS_SPENT.labels(candidate.provider_id).inc()
        return turn

    async def is_paid(self, call: Call, candidate: Candidate, more_input_tokens: int = 0) -> bool:
        """Whether what is reserved covers the worst case of this attempt besides those that may be billed.

        `more_input_tokens`: what the attempt is given beyond the client's request.
        """
        admitted = call.admitted
        if not call.attempts or not admitted.keeps_budget:
            return True  # the first attempt is covered by what admitted the request
        needs = admitted.needs
        billed = [
            _worst(attempt.candidate, needs, _more_input(attempt, call))
            for attempt in call.attempts
            if attempt.reading is not None or attempt.outcome is None  # the latter is under way
        ]
        needed = sum(billed, _worst(candidate, needs, more_input_tokens))
        missing = needed - admitted.reserved_usd
        if missing <= 0 or await self._admission.cover(admitted, missing):
            return True
        metrics.ATTEMPTS_NOT_COVERED.inc()
        return False


def _more_input(attempt: Attempt, call: Call) -> int:
    return attempt.ask.measures.input_tokens - call.ask.measures.input_tokens


def _worst(candidate: Candidate, needs: Needs, more_input_tokens: int) -> Decimal:
    if more_input_tokens:
        needs = needs.model_copy(update={"input_tokens": needs.input_tokens + more_input_tokens})
    worst = worst_case_cost(
        candidate.prices,
        needs,
        context_window=candidate.context_window,
        max_output=candidate.max_output,
    )
    return _NOTHING if worst is None else worst
