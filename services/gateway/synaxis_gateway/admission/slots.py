"""Limits on requests under way at once: the slots that this gateway holds, and what it has in them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from synaxis_common.contracts.leases import SlotGrant


@dataclass(slots=True)
class _Held:
    under_way: int = 0
    slots: int = 0
    ends_at: float = 0.0
    seq: int = 0
    """Of the newest message whose answer counts."""


class Slots:
    """By scope. Times are monotonic seconds, given by the caller."""

    def __init__(self) -> None:
        self._held: dict[str, _Held] = {}
        self._seq = 0
        self._renewed = 0

    def next_seq(self) -> int:
        """Puts what is said of slots in order, whichever way the messages take."""
        self._seq += 1
        return self._seq

    def granted(self, grants: Iterable[SlotGrant], asked_at: float, seq: int) -> None:
        """The registry has answered the message `seq`: so many there may be.

        An answer that was overtaken does not count: the registry goes by the newer message.
        """
        for grant in grants:
            if not grant.slots and grant.scope not in self._held:
                continue  # it was given back
            held = self._of(grant.scope)
            if seq >= held.seq:
                held.seq = seq
                held.slots = grant.slots
                held.ends_at = asked_at + grant.expires_in_s

    def enter(self, scopes: Iterable[str], now: float) -> bool:
        """One more request under way in all of `scopes`, or in none of them: False."""
        held = [self._of(scope) for scope in scopes]
        if any(one.under_way >= one.slots or now >= one.ends_at for one in held):
            return False
        for one in held:
            one.under_way += 1
        return True

    def leave(self, scopes: Iterable[str]) -> None:
        """A request that had entered is over."""
        for scope in scopes:
            self._held[scope].under_way -= 1

    def needed(self) -> dict[str, int]:
        """What must be asked for to let one more request enter, wherever any are under way.

        All scopes, since a registry takes one that is not named for one in which nothing is under way.
        """
        return {scope: held.under_way + 1 for scope, held in self._held.items()}

    def to_renew(self, seq: int) -> dict[str, int]:
        """What is under way, for the message `seq` to the registry; 0 gives a scope back.

        No more may enter until it answers: the registry could hear of the smaller number after it has
        granted the rest to somebody else.
        """
        for held in self._held.values():
            held.slots = min(held.slots, held.under_way)
            held.seq = seq
        self._renewed = seq
        wanted = {scope: held.under_way for scope, held in self._held.items()}
        self._held = {scope: held for scope, held in self._held.items() if held.under_way}
        return wanted

    def _of(self, scope: str) -> _Held:
        """A scope that is not held may have been given back by the last renewal: no older answer counts."""
        return self._held.setdefault(scope, _Held(seq=self._renewed))
