"""How a period is summed from few rows: whole days where there are any, hours and lines at its ends."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final, Literal

HOUR: Final = timedelta(hours=1)
DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Span:
    """From `begins` up to but not including `ends`; its sum is added, or with sign -1 subtracted."""

    begins: datetime
    ends: datetime
    sign: Literal[1, -1] = 1


@dataclass(frozen=True, slots=True)
class Split:
    """The sums that make up a period, each moment of which counts once and every other one not at all."""

    days: tuple[date | None, date | None] | None
    """The first whole day and the one after the last, in UTC; None in the pair: without bound. No pair: no
    days."""
    hours: tuple[Span, ...] = ()
    """Of whole hours: two spans at most, which do not overlap."""
    lines: tuple[Span, ...] = ()
    """Of single requests: likewise."""


def split(start: datetime | None, end: datetime | None, *, by_hour: bool = False) -> Split:
    """What to sum for the period from `start` up to but not including `end`; None: without bound.

    It walks from `start` to the nearest full hour, from there to the nearest midnight, over the days and back
    down. A step backwards is subtracted: 23 hours of a day are the day less one hour. So no end takes more
    than half an hour of lines and half a day of hours.

    `by_hour`: each hour is to be told from the others, so days are no use. Such a period needs both ends;
    raises ValueError where it has not.
    """
    if by_hour and (start is None or end is None):
        raise ValueError("a period that is told by the hour needs both ends")
    lines: list[Span] = []
    hours: list[Span] = []
    if start is not None and end is not None:
        length = end - start
        if length < HOUR:
            return Split(None, lines=_walk(start, end) if start < end else ())
        if by_hour or length < DAY:
            first, last = _nearest(start, HOUR), _nearest(end, HOUR)
            return Split(None, _walk(first, last), _walk(start, first) + _walk(last, end))
    first_day = last_day = None
    if start is not None:
        hour = _nearest(start, HOUR)
        midnight = _nearest(hour, DAY)
        lines += _walk(start, hour)
        hours += _walk(hour, midnight)
        first_day = midnight.date()
    if end is not None:
        hour = _nearest(end, HOUR)
        midnight = _nearest(hour, DAY)
        hours += _walk(midnight, hour)
        lines += _walk(hour, end)
        last_day = midnight.date()
    return Split((first_day, last_day), tuple(hours), tuple(lines))


def _walk(start: datetime, end: datetime) -> tuple[Span, ...]:
    if start == end:
        return ()
    return (Span(start, end),) if start < end else (Span(end, start, -1),)


def _nearest(moment: datetime, unit: timedelta) -> datetime:
    """The full hour or midnight (UTC) that is nearest; the one before where there is none after any more."""
    moment = moment.astimezone(UTC)
    past = (moment - moment.replace(hour=0, minute=0, second=0, microsecond=0)) % unit
    before = moment - past
    is_last = before > datetime.max.replace(tzinfo=UTC) - unit
    return before if 2 * past <= unit or is_last else before + unit
