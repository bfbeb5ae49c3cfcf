"""Overload: beyond a number of requests under way new ones are refused early, and fairly by key.

Refusing costs microseconds; taking on more than can be served costs everybody their answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from synaxis_gateway import metrics
from synaxis_gateway.http import errors

HARD_SHARE: Final = 1.25
"""Keys below their fair share are still taken in beyond the limit, up to so many times of it."""


class Load:
    """The requests under way, by key."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._total = 0
        self._by_key: dict[str, int] = {}

    @contextmanager
    def entered(self, key_hash: str) -> Iterator[None]:
        """While one request of a key is under way. Raises a 503 when it is not taken in."""
        if not self.has_room_for(key_hash):
            metrics.SHED.inc()
            raise errors.unavailable("The gateway is at its limit; please try again.")
        self._total += 1
        self._by_key[key_hash] = self._by_key.get(key_hash, 0) + 1
        try:
            yield
        finally:
            self._total -= 1
            self._by_key[key_hash] -= 1
            if not self._by_key[key_hash]:
                del self._by_key[key_hash]

    def has_room_for(self, key_hash: str) -> bool:
        """Whether one more request of a key is taken in: below the limit anybody's, above it only those of
        keys that have less under way than their equal share."""
        if self._total < self._limit:
            return True
        if self._total >= self._limit * HARD_SHARE:
            return False
        own = self._by_key.get(key_hash, 0)
        keys = len(self._by_key) + (own == 0)
        return (own + 1) * keys <= self._limit
