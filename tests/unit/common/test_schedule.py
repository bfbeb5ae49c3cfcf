"""When a job is due."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synaxis_common.schedule import BadSchedule, checked_schedule, parse_schedule

MOMENTS = st.integers(0, 3_000_000_000_000_000).map(
    lambda microseconds: datetime(1995, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)
)
INTERVALS = st.builds(
    lambda number, unit: f"{number}{unit}", st.integers(1, 300), st.sampled_from(["s", "m", "h", "d"])
)
CRONS = st.sampled_from(
    [
        "* * * * *",
        "0 3 * * *",
        "*/15 * * * *",
        "30 4 1 * *",
        "0 0 29 2 *",
        "0 12 * * MON-FRI",
        "59 23 31 12 *",
    ]
)


@given(INTERVALS | CRONS, MOMENTS)
def test_now_lies_between_the_last_slot_and_the_next(text: str, now: datetime) -> None:
    schedule = parse_schedule(text)
    last, following = schedule.last_slot(now), schedule.next_slot(now)
    assert last <= now < following
    assert (last.utcoffset(), following.utcoffset()) == (timedelta(0), timedelta(0))


@given(INTERVALS | CRONS, MOMENTS)
def test_a_slot_is_its_own_last_slot_and_nothing_lies_between_it_and_the_next(
    text: str, now: datetime
) -> None:
    schedule = parse_schedule(text)
    last = schedule.last_slot(now)
    assert schedule.last_slot(last) == last
    assert schedule.next_slot(last) == schedule.next_slot(now)
    assert schedule.last_slot(schedule.next_slot(now) - timedelta(microseconds=1)) == last


@given(INTERVALS, MOMENTS, st.integers(-14, 14))
def test_replicas_in_other_time_zones_see_the_same_slots(text: str, now: datetime, hours: int) -> None:
    schedule = parse_schedule(text)
    elsewhere = now.astimezone(timezone(timedelta(hours=hours)))
    assert schedule.last_slot(elsewhere) == schedule.last_slot(now)


@pytest.mark.parametrize(
    ("text", "last", "following"),
    [
        ("1h", "2026-11-23 09:00:00", "2026-11-23 10:00:00"),
        ("hourly", "2026-11-23 09:00:00", "2026-11-23 10:00:00"),
        ("90m", "2026-11-23 09:00:00", "2026-11-23 10:30:00"),
        ("30s", "2026-11-23 09:41:30", "2026-11-23 09:42:00"),
        ("1d", "2026-11-23 00:00:00", "2026-11-24 00:00:00"),
        (" Daily ", "2026-11-23 00:00:00", "2026-11-24 00:00:00"),
        ("0 3 * * *", "2026-11-23 03:00:00", "2026-11-24 03:00:00"),
        ("0 3 * * SUN", "2026-11-22 03:00:00", "2026-11-29 03:00:00"),
        ("41 9 23 11 *", "2026-11-23 09:41:00", "2027-11-23 09:41:00"),
    ],
)
def test_slots_of_well_known_schedules(text: str, last: str, following: str) -> None:
    now = datetime(2026, 11, 23, 9, 41, 59, 5, tzinfo=UTC)
    schedule = parse_schedule(text)
    assert f"{schedule.last_slot(now):%F %T}" == last
    assert f"{schedule.next_slot(now):%F %T}" == following


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "write an interval such as"),
        ("soon", "write an interval such as"),
        ("1 hour", "write an interval such as"),
        ("-1h", "write an interval such as"),
        ("1.5h", "write an interval such as"),
        ("0s", "must be between 1s and 366d"),
        ("400d", "must be between 1s and 366d"),
        ("* * * * * *", "write an interval such as"),
        ("61 * * * *", "Bad minute"),
        ("0 0 31 2 *", "Bad day-of-month"),
        ("a b c d e", "Bad"),
        ("0 0 30 2 MON#9", "Bad day-of-week"),
    ],
)
def test_a_bad_schedule_is_refused_with_what_would_have_been_right(text: str, reason: str) -> None:
    with pytest.raises(BadSchedule, match=reason):
        checked_schedule(text)


def test_a_time_without_its_zone_is_refused() -> None:
    for text in ("1h", "0 3 * * *"):
        with pytest.raises(ValueError, match="time zone"):
            parse_schedule(text).last_slot(datetime(2026, 11, 23))  # noqa: DTZ001  # the case under test
