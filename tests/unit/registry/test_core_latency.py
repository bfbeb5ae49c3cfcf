"""Windows of percentiles: as good as the values themselves, whoever measured them, and gone when old."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synaxis_common.contracts.catalog import Prices
from synaxis_common.contracts.performance import Performance
from synaxis_common.contracts.usage import AttemptOutcome, AttemptReport, TokenUsage
from synaxis_registry.core.catalog import MIN_SAMPLES
from synaxis_registry.core.health import HealthState, noted, settled, view
from synaxis_registry.core.latency import (
    DAY,
    RECENT,
    Bucket,
    Measured,
    added,
    performance,
    present,
    within,
)

NOW = datetime(2026, 11, 23, 12, 30, 15, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
ENOUGH = 1_000
RANK = 0.015
"""How far off the rank of a percentile may be."""


def times(seconds: list[float]) -> list[Measured]:
    return [Measured(ttft_s=each, total_s=2 * each, tokens_per_s=1 / each) for each in seconds]


def bucket(measured: list[Measured], since: datetime = NOW) -> Bucket:
    return added(Bucket(since, RECENT.bucket), measured)


def rank_of(value: float, values: list[float]) -> float:
    """The share of `values` that is not above `value`."""
    return sum(each <= value for each in values) / len(values)


@pytest.mark.parametrize(
    "draw",
    [
        lambda dice: dice.lognormvariate(-1, 1),
        lambda dice: dice.uniform(0.2, 0.3),
        lambda dice: dice.gauss(0.2, 0.01) if dice.random() < 0.8 else dice.gauss(4, 0.2),
        lambda dice: dice.paretovariate(1.5) / 10,
    ],
    ids=["log-normal", "uniform", "two humps", "heavy tail"],
)
def test_percentiles_of_many_merged_buckets_are_those_of_all_values(
    draw: Callable[[random.Random], float],
) -> None:
    dice = random.Random(11)
    values = [draw(dice) for _ in range(25 * ENOUGH)]
    parts = [bucket(times(values[start::25])) for start in range(25)]
    spread = performance(parts).ttft_s
    assert spread is not None
    for found, percent in ((spread.p50, 0.5), (spread.p95, 0.95), (spread.p99, 0.99)):
        assert rank_of(found, values) == pytest.approx(percent, abs=RANK)
    assert max(len(part.ttft) for part in parts) <= 2_000, "bytes"


@given(st.lists(st.floats(0.001, 600), min_size=MIN_SAMPLES, max_size=100), st.integers(1, 7))
def test_it_does_not_matter_who_measured_what(seconds: list[float], registries: int) -> None:
    together = performance([bucket(times(seconds))])
    apart = performance(bucket(times(seconds[start::registries])) for start in range(registries))
    assert (apart.requests, apart.failures) == (together.requests, together.failures)
    assert apart.total_s is not None
    assert together.total_s is not None
    assert apart.total_s.p50 == pytest.approx(together.total_s.p50, rel=0.001)
    assert apart.total_s.p99 == pytest.approx(together.total_s.p99, rel=0.001)


def test_little_says_nothing() -> None:
    few = performance([bucket(times([0.1] * (MIN_SAMPLES - 1)))])
    assert (few.requests, few.error_rate, few.ttft_s) == (MIN_SAMPLES - 1, None, None)
    failures = performance([bucket([Measured(failed=True)] * MIN_SAMPLES)])
    assert (failures.error_rate, failures.total_s) == (1.0, None), "failures have no latency, however fast"


def test_a_window_is_of_whole_buckets_and_the_old_ones_leave_it() -> None:
    kept = [bucket(times([0.1]), RECENT.begin(NOW) - ago * MINUTE) for ago in range(8)]
    assert within(RECENT, kept, NOW) == kept[:6]
    assert within(RECENT, kept, NOW + 2 * MINUTE) == kept[:4]
    assert within(DAY, kept, NOW) == [], "minutes are no part of a day's hours"
    assert present(RECENT, kept, NOW) is kept[0]
    assert present(RECENT, kept, NOW + MINUTE).requests == 0


# The health of an endpoint


def attempt(outcome: AttemptOutcome = AttemptOutcome.OK, seconds: float = 0.5) -> AttemptReport:
    return AttemptReport(
        provider_id="a",
        provider_model_id="m",
        outcome=outcome,
        latency_s=2 * seconds,
        time_to_first_token_s=seconds,
        usage=TokenUsage(output=100),
        prices=Prices(),
    )


def after(attempts: list[AttemptReport], at: datetime = NOW) -> tuple[HealthState, tuple[Bucket, ...]]:
    found = noted(HealthState(), attempts, (), at)
    return found.state, found.buckets


def test_what_was_measured_is_seen_at_once_in_the_last_minutes_and_soon_in_the_day() -> None:
    state, buckets = after([attempt()] * MIN_SAMPLES)
    health = view(state)
    assert health.is_measured
    assert (health.ttft_p95_s, health.latency_p95_s, health.tokens_per_s) == (0.5, 1.0, 100.0)
    assert state.day == Performance()
    state, again_at = settled(state, buckets, NOW)
    assert state.day == state.recent
    assert again_at is not None
    assert again_at - NOW <= MINUTE


def test_an_hour_later_the_day_stands_in_for_the_last_minutes_and_after_a_day_nothing_does() -> None:
    state, buckets = after([attempt()] * MIN_SAMPLES)
    state, again_at = settled(state, buckets, NOW + timedelta(hours=1))
    assert state.recent.requests == 0
    assert again_at is not None
    assert view(state).ttft_p95_s == 0.5
    state, again_at = settled(state, buckets, NOW + timedelta(hours=26))
    assert (state, again_at) == (HealthState(), None)
    assert not view(state).is_measured


def test_the_last_minutes_count_where_there_is_enough_of_them() -> None:
    _, old = after([attempt(seconds=9)] * 100, NOW - timedelta(hours=2))
    found = noted(HealthState(), [attempt(seconds=1)] * (MIN_SAMPLES - 1), (), NOW)
    state, _ = settled(found.state, (*old, *found.buckets), NOW)
    assert view(state).ttft_p95_s == 9
    found = noted(state, [attempt(seconds=1)], found.buckets, NOW)
    assert view(found.state).ttft_p95_s == 1


@pytest.mark.parametrize(
    ("outcome", "requests", "failures"),
    [
        (AttemptOutcome.SERVER_ERROR, 1, 1),
        (AttemptOutcome.TIMEOUT, 1, 1),
        (AttemptOutcome.STREAM_CUT, 1, 1),
        (AttemptOutcome.CLIENT_GONE, 0, 0),
        (AttemptOutcome.REQUEST_ERROR, 0, 0),
        (AttemptOutcome.RATE_LIMITED, 0, 0),
        (AttemptOutcome.NOT_FOUND, 0, 0),
    ],
)
def test_only_what_is_the_endpoints_own_counts(outcome: AttemptOutcome, requests: int, failures: int) -> None:
    state, _ = after([attempt(outcome, seconds=0.001)])
    assert (state.recent.requests, state.recent.failures) == (requests, failures)


def test_fast_failures_make_nobody_look_fast() -> None:
    slow = [attempt(seconds=2)] * MIN_SAMPLES
    fast = [attempt(AttemptOutcome.SERVER_ERROR, seconds=0.001)] * MIN_SAMPLES
    state, _ = after(slow + fast)
    health = view(state)
    assert (health.ttft_p95_s, health.error_rate) == (2, 0.5)
    assert health == replace(health, latency_p50_s=4)
