"""Mappings that never change, and of which a changed copy is cheap however large they are.

The keys are spread over a fixed number of small dicts. A copy shares all of them but those in which something
is changed, so that 10,000 models or 100,000 keys can be replaced one by one while others read.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any, Final, Generic, TypeVar, overload

from synaxis_common.slices import Steps

SHARDS: Final = 512
"""A power of two. With 100,000 keys a shard has 200, which are copied in two microseconds."""

_MASK: Final = SHARDS - 1
_EMPTY: Final[dict[Any, Any]] = {}
"""Stands for every shard without keys; nobody writes into it."""

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
D = TypeVar("D")
M = TypeVar("M", bound=Hashable)


class Shards(Mapping[K, V]):
    """A frozen mapping. Changed copies are made with a `ShardsDraft`."""

    __slots__ = ("_count", "_shards")

    def __init__(self, items: Mapping[K, V] | Iterable[tuple[K, V]] = ()) -> None:
        draft = ShardsDraft[K, V](None)
        for key, value in items.items() if isinstance(items, Mapping) else items:
            draft[key] = value
        self._shards, self._count = draft.taken()

    @classmethod
    def _of(cls, shards: list[dict[K, V]], count: int) -> Shards[K, V]:
        made: Shards[K, V] = cls.__new__(cls)
        made._shards, made._count = shards, count
        return made

    def __getitem__(self, key: K) -> V:
        return self._shards[hash(key) & _MASK][key]

    @overload
    def get(self, key: K, /) -> V | None: ...
    @overload
    def get(self, key: K, /, default: V | D) -> V | D: ...
    def get(self, key: K, /, default: Any = None) -> Any:
        """As a dict's; the one of `Mapping` raises and catches for each key that is not there."""
        return self._shards[hash(key) & _MASK].get(key, default)

    def __contains__(self, key: object) -> bool:
        return key in self._shards[hash(key) & _MASK]

    def __iter__(self) -> Iterator[K]:
        for shard in self._shards:
            yield from shard

    def __len__(self) -> int:
        return self._count

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Shards):
            return self._count == other._count and self._shards == other._shards
        return Mapping.__eq__(self, other)

    def __hash__(self) -> int:
        return hash(self._count)

    def __repr__(self) -> str:
        return f"Shards({dict(self)!r})"

    def differing(self, other: Shards[K, V]) -> Iterator[K]:
        """The keys that only one of the two has, or under which they have different objects.

        What they share is passed over by the shard.
        """
        for mine, others in zip(self._shards, other._shards, strict=True):
            if mine is not others:
                for key in mine.keys() | others.keys():
                    if mine.get(key, _EMPTY) is not others.get(key, _EMPTY):
                        yield key


class ShardsDraft(Generic[K, V]):
    """A copy that is being changed; what it was taken from stays as it is."""

    __slots__ = ("_before", "_count", "_owned", "_shards")

    def __init__(self, before: Shards[K, V] | None) -> None:
        self._before = before
        self._shards: list[dict[K, V]] = [_EMPTY] * SHARDS if before is None else before._shards
        self._count = 0 if before is None else before._count
        self._owned: set[int] = set()
        """The shards that are this draft's own, which it may write into."""

    def get(self, key: K) -> V | None:
        """What it has under `key` now."""
        return self._shards[hash(key) & _MASK].get(key)

    def __contains__(self, key: K) -> bool:
        return key in self._shards[hash(key) & _MASK]

    def __setitem__(self, key: K, value: V) -> None:
        shard = self._own(key)
        self._count += key not in shard
        shard[key] = value

    def discard(self, key: K) -> None:
        """Take `key` out, if it is there."""
        if key in self:
            del self._own(key)[key]
            self._count -= 1

    def frozen(self) -> Shards[K, V]:
        """The mapping as it is now: the very one from before, if nothing was changed."""
        if self._before is not None and not self._owned:
            return self._before
        return Shards._of(*self.taken())

    def taken(self) -> tuple[list[dict[K, V]], int]:
        """The shards and how many keys they have, which the draft may no longer write into."""
        self._owned = set()
        shards = self._shards
        self._shards = list(shards)
        return shards, self._count

    def _own(self, key: K) -> dict[K, V]:
        number = hash(key) & _MASK
        if number not in self._owned:
            if not self._owned:
                self._shards = list(self._shards)
            self._shards[number] = dict(self._shards[number])
            self._owned.add(number)
        return self._shards[number]


MEMBERS_AT_ONCE: Final = 1_000
"""Of a set that changes: a provider's name may stand for tens of thousands of endpoints."""

Postings = Shards[K, frozenset[M]]
"""Sets of members by key, of which none is empty."""


class PostingsDraft(Generic[K, M]):
    """Sets that are being changed. What was added and taken out is gathered, since some of them are large."""

    __slots__ = ("_before", "_changes")

    def __init__(self, before: Postings[K, M]) -> None:
        self._before = before
        self._changes: dict[K, dict[M, bool]] = {}

    def add(self, key: K, member: M) -> None:
        """Have `member` under `key`."""
        self._changes.setdefault(key, {})[member] = True

    def discard(self, key: K, member: M) -> None:
        """Not have `member` under `key`."""
        self._changes.setdefault(key, {})[member] = False

    def freezing(self) -> Steps[Postings[K, M]]:
        """The sets with all changes: the very ones from before, if they come to nothing."""
        draft = ShardsDraft(self._before)
        nothing: frozenset[M] = frozenset()
        for key in list(self._changes):
            changes = self._changes.pop(key)  # to free all of them at once takes ten milliseconds
            old = self._before.get(key, nothing)
            added: list[M] = []
            removed: list[M] = []
            for count, (member, is_in) in enumerate(changes.items(), 1):
                if is_in is not (member in old):
                    (added if is_in else removed).append(member)
                if count % MEMBERS_AT_ONCE == 0:
                    yield
            if removed:
                old = old.difference(removed)
            for begin in range(0, len(added), MEMBERS_AT_ONCE):
                if begin:
                    yield
                old = old.union(added[begin : begin + MEMBERS_AT_ONCE])
            if not old:
                draft.discard(key)
            elif added or removed:
                draft[key] = old
            yield
        return draft.frozen()
