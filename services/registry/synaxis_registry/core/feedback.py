"""What live requests say of a whole provider: one that fails most of them is suspended until it works again.

A provider that is suspended stands behind all others in plans for `REST`, and is on probation afterwards: it
takes requests as ever (circuits in the gateways let through one at a time), and rests again when these fail.
Only when it has worked for a while without a relapse is the suspension over. So what is said of it to the
world changes seldom, however noisy it is, while it is used again within seconds of recovering. Nobody is left
out for good: a model that has no other candidate is still tried there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from synaxis_common.contracts.events import Cause, EventType, FailureCount, ProviderChange
from synaxis_registry.core.changes import Event, ProviderUpdate
from synaxis_registry.core.judgement import NO_RESULT
from synaxis_registry.core.records import ProviderRecord, Suspension
from synaxis_registry.core.trust import provider_state

WINDOW: Final = timedelta(minutes=5)
BUCKET: Final = timedelta(seconds=5)
AT_LEAST: Final = 20
"""Attempts in the window, below which a share says nothing."""
TOO_OFTEN: Final = 0.5
"""Share of failures that suspends."""
DEAD_WINDOW: Final = timedelta(seconds=60)
DEAD_FOR: Final = timedelta(seconds=30)
DEAD_AFTER: Final = 8
"""So many failures, spread over so long, and nothing else in a minute suspend too. While circuits are open
there is one trial in eight seconds or so: the share of a window that began well would tell after minutes."""
WELL: Final = 0.2
"""Share of failures at which a suspension may end: too far from `TOO_OFTEN` for chance to cross both."""
REST: Final = timedelta(seconds=5)
RELAPSE: Final = 3
"""Failures on probation, when they are too often, that make it rest again."""
PROVEN_AFTER: Final = timedelta(seconds=60)
PROVEN_BY: Final = 5
"""How long a provider must have been well on probation, and by how many requests."""
QUIET_AFTER: Final = timedelta(minutes=5)
"""A probation without a single failure ends, even if nobody has asked."""
APART: Final = timedelta(minutes=10)
"""Between the beginnings of two suspensions. Source: row 25 of the fault matrix; else our choice."""
RULE: Final = "failing-provider"


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What came of the attempts at a provider in `BUCKET` from `since` on."""

    since: datetime
    requests: int
    failures: int


def bucket_of(now: datetime) -> datetime:
    """The beginning of the bucket that takes what happens now."""
    return now - (now - datetime.min.replace(tzinfo=now.tzinfo)) % BUCKET


def feedback(record: ProviderRecord, outcomes: Iterable[Outcomes], now: datetime) -> ProviderUpdate:
    """Suspend a provider, lengthen that or end it, by what came of requests in the last `WINDOW`."""
    before = record.suspension
    if not provider_state(record).is_on:
        return NO_RESULT if before is None else ProviderUpdate(replace(record, suspension=None))
    if before is None:
        return _suspended(record, tuple(outcomes), now)
    if now < before.until:
        return NO_RESULT
    count = _since(outcomes, max(before.until, now - WINDOW))
    if count.failures >= RELAPSE and count.failures >= TOO_OFTEN * count.requests:
        return ProviderUpdate(replace(record, suspension=replace(before, until=now + REST)))
    on_probation = now - before.until
    is_proven = on_probation >= PROVEN_AFTER and count.requests >= PROVEN_BY
    is_quiet = on_probation >= QUIET_AFTER and not count.failures
    if (is_proven and count.failures <= WELL * count.requests) or is_quiet:
        return _over(record, count, now)
    return NO_RESULT


def _suspended(record: ProviderRecord, outcomes: Sequence[Outcomes], now: datetime) -> ProviderUpdate:
    if record.suspended_at is not None and now - record.suspended_at < APART:
        return NO_RESULT
    proven_at = record.proven_at or now - WINDOW
    count = _since(outcomes, max(now - WINDOW, proven_at))
    if count.requests < AT_LEAST or count.failures < TOO_OFTEN * count.requests:
        count = _since(outcomes, max(now - DEAD_WINDOW, proven_at), DEAD_WINDOW)
        has_lasted = any(now - DEAD_WINDOW <= one.since <= now - DEAD_FOR for one in outcomes if one.failures)
        if count.failures < DEAD_AFTER or count.failures < count.requests or not has_lasted:
            return NO_RESULT
    suspension = Suspension(now, now + REST, count.requests, count.failures)
    polled_at = now if record.discover else None
    after = replace(record, suspension=suspension, suspended_at=now, next_poll_at=polled_at)
    return ProviderUpdate(after, events=(_event(EventType.PROVIDER_DISABLED, after, count),))


def _over(record: ProviderRecord, count: FailureCount, now: datetime) -> ProviderUpdate:
    after = replace(record, suspension=None, proven_at=now)
    return ProviderUpdate(after, events=(_event(EventType.PROVIDER_RECOVERED, after, count),))


def _event(kind: EventType, record: ProviderRecord, count: FailureCount) -> Event:
    said = f"{count.failures} of {count.requests} requests failed within {count.window_s} s"
    return Event(
        kind,
        ProviderChange(
            provider_id=record.provider_id,
            reason=said,
            failures=count,
            cause=Cause(kind="feedback", id=RULE, detail=said),
        ),
    )


def _since(outcomes: Iterable[Outcomes], begin: datetime, window: timedelta = WINDOW) -> FailureCount:
    found = [one for one in outcomes if one.since >= begin]
    return FailureCount(
        requests=sum(one.requests for one in found),
        failures=sum(one.failures for one in found),
        window_s=int(window.total_seconds()),
    )
