"""How long attempts take: sketches by the minute and by the hour, merged into windows of time.

The sketches are t-digests (Dunning and Ertl 2019) of the package fastdigest: a merge of any number of them is
as good as one of all values, so it does not matter which registry has heard of what.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from fastdigest import TDigest, merge_all

from synaxis_common.contracts.performance import Performance, Spread
from synaxis_registry.core.catalog import MIN_SAMPLES

CENTROIDS: Final = 100
"""Of a sketch: at most 1.8 kB, and percentiles within 1 % of rank. Source: usual for t-digests."""


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time up to now, in buckets: it is up to one bucket longer than it says."""

    length: timedelta
    bucket: timedelta

    def begin(self, now: datetime) -> datetime:
        """When the present bucket began."""
        seconds = self.bucket.total_seconds()
        return datetime.fromtimestamp(now.timestamp() // seconds * seconds, UTC)

    def oldest(self, now: datetime) -> datetime:
        """The beginning of the oldest bucket that counts."""
        return self.begin(now - self.length)


RECENT: Final = Window(timedelta(minutes=5), timedelta(minutes=1))
DAY: Final = Window(timedelta(days=1), timedelta(hours=1))


@dataclass(frozen=True, slots=True)
class Measured:
    """One attempt that says something: whether it failed, or how long it took."""

    failed: bool = False
    ttft_s: float | None = None
    total_s: float | None = None
    tokens_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class Bucket:
    """What was measured of an endpoint in a minute or an hour. A sketch is bytes, none of them if empty."""

    since: datetime
    span: timedelta
    requests: int = 0
    failures: int = 0
    ttft: bytes = b""
    total: bytes = b""
    speed: bytes = b""


def added(bucket: Bucket, measured: Sequence[Measured]) -> Bucket:
    """`bucket` with more in it."""
    return replace(
        bucket,
        requests=bucket.requests + len(measured),
        failures=bucket.failures + sum(one.failed for one in measured),
        ttft=_with(bucket.ttft, [one.ttft_s for one in measured]),
        total=_with(bucket.total, [one.total_s for one in measured]),
        speed=_with(bucket.speed, [one.tokens_per_s for one in measured]),
    )


def performance(buckets: Iterable[Bucket]) -> Performance:
    """What all of `buckets` together show."""
    found = tuple(buckets)
    requests, failures = sum(one.requests for one in found), sum(one.failures for one in found)
    return Performance(
        requests=requests,
        failures=failures,
        error_rate=failures / requests if requests >= MIN_SAMPLES else None,
        ttft_s=_spread([one.ttft for one in found]),
        total_s=_spread([one.total for one in found]),
        tokens_per_s=_spread([one.speed for one in found]),
    )


def within(window: Window, buckets: Iterable[Bucket], now: datetime) -> list[Bucket]:
    """Those of `buckets` that a window consists of."""
    oldest = window.oldest(now)
    return [one for one in buckets if one.span == window.bucket and one.since >= oldest]


def present(window: Window, buckets: Iterable[Bucket], now: datetime) -> Bucket:
    """The bucket of a window that takes what is measured now."""
    begin = window.begin(now)
    for one in buckets:
        if one.span == window.bucket and one.since == begin:
            return one
    return Bucket(begin, window.bucket)


def _with(sketch: bytes, values: Sequence[float | None]) -> bytes:
    known = [value for value in values if value is not None]
    if not known:
        return sketch
    digest = TDigest.from_bytes(sketch) if sketch else TDigest(max_centroids=CENTROIDS)
    digest.batch_update(known)
    return digest.to_bytes()


def _spread(sketches: Sequence[bytes]) -> Spread | None:
    digests = [TDigest.from_bytes(sketch) for sketch in sketches if sketch]
    if sum(digest.n_values for digest in digests) < MIN_SAMPLES:
        return None
    p50, p95, p99 = (_shown(value) for value in merge_all(digests).quantile_vec([0.5, 0.95, 0.99]))
    return Spread(p50=p50, p95=p95, p99=p99)


def _shown(value: float) -> float:
    """To four digits: the sketch knows no more."""
    return float(f"{value:.4g}")
