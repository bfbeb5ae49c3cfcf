"""Walks the candidates of a plan until one answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from synaxis_common.contracts.routing import Candidate
from synaxis_gateway import metrics
from synaxis_gateway.dispatch.attempt import Attempts, Begun, Failed, Whole
from synaxis_gateway.dispatch.call import Call
from synaxis_gateway.dispatch.classify import Follows
from synaxis_gateway.dispatch.cooldown import Cooldowns
from synaxis_gateway.dispatch.retry_budget import RetryBudget

MAX_ATTEMPTS = 4
"""Each at another candidate. gRPC bounds retries at 5; with a plan sorted well, more is only load."""
LEAST_TIME_S = 0.05
"""With less than this until the deadline no further attempt is begun."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A provider's own answer about the request, for the client."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Exhausted:
    """Nobody answered; what was tried is in the call."""

    all_tried: bool
    """Whether every candidate of the plan was."""


class Failover:
    """Shared by all requests of a gateway, which learn from each other's failures."""

    def __init__(self, attempts: Attempts, budget: RetryBudget, cooldowns: Cooldowns) -> None:
        self._attempts = attempts
        self._budget = budget
        self._cooldowns = cooldowns

    async def run(self, call: Call) -> Whole | Begun | Refused | Exhausted:
        """Try candidates until one answers, the client is at fault, or the bounds are reached."""
        model = call.plan.global_model_id
        queue = self._cooldowns.order(_distinct(call.plan.candidates), call.clock.monotonic())
        refused: Refused | None = None
        self._budget.first_attempt(model)
        while queue and call.tried < MAX_ATTEMPTS:
            if call.attempts and call.deadline - call.clock.monotonic() < LEAST_TIME_S:
                break
            candidate = queue.pop(0)
            # An attempt that no provider heard of was load for nobody.
            is_extra = call.reached_a_provider
            if is_extra and not self._budget.begin_extra(model):
                metrics.RETRIES_REFUSED.inc()
                return refused or Exhausted(all_tried=False)
            try:
                result = await self._attempts.make(
                    call, candidate, is_last=not queue or call.tried + 1 >= MAX_ATTEMPTS
                )
            finally:
                if is_extra:
                    self._budget.end_extra(model)
            if not isinstance(result, Failed):
                self._cooldowns.succeeded(candidate)
                return result
            self._cooldowns.failed(candidate, result.verdict, call.clock.monotonic())
            match result.verdict.follows:
                case Follows.ANSWER:
                    return Refused(result.status or 400, result.body)
                case Follows.NEXT_IF_LARGER:
                    refused = refused or Refused(result.status or 400, result.body)
                    queue = [other for other in queue if _is_larger(other, candidate)]
        return refused or Exhausted(all_tried=not queue)


def _is_larger(other: Candidate, than: Candidate) -> bool:
    if other.context_window is None or than.context_window is None:
        return False
    return other.context_window > than.context_window


def _distinct(candidates: Sequence[Candidate]) -> list[Candidate]:
    return list({(each.provider_id, each.provider_model_id): each for each in candidates}.values())
