"""What is derived from a frozen value, made once for each of the values lately in use.

Messages are frozen and stay in hand for many requests; hashing one costs more than most of what is derived.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")
Derived = TypeVar("Derived")


class ByIdentity(Generic[Value, Derived]):
    """Derives, and remembers for that very object; a value that is merely equal is another one."""

    __slots__ = ("_known", "_make", "_most")

    def __init__(self, make: Callable[[Value], Derived], most: int) -> None:
        """`most`: how many are remembered; then all are forgotten, and those in use made anew."""
        self._make = make
        self._most = most
        self._known: dict[int, tuple[Value, Derived]] = {}

    def of(self, value: Value) -> Derived:
        """What is derived from `value`."""
        known = self._known.get(id(value))
        if known is not None and known[0] is value:  # an id is given anew when its object is gone
            return known[1]
        derived = self._make(value)
        if len(self._known) >= self._most:
            self._known.clear()
        self._known[id(value)] = value, derived
        return derived
