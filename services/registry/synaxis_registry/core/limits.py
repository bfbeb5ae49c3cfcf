"""What a tenant may use: which limits apply, and the arithmetic of their windows and months.

The registry books in Postgres, in one statement; these are the same rules as pure functions, for the parts
that need no database and for simulation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from synaxis_registry.core.catalog import ANY_MODEL, Limit

WINDOW_S: Final = 60
"""Limits are for any this many seconds, wherever they begin (DESIGN, "The promise")."""

BUCKETS: Final = WINDOW_S + 1
"""One-second buckets that are summed: the window touches one more second than it is long."""


def applicable(
    limits: Mapping[tuple[str, str], Limit], tenant_id: str, model_ids: Iterable[str]
) -> tuple[Limit, ...]:
    """The limits with a bound that a request for any of `model_ids` counts against, in a fixed order.

    Both the tenant's limit for all models (`*`) and the one for the model itself apply. They come sorted by
    model, so that whoever books several takes their locks in the same order.
    """
    wanted = sorted({ANY_MODEL, *model_ids})
    found = (limits.get((tenant_id, model_id)) for model_id in wanted)
    return tuple(limit for limit in found if limit is not None and limit.is_bounded)


def is_allowed(limits: Mapping[tuple[str, str], Limit], tenant_id: str, model_id: str) -> bool:
    """Whether the tenant may use the model at all: its own limit's word, else that of `*`, else yes."""
    own = limits.get((tenant_id, model_id)) or limits.get((tenant_id, ANY_MODEL))
    return own is None or own.allowed


def month_start(now: datetime) -> datetime:
    """The beginning of the budget's month that `now` is in, in UTC."""
    return now.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def next_month_start(now: datetime) -> datetime:
    """When the budget's month that `now` is in ends, in UTC."""
    start = month_start(now)
    if start.month == 12:
        return start.replace(year=start.year + 1, month=1)
    return start.replace(month=start.month + 1)


@dataclass(frozen=True, slots=True)
class Window:
    """What has been admitted lately, by the whole second (Unix time) that it counts in."""

    buckets: Mapping[int, int] = field(default_factory=dict)

    def used(self, second: int) -> int:
        """What counts at `second`: the last 61 buckets, and what leases have booked ahead of it."""
        return sum(amount for at, amount in self.buckets.items() if at > second - BUCKETS)

    def booked(self, second: int, amount: int) -> Window:
        """With `amount` more in `second`, and without what no window sees any more."""
        kept = {at: n for at, n in self.buckets.items() if at > second - BUCKETS}
        kept[second] = kept.get(second, 0) + amount
        return Window(kept)

    def admits(self, second: int, amount: int, limit: int) -> bool:
        """Whether `amount` more at `second` keeps every window of 60 s within `limit`."""
        return self.used(second) + amount <= limit

    def retry_after_s(self, second: int, amount: int, limit: int) -> int | None:
        """In how many seconds `amount` will be admitted if nothing else is. None: never."""
        if amount > limit:
            return None
        excess = self.used(second) + amount - limit
        if excess <= 0:
            return 0
        for at in sorted(at for at in self.buckets if at > second - BUCKETS):
            excess -= self.buckets[at]
            if excess <= 0:
                return at + BUCKETS - second
        return None
