"""Which limits apply, and the arithmetic of their windows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from synaxis_registry.core.catalog import ANY_MODEL, Limit
from synaxis_registry.core.limits import (
    BUCKETS,
    WINDOW_S,
    Window,
    applicable,
    is_allowed,
    month_start,
)


def limits(*given_limits: Limit) -> dict[tuple[str, str], Limit]:
    return {(limit.tenant_id, limit.global_model_id): limit for limit in given_limits}


def test_a_models_limit_and_the_one_for_all_both_apply_in_a_fixed_order() -> None:
    of_all = Limit("acme", ANY_MODEL, allowed_rpm=10)
    of_model = Limit("acme", "m", allowed_tpm=5)
    others = (Limit("acme", "n", allowed_rpm=1), Limit("other", "m", allowed_rpm=1))
    found = applicable(limits(of_model, of_all, *others), "acme", ["m"])
    assert found == (of_all, of_model)


def test_a_limit_without_a_bound_needs_no_booking() -> None:
    assert applicable(limits(Limit("acme", "m")), "acme", ["m"]) == ()


def test_a_models_own_word_on_whether_it_is_allowed_beats_the_one_for_all() -> None:
    nothing_but_m = limits(Limit("acme", ANY_MODEL, allowed=False), Limit("acme", "m"))
    assert is_allowed(nothing_but_m, "acme", "m")
    assert not is_allowed(nothing_but_m, "acme", "n")
    assert is_allowed(nothing_but_m, "other", "n")


def test_a_month_is_utcs_wherever_the_time_is_told() -> None:
    still_june_in_utc = datetime(2026, 7, 1, 1, tzinfo=timezone(timedelta(hours=2)))
    assert month_start(still_june_in_utc) == datetime(2026, 6, 1, tzinfo=UTC)


@given(
    st.integers(1, 20),
    st.lists(st.floats(min_value=0, max_value=10, allow_nan=False), min_size=1, max_size=200),
)
def test_no_60_seconds_ever_see_more_than_the_limit(limit: int, pauses: list[float]) -> None:
    window = Window()
    now = 1_000_000.0
    admitted: list[float] = []
    for pause in pauses:
        now += pause
        if window.admits(int(now), 1, limit):
            window = window.booked(int(now), 1)
            admitted.append(now)
    for start in admitted:
        seen = sum(start <= moment < start + WINDOW_S for moment in admitted)
        assert seen <= limit, f"{seen} requests in the minute after {start}"


@given(st.integers(1, 5), st.lists(st.integers(0, 100), min_size=1, max_size=30))
def test_after_the_time_that_is_told_a_request_is_admitted_and_not_before(
    limit: int, seconds: list[int]
) -> None:
    window = Window()
    for second in sorted(seconds):
        if window.admits(second, 1, limit):
            window = window.booked(second, 1)
    now = max(seconds)
    wait = window.retry_after_s(now, 1, limit)
    assert wait is not None
    assert window.admits(now + wait, 1, limit)
    assert wait == 0 or not window.admits(now + wait - 1, 1, limit)


def test_what_is_larger_than_the_limit_is_never_admitted() -> None:
    assert Window().retry_after_s(0, 11, 10) is None


def test_a_full_window_is_free_again_after_61_buckets() -> None:
    window = Window().booked(100, 10)
    assert window.retry_after_s(100, 1, 10) == BUCKETS
    assert window.used(100 + BUCKETS) == 0
    assert window.seen_at(100 + BUCKETS - 1) == window
    assert window.seen_at(100 + BUCKETS) == Window(), "what no window sees is forgotten"


def test_what_is_booked_ahead_counts_at_once_and_until_its_own_minute_is_over() -> None:
    window = Window().booked(102, 3)
    assert window.used(100) == 3
    assert window.used(102 + WINDOW_S) == 3
    assert window.used(102 + BUCKETS) == 0
    assert window.reset_s(100) == 2 + BUCKETS
    assert window.reset_s(102 + BUCKETS) is None


def test_booking_ahead_forgets_nothing_that_a_window_still_sees() -> None:
    assert Window().booked(40, 1).booked(102, 1).used(100) == 2


def test_what_is_given_back_is_free_where_it_was_booked() -> None:
    window = Window().booked(100, 3).booked(100, -2)
    assert window.used(100) == 1
    assert window.admits(100, 2, 3)
    assert not window.admits(100, 3, 3)
