"""When a job is due: every so often (`30s`, `90m`, `1h`, `1d`) or by a cron expression, always in UTC."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cronsim import CronSim, CronSimError

_INTERVAL: Final = re.compile(r"(\d{1,9})\s*([smhd])")
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_LONGEST: Final = timedelta(days=366)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NAMES: Final = {"hourly": "1h", "daily": "1d"}


class BadSchedule(ValueError):
    """The text is neither an interval nor a cron expression that ever comes true."""


def _in_utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError("a schedule needs a time with its time zone")
    return moment.astimezone(UTC)


@dataclass(frozen=True, slots=True)
class Interval:
    """Slots at whole multiples of `every` since 1970, so that all replicas agree on them."""

    every: timedelta

    def last_slot(self, now: datetime) -> datetime:
        """The latest slot that is not after `now`."""
        return _EPOCH + (_in_utc(now) - _EPOCH) // self.every * self.every

    def next_slot(self, now: datetime) -> datetime:
        """The earliest slot after `now`."""
        return self.last_slot(now) + self.every


@dataclass(frozen=True, slots=True)
class Cron:
    """Slots of a cron expression with the five fields minute, hour, day of month, month, day of week."""

    expression: str

    def last_slot(self, now: datetime) -> datetime:
        """The latest slot that is not after `now`."""
        # CronSim looks strictly before the time it is given, and slots lie on whole seconds.
        after = _in_utc(now).replace(microsecond=0) + timedelta(seconds=1)
        return next(CronSim(self.expression, after, reverse=True))

    def next_slot(self, now: datetime) -> datetime:
        """The earliest slot after `now`."""
        return next(CronSim(self.expression, _in_utc(now)))


Schedule = Interval | Cron


def parse_schedule(text: str) -> Schedule:
    """The schedule that `text` says: `30s`, `90m`, `1h`, `1d`, `hourly`, `daily`, or five cron fields.

    Raises BadSchedule, which says what would have been right.
    """
    wanted = _NAMES.get(text.strip().lower(), text.strip())
    if (match := _INTERVAL.fullmatch(wanted.lower())) is not None:
        every = timedelta(seconds=int(match[1]) * _UNITS_S[match[2]])
        if not timedelta(seconds=1) <= every <= _LONGEST:
            raise BadSchedule(f"the interval {text!r} must be between 1s and {_LONGEST.days}d")
        return Interval(every)
    if len(wanted.split()) != 5:
        raise BadSchedule(
            f"{text!r} is no schedule: write an interval such as 30s, 90m, 1h or 1d, "
            "or the five fields of a cron expression such as '0 3 * * *' (UTC)"
        )
    schedule = Cron(" ".join(wanted.split()))
    try:
        schedule.next_slot(_EPOCH)
    except CronSimError as error:
        raise BadSchedule(f"{text!r} is no cron expression: {error}") from error
    except StopIteration:
        raise BadSchedule(f"the cron expression {text!r} never comes true") from None
    return schedule


def checked_schedule(text: str) -> str:
    """`text` itself, for validators of settings. Raises BadSchedule."""
    parse_schedule(text)
    return text
