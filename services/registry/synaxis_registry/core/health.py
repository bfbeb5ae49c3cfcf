"""How an endpoint does, by the attempts that gateways report: its circuit, and what was measured lately."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from synaxis_common.contracts.performance import Performance
from synaxis_common.contracts.usage import AttemptOutcome
from synaxis_registry.core.catalog import MIN_SAMPLES, EndpointHealth
from synaxis_registry.core.latency import DAY, RECENT, Bucket, Measured, added, performance, present, within
from synaxis_registry.core.reading import AnyAttempt, AnyReport

TRIP_AFTER: Final = 5
"""Failures in a row that open the circuit. Source: Envoy's `consecutive_5xx`."""

FIRST_EJECTION: Final = timedelta(seconds=1)
LONGEST_EJECTION: Final = timedelta(seconds=8)
"""Doubling from the first; at most so long that an endpoint is back within 10 s of recovering."""

LONGEST_COOL_DOWN: Final = timedelta(minutes=10)
"""A `Retry-After` beyond this is not believed."""

_FAILURES: Final = frozenset(
    {
        AttemptOutcome.CONNECT_ERROR,
        AttemptOutcome.TIMEOUT,
        AttemptOutcome.SERVER_ERROR,
        AttemptOutcome.MALFORMED,
        AttemptOutcome.STREAM_CUT,
        AttemptOutcome.UNAUTHORIZED,
    }
)
_SAYS_NOTHING: Final = frozenset(
    {
        AttemptOutcome.REQUEST_ERROR,
        AttemptOutcome.CLIENT_GONE,
        AttemptOutcome.NO_KEY,
        AttemptOutcome.ABANDONED,
        AttemptOutcome.NOT_FOUND,
        AttemptOutcome.RATE_LIMITED,
    }
)
"""About the request, the client, the gateway, the model's name or our quota: not about how well it works."""


NEWS_FOR: Final = timedelta(minutes=5)
"""A request that ended longer ago says nothing of now: reports may have waited on a disk for hours."""

SETTLE_AFTER: Final = timedelta(seconds=30)
QUIET_SETTLE_AFTER: Final = timedelta(minutes=10)
"""How soon windows are made anew though nobody reports, so that what is old leaves them."""


@dataclass(frozen=True, slots=True)
class HealthState:
    """What is kept of an endpoint's attempts."""

    recent: Performance = Performance()
    day: Performance = Performance()
    failures_in_a_row: int = 0
    open_until: datetime | None = None
    limited_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Noted:
    """What attempts come to: the state, and the buckets that have changed."""

    state: HealthState
    buckets: tuple[Bucket, ...]


def is_news(report: AnyReport, now: datetime) -> bool:
    """Whether a request was lately enough to say how its endpoints do."""
    return now - report.started_at - timedelta(seconds=report.latency_s) <= NEWS_FOR


def noted(
    state: HealthState, attempts: Sequence[AnyAttempt], buckets: Sequence[Bucket], now: datetime
) -> Noted:
    """`state` after `attempts`. `buckets`: those of the last minutes and of the present hour.

    The day is told anew by `settled` only: it hardly differs from what it was half a minute ago.
    """
    for attempt in attempts:
        state = _with_attempt(state, attempt, now)
    found = [one for attempt in attempts if (one := measured(attempt)) is not None]
    if not found:
        return Noted(state, ())
    minute = added(present(RECENT, buckets, now), found)
    hour = added(present(DAY, buckets, now), found)
    others = [one for one in within(RECENT, buckets, now) if one.since != minute.since]
    return Noted(replace(state, recent=performance((*others, minute))), (minute, hour))


def settled(
    state: HealthState, buckets: Sequence[Bucket], now: datetime
) -> tuple[HealthState, datetime | None]:
    """`state` with both windows as they are now, and when to do that again; None: after a report."""
    recent, day = within(RECENT, buckets, now), within(DAY, buckets, now)
    after = SETTLE_AFTER if recent else QUIET_SETTLE_AFTER if day else None
    return (
        replace(state, recent=performance(recent), day=performance(day)),
        None if after is None else now + after,
    )


def measured(attempt: AnyAttempt) -> Measured | None:
    """What an attempt says of how well its endpoint works. None: nothing."""
    if attempt.outcome in _SAYS_NOTHING:
        return None
    if attempt.outcome in _FAILURES:
        return Measured(failed=True)  # however fast: a failure attracts no traffic
    output = 0 if attempt.usage is None else attempt.usage.output
    return Measured(
        ttft_s=attempt.time_to_first_token_s,
        total_s=attempt.latency_s,
        tokens_per_s=output / attempt.latency_s if output and attempt.latency_s > 0 else None,
    )


def _with_attempt(state: HealthState, attempt: AnyAttempt, now: datetime) -> HealthState:
    if attempt.outcome is AttemptOutcome.RATE_LIMITED:
        pause = timedelta(seconds=1.0 if attempt.retry_after_s is None else max(attempt.retry_after_s, 0.0))
        return replace(state, limited_until=now + min(pause, LONGEST_COOL_DOWN))
    if attempt.outcome in _SAYS_NOTHING:
        return state
    if attempt.outcome not in _FAILURES:
        return replace(state, failures_in_a_row=0, open_until=None)
    in_a_row = state.failures_in_a_row + 1
    if in_a_row < TRIP_AFTER:
        return replace(state, failures_in_a_row=in_a_row)
    ejection = min(FIRST_EJECTION * 2 ** min(in_a_row - TRIP_AFTER, 10), LONGEST_EJECTION)
    return replace(state, failures_in_a_row=in_a_row, open_until=now + ejection)


def view(state: HealthState) -> EndpointHealth:
    """`state` as routing sees it: the last minutes where enough was measured in them, else the day."""
    recent, day = state.recent, state.day
    ttft, total = recent.ttft_s or day.ttft_s, recent.total_s or day.total_s
    speed = recent.tokens_per_s or day.tokens_per_s
    return EndpointHealth(
        samples=recent.requests if recent.requests >= MIN_SAMPLES else max(recent.requests, day.requests),
        latency_p50_s=None if total is None else total.p50,
        latency_p95_s=None if total is None else total.p95,
        ttft_p50_s=None if ttft is None else ttft.p50,
        ttft_p95_s=None if ttft is None else ttft.p95,
        tokens_per_s=None if speed is None else speed.p50,
        error_rate=day.error_rate if recent.error_rate is None else recent.error_rate,
        recent=recent,
        day=day,
        open_until=state.open_until,
        limited_until=state.limited_until,
    )
