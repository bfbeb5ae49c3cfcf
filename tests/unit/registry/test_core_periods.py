"""How a period is split into whole days, hours and single lines."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synaxis_registry.core.periods import DAY, HOUR, Span, Split, split

FIRST = datetime(2026, 2, 26, tzinfo=UTC)
MOMENTS = st.builds(
    lambda past, zone: (FIRST + past).astimezone(zone),
    st.timedeltas(timedelta(), timedelta(days=6)),
    st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=45))]),
)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def times_counted(found: Split, moment: datetime) -> int:
    """How often a request at `moment` is in the sums."""
    count: int = sum(span.sign for span in (*found.hours, *found.lines) if span.begins <= moment < span.ends)
    if found.days is not None:
        first, last = found.days
        day = moment.astimezone(UTC).date()
        count += (first is None or first <= day) and (last is None or day < last)
    return count


@given(st.none() | MOMENTS, st.none() | MOMENTS, st.lists(MOMENTS))
def test_every_moment_of_the_period_counts_once_and_every_other_one_not_at_all(
    start: datetime | None, end: datetime | None, moments: list[datetime]
) -> None:
    found = split(start, end)
    for edge in (start, end):
        if edge is not None:
            moments += [edge, edge - timedelta(microseconds=1), edge - HOUR, edge + HOUR, edge + DAY]
    for moment in moments:
        is_in = (start is None or start <= moment) and (end is None or moment < end)
        assert times_counted(found, moment) == is_in, f"{moment} in {found}"


@given(MOMENTS, MOMENTS, st.lists(MOMENTS))
def test_by_the_hour_too(start: datetime, end: datetime, moments: list[datetime]) -> None:
    found = split(start, end, by_hour=True)
    assert found.days is None
    for moment in (start, end, *moments):
        assert times_counted(found, moment) == (start <= moment < end), f"{moment} in {found}"


@given(MOMENTS, MOMENTS)
def test_hours_and_days_are_whole_and_the_ends_are_short(start: datetime, end: datetime) -> None:
    found = split(start, end)
    assert sum((span.ends - span.begins for span in found.lines), timedelta()) <= HOUR
    assert sum((span.ends - span.begins for span in found.hours), timedelta()) <= DAY
    for spans in (found.hours, found.lines):
        assert len(spans) <= 2
        assert len(spans) < 2 or spans[0].ends <= spans[1].begins, "they do not overlap"
    for span in found.hours:
        assert (span.begins - at("2026-01-01")) % HOUR == (span.ends - at("2026-01-01")) % HOUR == timedelta()
    if found.days is not None:
        first, last = found.days
        assert first is not None
        assert last is not None
        assert first <= last


def test_a_day_that_lacks_an_hour_is_the_day_less_the_hour() -> None:
    found = split(at("2026-03-01T01:00"), at("2026-03-02T23:40"))
    assert found == Split(
        (date(2026, 3, 1), date(2026, 3, 3)),
        hours=(Span(at("2026-03-01"), at("2026-03-01T01:00"), -1),),
        lines=(Span(at("2026-03-02T23:40"), at("2026-03-03"), -1),),
    )


def test_whole_days_are_days_only_and_no_bound_is_no_bound() -> None:
    assert split(at("2026-03-01"), at("2026-04-01")) == Split((date(2026, 3, 1), date(2026, 4, 1)))
    assert split(None, None) == Split((None, None))
    assert split(None, at("2026-03-01")) == Split((None, date(2026, 3, 1)))


def test_nothing_is_summed_for_a_period_that_is_empty_or_ends_before_it_begins() -> None:
    assert split(at("2026-03-01T10:20"), at("2026-03-01T10:20")) == Split(None)
    assert split(at("2026-03-05"), at("2026-03-01")) == Split(None)


def test_the_first_and_the_last_moment_there_are_can_be_ends() -> None:
    last = datetime.combine(date.max, time.max, UTC)
    first = datetime.min.replace(tzinfo=UTC)
    found = split(first, last)
    assert times_counted(found, at("2026-03-01")) == 1
    assert times_counted(found, last - timedelta(microseconds=1)) == 1
    assert times_counted(found, last) == 0


def test_by_the_hour_needs_both_ends() -> None:
    with pytest.raises(ValueError, match="both ends"):
        split(at("2026-03-01"), None, by_hour=True)
