"""How often candidates fail of late: who fails every other time may never fail three times in a row."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

WINDOW_S: Final = 30.0
BUCKETS: Final = 6
AT_LEAST: Final = 20
"""Requests in the window, below which a share says nothing."""
TOO_OFTEN: Final = 0.5
"""Share of failures at which a candidate rests. Source of these three: our choice, near Envoy's
`failure_percentage` outlier detection (50 requests, 85 %) but for much less traffic a candidate."""
FORGIVEN_AFTER_S: Final = 60.0
"""Without another rest, after which the next one is as short as a first."""
MAX_ENTRIES: Final = 20_000

_BUCKET_S: Final = WINDOW_S / BUCKETS


@dataclass(slots=True)
class _Counts:
    """Of one candidate, by number of the bucket of time."""

    asked: dict[int, int] = field(default_factory=dict)
    failed: dict[int, int] = field(default_factory=dict)
    rests: int = 0
    """In a row, each too soon after the last."""
    rested_at: float = 0.0
    bucket: int = 0
    """The latest that was looked at; what was too old by then is left out."""


class FailureRates:
    """Requests and failures of each candidate over the last `WINDOW_S`. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._counts: OrderedDict[tuple[str, str], _Counts] = OrderedDict()

    def answered(self, key: tuple[str, str], now: float) -> None:
        """It has answered, or has begun to."""
        _add(self._of(key, now).asked, now)

    def failed(self, key: tuple[str, str], now: float, *, is_cut: bool) -> bool:
        """It has failed; whether that was too often. A stream that is cut has been counted when it began."""
        counts = self._of(key, now)
        if not is_cut:
            _add(counts.asked, now)
        _add(counts.failed, now)
        asked = sum(counts.asked.values())
        return asked >= AT_LEAST and sum(counts.failed.values()) >= TOO_OFTEN * asked

    def rests(self, key: tuple[str, str], now: float) -> int:
        """It rests because of that, and is judged anew afterwards; how often it has before, in a row."""
        counts = self._of(key, now)
        if now - counts.rested_at > FORGIVEN_AFTER_S:
            counts.rests = 0
        before, counts.rests, counts.rested_at = counts.rests, counts.rests + 1, now
        counts.asked.clear()
        counts.failed.clear()
        return before

    def _of(self, key: tuple[str, str], now: float) -> _Counts:
        counts = self._counts.get(key)
        if counts is None:
            counts = self._counts[key] = _Counts()
            if len(self._counts) > MAX_ENTRIES:
                self._counts.popitem(last=False)
            return counts
        bucket = int(now // _BUCKET_S)
        if counts.bucket != bucket:
            counts.bucket = bucket
            for each in (counts.asked, counts.failed):
                while each and (first := next(iter(each))) <= bucket - BUCKETS:
                    del each[first]
        return counts


def _add(buckets: dict[int, int], now: float) -> None:
    bucket = int(now // _BUCKET_S)
    buckets[bucket] = buckets.get(bucket, 0) + 1
