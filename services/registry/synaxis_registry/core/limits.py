"""What a tenant may use: which limits apply, and the arithmetic of their windows and months.

The registry books in Postgres, in one statement; the window is the same rule as a value (`core.leasing`).
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


@dataclass(frozen=True, slots=True)
class Window:
    """What has been admitted lately, by the whole second (Unix time) that it counts in."""

    buckets: Mapping[int, int] = field(default_factory=dict)

    def used(self, second: int) -> int:
        """What counts at `second`: the last 61 buckets, and what leases have booked ahead of it."""
        return sum(amount for at, amount in self.buckets.items() if at > second - BUCKETS)

    def booked(self, second: int, amount: int) -> Window:
        """With `amount` more in `second`, which may be ahead of the clock; less where it is negative."""
        return Window({**self.buckets, second: self.buckets.get(second, 0) + amount})

    def seen_at(self, second: int) -> Window:
        """Without what no window sees any more from `second` on."""
        return Window({at: n for at, n in self.buckets.items() if at > second - BUCKETS})

    def reset_s(self, second: int) -> int | None:
        """In how many seconds no window sees anything any more if nothing else is booked. None: now."""
        last = max(self.buckets, default=second - BUCKETS)
        return last + BUCKETS - second if last > second - BUCKETS else None

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
