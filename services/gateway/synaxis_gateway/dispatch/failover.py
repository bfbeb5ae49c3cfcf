"""Walks the candidates of a plan until one answers."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from synaxis_common.contracts.routing import Candidate
from synaxis_common.contracts.usage import TokenUsage
from synaxis_gateway import metrics
from synaxis_gateway.admission.provider_limits import Turn
from synaxis_gateway.dispatch import classify, continuation
from synaxis_gateway.dispatch.attempt import Attempts, Begun, Failed, Result, Whole
from synaxis_gateway.dispatch.call import Call
from synaxis_gateway.dispatch.classify import Follows
from synaxis_gateway.dispatch.continuation import Continuation
from synaxis_gateway.dispatch.cooldown import Cooldowns
from synaxis_gateway.dispatch.cover import Cover
from synaxis_gateway.dispatch.hedge import HedgeBudget, race
from synaxis_gateway.dispatch.retry_budget import RetryBudget
from synaxis_gateway.upstream.errors import TooLate
from synaxis_gateway.wire.joined_stream import Joined, Transcript

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
    spared_for_s: float | None = None
    """Candidates were left alone because their provider's limits are spent; for how long at least."""


class PermitExpired(Exception):
    """Before the first attempt began the permit's time was over: the request must be admitted anew."""


class Failover:
    """Shared by all requests of a gateway, which learn from each other's failures."""

    def __init__(self, attempts: Attempts, budget: RetryBudget, cooldowns: Cooldowns, cover: Cover) -> None:
        self._attempts = attempts
        self._cover = cover
        self._hedges = HedgeBudget()
        self._budget = budget
        self._cooldowns = cooldowns

    async def run(self, call: Call) -> Whole | Begun | Refused | Exhausted:
        """Try candidates until one answers, the client is at fault, or the bounds are reached.

        Raises PermitExpired.
        """
        plan = call.plan
        model = plan.global_model_id
        queue = self._cooldowns.order(plan.candidates, call.clock.monotonic())
        refused: Refused | None = None
        spared: list[float] = []
        self._budget.first_attempt(model)
        while queue and call.tried < MAX_ATTEMPTS:
            if call.attempts and call.deadline - call.clock.monotonic() < LEAST_TIME_S:
                break
            candidate = queue.pop(0)
            turn = self._cover.at_hand(call, candidate)
            if turn is None:
                if not await self._cover.is_paid(call, candidate):
                    continue
                # Last of all, since the permit that it takes is for an attempt that begins now.
                turn = await self._cover.turn(call, candidate)
            if turn.wait_s is not None:
                spared.append(turn.wait_s)
                continue
            # An attempt that no provider heard of was load for nobody.
            is_extra = call.reached_a_provider
            if is_extra and not self._budget.begin_extra(model):
                metrics.RETRIES_REFUSED.inc()
                return refused or Exhausted(all_tried=False)
            self._hedges.earn()
            try:
                if call.is_hedged and not call.attempts and candidate.begins_within_s is not None:
                    results = await self._race(call, candidate, turn, queue)
                else:
                    results = [(candidate, await self._make(call, candidate, turn, queue))]
            except TooLate:
                if not call.reached_a_provider and not call.may_begin:
                    raise PermitExpired from None
                queue.insert(0, candidate)  # the provider's permit was over: another one is taken
                continue
            finally:
                if is_extra:
                    self._budget.end_extra(model)
            for candidate, result in results:
                if not isinstance(result, Failed):
                    self._cooldowns.succeeded(candidate, call.clock.monotonic())
                    return result
                self._cooldowns.failed(candidate, result.verdict, call.clock.monotonic())
                match result.verdict.follows:
                    case Follows.ANSWER:
                        refused = Refused(result.status or 400, result.body)
                        queue = []
                    case Follows.NEXT_IF_LARGER:
                        refused = refused or Refused(result.status or 400, result.body)
                        queue = [other for other in queue if _is_larger(other, candidate)]
        return refused or Exhausted(
            all_tried=not queue and not spared, spared_for_s=min(spared, default=None)
        )

    async def go_on(self, call: Call, transcript: Transcript) -> tuple[Begun, Joined] | None:
        """Have another candidate continue the answer that broke off after `transcript`. None: nobody can.

        The second of the answer makes its stream look as if the first had gone on.
        """
        model = call.plan.global_model_id
        tried = {_key(attempt.candidate) for attempt in call.attempts}
        now = call.clock.monotonic()
        for candidate in self._cooldowns.order(call.plan.candidates, now):
            if call.tried >= MAX_ATTEMPTS or call.deadline - call.clock.monotonic() < LEAST_TIME_S:
                break
            if _key(candidate) in tried:
                continue
            found = continuation.request(call.ask, transcript, candidate)
            if found is None:
                continue
            more = found.ask.measures.input_tokens - call.ask.measures.input_tokens
            if not await self._cover.is_paid(call, candidate, more):
                continue
            turn = await self._cover.turn(call, candidate)
            if turn.wait_s is not None:
                continue
            if not self._budget.begin_extra(model):
                metrics.RETRIES_REFUSED.inc()
                break
            try:
                result = await self._continue(call, found, turn)
            finally:
                self._budget.end_extra(model)
            if isinstance(result, Begun):
                self._cooldowns.succeeded(candidate, call.clock.monotonic())
                metrics.CONTINUATIONS.labels("made").inc()
                return result, found.joined(transcript, *_before(call))
            if isinstance(result, Failed):
                self._cooldowns.failed(candidate, result.verdict, call.clock.monotonic())
        metrics.CONTINUATIONS.labels("nobody").inc()
        return None

    def completed(self, candidate: Candidate) -> None:
        """A stream came to its proper end."""
        self._cooldowns.completed(candidate)

    def broke_off(self, call: Call, candidate: Candidate, reason: str) -> None:
        """A stream ended without its proper end after content had gone to the client."""
        self._cooldowns.failed(candidate, classify.cut(reason), call.clock.monotonic())

    async def _continue(self, call: Call, found: Continuation, turn: Turn) -> Result | None:
        try:
            return await self._attempts.make(
                call,
                found.candidate,
                found.ask,
                _until(turn.ends_at, call),
                is_last=True,
            )
        except TooLate:
            return None

    def _make(
        self, call: Call, candidate: Candidate, turn: Turn, queue: list[Candidate]
    ) -> Coroutine[Any, Any, Result]:
        """One attempt. Raises TooLate."""
        is_last = not queue or call.tried + 1 >= MAX_ATTEMPTS
        ends_at = turn.ends_at
        if not call.reached_a_provider:
            ends_at = min(ends_at, call.admitted.ends_at)
        return self._attempts.make(call, candidate, call.ask, _until(ends_at, call), is_last=is_last)

    async def _race(
        self, call: Call, candidate: Candidate, turn: Turn, queue: list[Candidate]
    ) -> list[tuple[Candidate, Result]]:
        """Two attempts, the second when the first has not begun to answer in time. Raises TooLate."""
        turns = {_key(candidate): turn}

        async def make(one: Candidate) -> Result:
            return await self._make(call, one, turns[_key(one)], queue)

        async def backup() -> Candidate | None:
            if not queue or not self._hedges.spend():
                return None
            if not await self._cover.is_paid(call, queue[0]):
                return None
            turn = await self._cover.turn(call, queue[0])
            if turn.wait_s is not None:
                return None
            turns[_key(queue[0])] = turn
            return queue.pop(0)

        return await race(call, candidate, make, backup)


def _until(ends_at: float, call: Call) -> Callable[[], bool]:
    """Whether it is not too late yet."""
    return lambda: call.clock.monotonic() < ends_at


def _before(call: Call) -> tuple[tuple[str, ...], TokenUsage]:
    """Who has taken part in the answer, the last attempt's provider last, and what the others used."""
    *broken, last = call.attempts
    sent = [attempt for attempt in broken if attempt.first_token is not None]
    readings = [attempt.reading.usage for attempt in sent if attempt.reading is not None]
    used = TokenUsage(
        input=sum(reading.input for reading in readings), output=sum(reading.output for reading in readings)
    )
    return tuple(attempt.candidate.provider_id for attempt in (*sent, last)), used


def _is_larger(other: Candidate, than: Candidate) -> bool:
    if other.context_window is None or than.context_window is None:
        return False
    return other.context_window > than.context_window


def _key(candidate: Candidate) -> tuple[str, str]:
    return candidate.provider_id, candidate.provider_model_id
