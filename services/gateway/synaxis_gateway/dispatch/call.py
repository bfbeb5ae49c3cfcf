"""One routed request while it is being answered."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import msgspec

from synaxis_common.clock import Clock
from synaxis_common.contracts.routing import Candidate
from synaxis_common.contracts.usage import AttemptOutcome
from synaxis_gateway import metrics
from synaxis_gateway.admission.admission import Admitted
from synaxis_gateway.admission.held_plan import HeldPlan
from synaxis_gateway.dispatch.classify import Verdict
from synaxis_gateway.dispatch.destination import Destination
from synaxis_gateway.wire import usage
from synaxis_gateway.wire.openai_request import OpenAIRequest
from synaxis_gateway.wire.usage import UsageReading

_OK: Final = AttemptOutcome.OK
_NO_KEY: Final = AttemptOutcome.NO_KEY
# Looked up once: in Python 3.11 a member of an enum takes ten times as long to find as a global.


class Attempt(msgspec.Struct, eq=False):
    """One attempt at one candidate. Its outcome is set once."""

    destination: Destination
    ask: OpenAIRequest
    """What it is asked: the client's request, or the continuation of its answer."""
    started: float
    outcome: AttemptOutcome | None = None
    http_status: int | None = None
    ended: float | None = None
    first_token: float | None = None
    retry_after_s: float | None = None
    reading: UsageReading | None = None
    content_bytes: int = 0
    reason: str | None = None
    reached: bool = True
    """Whether the provider got the request."""

    @property
    def is_ok(self) -> bool:
        """Whether it has brought a complete answer."""
        return self.outcome is _OK

    @property
    def candidate(self) -> Candidate:
        """Who it is made at."""
        return self.destination.candidate


class Call(msgspec.Struct, eq=False):
    """A request with its plan and its attempts."""

    request_id: str
    ask: OpenAIRequest
    admitted: Admitted
    gateway_id: str
    clock: Clock
    started: float
    """On the monotonic clock, when the request came in."""
    started_at: datetime
    deadline: float
    """On the monotonic clock."""
    attempts: list[Attempt] = []
    is_hedged: bool = False
    """Whoever is slow to begin may get company."""
    is_continued: bool = False
    """Whoever can may go on with an answer that breaks off."""
    is_concluded: bool = False
    """It has been reported, and what it did not use given back."""

    @property
    def plan(self) -> HeldPlan:
        """Who to try."""
        return self.admitted.plan

    @property
    def may_begin(self) -> bool:
        """Whether its permit still counts: a process that was stopped may wake up long after."""
        return self.clock.monotonic() < self.admitted.ends_at

    def begin(self, destination: Destination, ask: OpenAIRequest) -> Attempt:
        """A new attempt."""
        if self.attempts:
            metrics.FAILOVERS.inc()
        attempt = Attempt(destination, ask, self.clock.monotonic())
        self.attempts.append(attempt)
        return attempt

    def fail(self, attempt: Attempt, verdict: Verdict) -> None:
        """The attempt failed before any content."""
        attempt.retry_after_s = verdict.retry_after_s
        attempt.reason = verdict.reason
        attempt.reached = verdict.reached
        if verdict.may_be_billed:
            attempt.reading = _estimate(attempt)
        self._end(attempt, verdict.outcome)

    def succeed(self, attempt: Attempt, reading: UsageReading | None) -> None:
        """The answer is complete. Without a reading what it used is estimated."""
        attempt.reading = reading or _estimate(attempt)
        self._end(attempt, _OK)

    def break_off(self, outcome: AttemptOutcome, reason: str) -> None:
        """The attempts under way end without their proper end; nothing happens when there is none."""
        for attempt in self.attempts:
            self._break_off(attempt, outcome, reason)

    def give_up(self, candidate: Candidate, reason: str) -> None:
        """The attempt at `candidate` is not waited for any longer. It may be billed."""
        for attempt in self.attempts:
            if attempt.candidate is candidate:
                self._break_off(attempt, AttemptOutcome.ABANDONED, reason)

    def put_last(self, candidate: Candidate) -> None:
        """The attempt at `candidate` is the one that counts: the last of all."""
        self.attempts.sort(key=lambda attempt: attempt.candidate is candidate)

    def _break_off(self, attempt: Attempt, outcome: AttemptOutcome, reason: str) -> None:
        if attempt.outcome is None:
            attempt.reason = reason
            attempt.reading = _estimate(attempt)
            self._end(attempt, outcome)

    def _end(self, attempt: Attempt, outcome: AttemptOutcome) -> None:
        attempt.outcome = outcome
        attempt.ended = self.clock.monotonic()
        metrics.ATTEMPTS.of(attempt.destination.provider_id, outcome).count += 1

    @property
    def tried(self) -> int:
        """Attempts that a provider may have heard of."""
        count = 0
        for attempt in self.attempts:
            count += attempt.outcome is not _NO_KEY
        return count

    @property
    def reached_a_provider(self) -> bool:
        """Whether any provider got the request."""
        for attempt in self.attempts:  # noqa: SIM110 - a generator costs more than all of it
            if attempt.reached:
                return True
        return False

    @property
    def first_token_s(self) -> float | None:
        """From the request to its first content."""
        begun = [attempt.first_token for attempt in self.attempts if attempt.first_token is not None]
        return min(begun) - self.started if begun else None


def _estimate(attempt: Attempt) -> UsageReading:
    return usage.estimate(attempt.ask.measures.input_tokens, attempt.content_bytes)
