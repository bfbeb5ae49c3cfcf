"""Overload: beyond a number of requests under way new ones are refused early, and fairly by tenant.

Refusing costs microseconds; taking on more than can be served costs everybody their answer.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from synaxis_gateway import metrics
from synaxis_gateway.http import errors

HARD_SHARE: Final = 1.25
"""Tenants below their fair share are still taken in beyond the limit, up to so many times of it."""
KNOWN_KEYS: Final = 20_000


class Load:
    """The requests under way, by tenant. A key whose tenant is not known yet stands for itself."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._total = 0
        self._under_way: dict[str, int] = {}
        self._tenants: OrderedDict[str, str] = OrderedDict()

    def belongs(self, key_hash: str, tenant_id: str) -> None:
        """From now on, requests of this key are counted as the tenant's."""
        if self._tenants.get(key_hash) != tenant_id:
            self._tenants[key_hash] = tenant_id
            if len(self._tenants) > KNOWN_KEYS:
                self._tenants.popitem(last=False)

    def enter(self, key_hash: str) -> str:
        """One more request of a key is under way; answers who it counts for, to be told to `leave`.

        Raises a 503 when it is not taken in.
        """
        if self._total >= self._limit and not self.has_room_for(key_hash):
            metrics.SHED.inc()
            raise errors.unavailable("The gateway is at its limit; please try again.")
        who = self._tenants.get(key_hash, key_hash)
        self._total += 1
        self._under_way[who] = self._under_way.get(who, 0) + 1
        return who

    def leave(self, who: str) -> None:
        """A request that had entered is over."""
        self._total -= 1
        self._under_way[who] -= 1
        if not self._under_way[who]:
            del self._under_way[who]

    @contextmanager
    def entered(self, key_hash: str) -> Iterator[None]:
        """While one request of a key is under way. Raises a 503 when it is not taken in."""
        who = self.enter(key_hash)
        try:
            yield
        finally:
            self.leave(who)

    def has_room_for(self, key_hash: str) -> bool:
        """Whether one more request of a key is taken in: below the limit anybody's, above it only those of
        tenants that have less under way than their equal share."""
        if self._total < self._limit:
            return True
        if self._total >= self._limit * HARD_SHARE:
            return False
        own = self._under_way.get(self._tenants.get(key_hash, key_hash), 0)
        tenants = len(self._under_way) + (own == 0)
        return (own + 1) * tenants <= self._limit
