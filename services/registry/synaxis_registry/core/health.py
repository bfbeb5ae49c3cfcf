"""How an endpoint has done lately, from the attempts that gateways report.

Bounded windows of single measurements, merged by the database's row lock: enough for ranking and timeouts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, TypeVar

from synaxis_common.contracts.usage import AttemptOutcome, AttemptReport
from synaxis_registry.core.catalog import EndpointHealth

T = TypeVar("T")

WINDOW: Final = 100
"""Attempts that percentiles and rates rest on. Source: our choice; p95 then rests on five values."""

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


@dataclass(frozen=True, slots=True)
class HealthState:
    """What is kept of an endpoint's attempts, the newest last."""

    ttfts_s: tuple[float, ...] = ()
    latencies_s: tuple[float, ...] = ()
    tokens_per_s: tuple[float, ...] = ()
    outcomes: tuple[bool, ...] = ()
    """Whether each attempt failed."""
    failures_in_a_row: int = 0
    open_until: datetime | None = None
    limited_until: datetime | None = None


def with_attempt(state: HealthState, attempt: AttemptReport, now: datetime) -> HealthState:
    """`state` after one more attempt."""
    if attempt.outcome is AttemptOutcome.RATE_LIMITED:
        pause = timedelta(seconds=1.0 if attempt.retry_after_s is None else max(attempt.retry_after_s, 0.0))
        return replace(state, limited_until=now + min(pause, LONGEST_COOL_DOWN))
    if attempt.outcome in _SAYS_NOTHING:
        return state
    failed = attempt.outcome in _FAILURES
    state = replace(state, outcomes=_kept(state.outcomes, failed))
    if failed:
        in_a_row = state.failures_in_a_row + 1
        open_until = state.open_until
        if in_a_row >= TRIP_AFTER:
            ejection = min(FIRST_EJECTION * 2 ** min(in_a_row - TRIP_AFTER, 10), LONGEST_EJECTION)
            open_until = now + ejection
        return replace(state, failures_in_a_row=in_a_row, open_until=open_until)
    output = 0 if attempt.usage is None else attempt.usage.output
    ttft = attempt.time_to_first_token_s
    return replace(
        state,
        failures_in_a_row=0,
        open_until=None,
        latencies_s=_kept(state.latencies_s, attempt.latency_s),
        ttfts_s=state.ttfts_s if ttft is None else _kept(state.ttfts_s, ttft),
        tokens_per_s=(
            _kept(state.tokens_per_s, output / attempt.latency_s)
            if output and attempt.latency_s > 0
            else state.tokens_per_s
        ),
    )


def view(state: HealthState) -> EndpointHealth:
    """`state` as routing sees it."""
    return EndpointHealth(
        samples=len(state.outcomes),
        latency_p50_s=percentile(state.latencies_s, 50),
        latency_p95_s=percentile(state.latencies_s, 95),
        ttft_p50_s=percentile(state.ttfts_s, 50),
        ttft_p95_s=percentile(state.ttfts_s, 95),
        tokens_per_s=percentile(state.tokens_per_s, 50),
        error_rate=sum(state.outcomes) / len(state.outcomes) if state.outcomes else None,
        open_until=state.open_until,
        limited_until=state.limited_until,
    )


def percentile(values: Sequence[float], percent: int) -> float | None:
    """The smallest value that at least `percent` of a hundred are not above; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def _kept(values: tuple[T, ...], value: T) -> tuple[T, ...]:
    return (*values[-(WINDOW - 1) :], value)
