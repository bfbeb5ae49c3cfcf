"""One routed request while it is being answered, and what is reported of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from synaxis_common.clock import Clock
from synaxis_common.contracts.routing import Candidate, RoutePlan
from synaxis_common.contracts.usage import AttemptOutcome, AttemptReport, CallReport, RequestOutcome
from synaxis_common.logging import scrub
from synaxis_gateway import metrics
from synaxis_gateway.admission.admission import Admitted
from synaxis_gateway.dispatch.classify import Verdict
from synaxis_gateway.wire import usage
from synaxis_gateway.wire.openai_request import OpenAIRequest
from synaxis_gateway.wire.usage import UsageReading


@dataclass(slots=True)
class Attempt:
    """One attempt at one candidate. Its outcome is set once."""

    candidate: Candidate
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


@dataclass(slots=True)
class Call:
    """A request with its plan and its attempts."""

    request_id: UUID
    ask: OpenAIRequest
    admitted: Admitted
    gateway_id: str
    clock: Clock
    started: float
    """On the monotonic clock, when the request came in."""
    started_at: datetime
    deadline: float
    """On the monotonic clock."""
    attempts: list[Attempt] = field(default_factory=list)
    is_hedged: bool = False
    """Whoever is slow to begin may get company."""
    is_continued: bool = False
    """Whoever can may go on with an answer that breaks off."""
    is_concluded: bool = False
    """It has been reported, and what it did not use given back."""

    @property
    def plan(self) -> RoutePlan:
        """Who to try."""
        return self.admitted.plan

    @property
    def may_begin(self) -> bool:
        """Whether its permit still counts: a process that was stopped may wake up long after."""
        return self.clock.monotonic() < self.admitted.ends_at

    def begin(self, candidate: Candidate, ask: OpenAIRequest) -> Attempt:
        """A new attempt."""
        if self.attempts:
            metrics.FAILOVERS.inc()
        attempt = Attempt(candidate, ask, self.clock.monotonic())
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
        self._end(attempt, AttemptOutcome.OK)

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
        metrics.ATTEMPTS.labels(attempt.candidate.provider_id, outcome.value).inc()

    @property
    def tried(self) -> int:
        """Attempts that a provider may have heard of."""
        return sum(attempt.outcome is not AttemptOutcome.NO_KEY for attempt in self.attempts)

    @property
    def reached_a_provider(self) -> bool:
        """Whether any provider got the request."""
        return any(attempt.reached for attempt in self.attempts)

    @property
    def first_token_s(self) -> float | None:
        """From the request to its first content."""
        begun = [attempt.first_token for attempt in self.attempts if attempt.first_token is not None]
        return min(begun) - self.started if begun else None

    def report(self, http_status: int) -> CallReport:
        """What the registry is told when all is over."""
        draws = tuple(self.admitted.draws)
        return CallReport(
            request_id=self.request_id,
            lease_id=draws[0].lease_id if draws else None,
            draws=draws,
            gateway_id=self.gateway_id,
            tenant_id=self.plan.tenant_id,
            key_id=self.plan.key_id,
            global_model_id=self._answering_model(),
            model_asked=self.ask.model,
            operation=self.ask.endpoint,
            stream=self.ask.stream,
            started_at=self.started_at,
            outcome=self._outcome(http_status),
            http_status=http_status,
            latency_s=self.clock.monotonic() - self.started,
            time_to_first_token_s=self.first_token_s,
            attempts=tuple(self._attempt_report(attempt) for attempt in self.attempts),
        )

    def _answering_model(self) -> str:
        # With fallback models the last attempt may be at another model than the one asked for.
        return self.attempts[-1].candidate.global_model_id if self.attempts else self.plan.global_model_id

    def _outcome(self, http_status: int) -> RequestOutcome:
        last = self.attempts[-1].outcome if self.attempts else None
        match last:
            case AttemptOutcome.CLIENT_GONE:
                return RequestOutcome.CLIENT_GONE
            case AttemptOutcome.STREAM_CUT | AttemptOutcome.ABANDONED:
                return RequestOutcome.STREAM_CUT if http_status == 200 else RequestOutcome.UPSTREAM_ERROR
            case AttemptOutcome.OK:
                return RequestOutcome.OK
            case _ if http_status == 200:  # what should have continued a broken stream has failed too
                return RequestOutcome.STREAM_CUT
            case _ if 400 <= http_status < 500 and http_status != 429:
                return RequestOutcome.CLIENT_ERROR
            case _:
                return RequestOutcome.UPSTREAM_ERROR

    def _attempt_report(self, attempt: Attempt) -> AttemptReport:
        ended = attempt.ended if attempt.ended is not None else self.clock.monotonic()
        return AttemptReport(
            provider_id=attempt.candidate.provider_id,
            provider_model_id=attempt.candidate.provider_model_id,
            outcome=attempt.outcome or AttemptOutcome.ABANDONED,
            http_status=attempt.http_status,
            latency_s=ended - attempt.started,
            time_to_first_token_s=None
            if attempt.first_token is None
            else attempt.first_token - attempt.started,
            retry_after_s=attempt.retry_after_s,
            usage=None if attempt.reading is None else attempt.reading.usage,
            usage_estimated=attempt.reading is not None and attempt.reading.estimated,
            prices=attempt.candidate.prices,
            error=None if attempt.reason is None else scrub(attempt.reason, 300),
        )


def _estimate(attempt: Attempt) -> UsageReading:
    return usage.estimate(attempt.ask.measures.input_tokens, attempt.content_bytes)
