"""The known models by what their ids and names are made of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from synaxis_common.slices import Steps, at_once
from synaxis_registry.core.identity.reading import Key, Reading, read
from synaxis_registry.core.identity.values import KnownModel
from synaxis_registry.core.identity.vocabulary import VENDOR_OF
from synaxis_registry.core.shards import Postings, PostingsDraft, Shards, ShardsDraft


def fold(text: str) -> str:
    """One spelling for all cases and separators."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


@dataclass(frozen=True, slots=True)
class Entry:
    """A known model under one of its readings."""

    model: KnownModel
    reading: Reading

    @property
    def vendor(self) -> str | None:
        vendor = self.reading.vendor or self.model.vendor
        return VENDOR_OF.get(vendor, vendor) if vendor else None


Entries = Mapping[str, Entry]
"""By the id of the model; of a key there are few."""

_NONE: Final[Entries] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class _Places:
    """Where a model stands in the index."""

    ids: frozenset[str]
    """Everything it is called, folded."""
    own: Entry
    others: Mapping[Key, Entry]
    """Under its aliases, but for those that read like its id."""
    name: Entry | None


def _places(model: KnownModel) -> _Places:
    own = Entry(model, read(spelled(model)))
    others = {}
    for alias in sorted(model.aliases):
        reading = read(alias)
        if reading.key != own.reading.key:
            others[reading.key] = Entry(model, reading)
    name = None
    # What one provider calls a model says nothing of another's: names count where a catalog gives them.
    if model.facts.name and model.source_id is not None:
        name = Entry(model, read(model.facts.name, is_name=True))
    return _Places(frozenset(map(fold, _ids(model))), own, others, name)


class ModelIndex:
    """Finds known models. It never changes; `changing` makes another one that shares most of it."""

    __slots__ = ("_by_alias_key", "_by_id", "_by_key", "_by_name", "_by_part", "models")

    def __init__(self, models: Iterable[KnownModel] = ()) -> None:
        self.models: Shards[str, KnownModel] = Shards()
        self._by_id: Postings[str, str] = Shards()
        self._by_key: Shards[Key, Entries] = Shards()
        self._by_alias_key: Shards[Key, Entries] = Shards()
        self._by_name: Shards[Key, Entries] = Shards()
        self._by_part: Postings[str, Key] = Shards()
        """Of the keys in `_by_key`."""
        listed = list(models)
        if listed:
            self._take_from(at_once(ModelIndex().changing(listed)))

    def _take_from(self, other: ModelIndex) -> None:
        for name in ModelIndex.__slots__:
            setattr(self, name, getattr(other, name))

    def changing(self, models: Iterable[KnownModel], gone: Iterable[str] = ()) -> Steps[ModelIndex]:
        """This index without the ids that are `gone`, and with `models`, which replace those of their ids."""
        draft = _Draft(self)
        for model_id in gone:
            draft.remove(model_id)
            yield
        for model in models:
            draft.put(model)
            yield
        made = ModelIndex()
        made.models = draft.models.frozen()
        made._by_id = yield from draft.by_id.freezing()
        made._by_key = draft.by_key.frozen()
        made._by_alias_key = draft.by_alias_key.frozen()
        made._by_name = draft.by_name.frozen()
        made._by_part = yield from draft.by_part.freezing()
        return made

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ModelIndex):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in ModelIndex.__slots__)

    def __hash__(self) -> int:
        return hash(self.models)

    def by_id(self, text: str) -> list[KnownModel]:
        """Models with this id, `models.json` key or alias, in any case and with any separators."""
        found = (self.models[one] for one in sorted(self._by_id.get(fold(text), ())))
        return [model for model in found if _is_written(text, model)]

    def by_key(self, key: Key) -> list[Entry]:
        """Models of this key; by an alias only where no model's own id has it."""
        found = self._by_key.get(key) or self._by_alias_key.get(key) or _NONE
        return [found[one] for one in sorted(found)]

    def by_name(self, key: Key) -> list[Entry]:
        found = self._by_name.get(key, _NONE)
        return [found[one] for one in sorted(found)]

    def sharing(self, key: Key) -> list[Entry]:
        """Models of the same version that have all of this key's parts, or no more words than it has."""
        nowhere: frozenset[Key] = frozenset()
        parts = [self._by_part.get(part, nowhere) for part in key.parts]
        words = [self._by_part.get(word, nowhere) for word in (*(key.words - {"instruct"}), *key.versions)]
        # The rarest part first: `qwen` and `instruct` are in hundreds of keys.
        each = (frozenset.intersection(*sorted(found, key=len)) for found in (parts, words) if found)
        same = [one for one in nowhere.union(*each) if one.versions == key.versions]
        same.sort(key=lambda one: (sorted(one.words), *one[1:]))
        return [entry for one in same for entry in self.by_key(one)]


class _Draft:
    """An index that is being changed."""

    def __init__(self, before: ModelIndex) -> None:
        self.models = ShardsDraft(before.models)
        self.by_id = PostingsDraft(before._by_id)
        self.by_key = ShardsDraft(before._by_key)
        self.by_alias_key = ShardsDraft(before._by_alias_key)
        self.by_name = ShardsDraft(before._by_name)
        self.by_part = PostingsDraft(before._by_part)

    def remove(self, model_id: str) -> None:
        model = self.models.get(model_id)
        if model is None:
            return
        self.models.discard(model_id)
        places = _places(model)
        for text in places.ids:
            self.by_id.discard(text, model_id)
        if _take_out(self.by_key, places.own.reading.key, model_id):
            for part in places.own.reading.key.parts:
                self.by_part.discard(part, places.own.reading.key)
        for key in places.others:
            _take_out(self.by_alias_key, key, model_id)
        if places.name is not None:
            _take_out(self.by_name, places.name.reading.key, model_id)

    def put(self, model: KnownModel) -> None:
        if self.models.get(model.id) == model:
            return
        self.remove(model.id)
        self.models[model.id] = model
        places = _places(model)
        for text in places.ids:
            self.by_id.add(text, model.id)
        if _put_in(self.by_key, places.own.reading.key, places.own):
            for part in places.own.reading.key.parts:
                self.by_part.add(part, places.own.reading.key)
        for key, entry in places.others.items():
            _put_in(self.by_alias_key, key, entry)
        if places.name is not None:
            _put_in(self.by_name, places.name.reading.key, places.name)


def _put_in(table: ShardsDraft[Key, Entries], key: Key, entry: Entry) -> bool:
    """Whether it is the first one there."""
    there = table.get(key)
    table[key] = {entry.model.id: entry} if there is None else {**there, entry.model.id: entry}
    return there is None


def _take_out(table: ShardsDraft[Key, Entries], key: Key, model_id: str) -> bool:
    """Whether nobody is left there."""
    left = {one: entry for one, entry in (table.get(key) or _NONE).items() if one != model_id}
    if left:
        table[key] = left
    else:
        table.discard(key)
    return not left


def spelled(model: KnownModel) -> str:
    """The model's id as its maker writes it: a slug has lost the point that 1.7b had."""
    if model.source_id is not None:
        return model.source_id
    return min((alias for alias in model.aliases if fold(alias) == model.id), default=model.id)


def _is_written(text: str, model: KnownModel) -> bool:
    """Whether the text is the model's id, not one that only folds to the same: `command-r+`, `command-r`."""
    if text.lower() in (one.lower() for one in _ids(model)):
        return True
    key, own = read(text).key, read(spelled(model)).key
    return key == own or any(fold(one) == fold(text) and key == read(one).key for one in model.aliases)


def _ids(model: KnownModel) -> tuple[str, ...]:
    return (model.id, *((model.source_id,) if model.source_id else ()), *sorted(model.aliases))
