"""Finds the model that somebody has typed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from synaxis_common.slices import Steps
from synaxis_registry.core.identity.index import Entry, ModelIndex, fold
from synaxis_registry.core.identity.reading import read
from synaxis_registry.core.identity.values import KnownModel

MOST_NEAREST = 5


@dataclass(frozen=True, slots=True)
class Found:
    """The model that was meant, and how the text led to it (`an undated id: its newest`, say)."""

    global_model_id: str
    how: str


@dataclass(frozen=True, slots=True)
class Ambiguous:
    """Several models may be meant."""

    candidates: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Missing:
    """No model; the ids that look most like it."""

    nearest: tuple[str, ...]


class AliasIndex:
    """Every id that somebody may type: with vendor or not, dotted or dashed, in any case, dated or not."""

    __slots__ = ("_index",)

    def __init__(self, models: Iterable[KnownModel] | ModelIndex = ()) -> None:
        self._index = models if isinstance(models, ModelIndex) else ModelIndex(models)

    def changing(self, models: Iterable[KnownModel], gone: Iterable[str] = ()) -> Steps[AliasIndex]:
        """See `ModelIndex.changing`."""
        return AliasIndex((yield from self._index.changing(models, gone)))

    def __eq__(self, other: object) -> bool:
        return self._index == other._index if isinstance(other, AliasIndex) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._index)

    def find(self, typed: str) -> Found | Ambiguous | Missing:
        """The model that `typed` names, or what is nearest to it, which takes as long as there are models."""
        found = self.recognise(typed)
        if found is not None:
            return found
        near = get_close_matches(fold(read(typed).slug), list(self._index.models), MOST_NEAREST, 0.6)
        return Missing(tuple(near))

    def recognise(self, typed: str) -> Found | Ambiguous | None:
        """The model that `typed` names, or those that it may name."""
        exact = self._index.by_id(typed)
        if exact:
            return _only([(model.id, "an id or alias of it") for model in exact])
        reading = read(typed)
        entries = [
            entry
            for entry in self._index.by_key(reading.key)
            if reading.vendor is None or entry.vendor in (None, reading.vendor)
        ]
        dated = [one for one in entries if one.reading.date is not None]
        undated = [one for one in entries if one.reading.date is None and not one.reading.is_latest]
        latest = [one for one in entries if one.reading.is_latest]
        if reading.date is not None:
            same = [one for one in dated if one.reading.date == reading.date]
            return _answer(same or undated or latest, "the date is left aside" if not same else "")
        plain = (latest or undated) if reading.is_latest else (undated or latest)
        if plain or not dated:
            return _answer(plain, "")
        newest = max(one.reading.date or "" for one in dated)
        return _answer([one for one in dated if one.reading.date == newest], f"its newest, {newest}")


def _answer(entries: list[Entry], how: str) -> Found | Ambiguous | None:
    if not entries:
        return None
    return _only([(one.model.id, how or "another spelling of its id") for one in entries])


def find(models: Iterable[KnownModel] | AliasIndex, typed: str) -> Found | Ambiguous | Missing:
    """The model that `typed` names, the candidates where several do, or what is nearest."""
    index = models if isinstance(models, AliasIndex) else AliasIndex(models)
    return index.find(typed)


def _only(found: list[tuple[str, str]]) -> Found | Ambiguous:
    ids = sorted({one for one, _ in found})
    return Found(ids[0], found[0][1]) if len(ids) == 1 else Ambiguous(tuple(ids))
