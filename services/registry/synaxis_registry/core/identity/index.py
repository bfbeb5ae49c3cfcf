"""The known models by what their ids and names are made of."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from synaxis_registry.core.identity.reading import Key, Reading, read
from synaxis_registry.core.identity.values import KnownModel
from synaxis_registry.core.identity.vocabulary import VENDOR_OF


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


class ModelIndex:
    """Finds known models; grows by `add`, and a model added again replaces itself."""

    def __init__(self, models: Iterable[KnownModel] = ()) -> None:
        self.models: dict[str, KnownModel] = {}
        self._by_id: dict[str, set[str]] = defaultdict(set)
        self._by_key: dict[Key, dict[str, Entry]] = defaultdict(dict)
        self._by_alias_key: dict[Key, dict[str, Entry]] = defaultdict(dict)
        self._by_name: dict[Key, dict[str, Entry]] = defaultdict(dict)
        self._by_part: dict[str, set[Key]] = defaultdict(set)
        for model in sorted(models, key=lambda one: one.id):
            self.add(model)

    def add(self, model: KnownModel) -> None:
        if (before := self.models.get(model.id)) is not None:
            self._remove(before)
        self.models[model.id] = model
        for text in _ids(model):
            self._by_id[fold(text)].add(model.id)
        own = read(spelled(model))
        self._by_key[own.key][model.id] = Entry(model, own)
        for part in own.key.parts:
            self._by_part[part].add(own.key)
        for alias in model.aliases:
            reading = read(alias)
            if reading.key != own.key:
                self._by_alias_key[reading.key][model.id] = Entry(model, reading)
        # What one provider calls a model says nothing of another's: names count where a catalog gives them.
        if model.facts.name and model.source_id is not None:
            name = read(model.facts.name, is_name=True)
            self._by_name[name.key][model.id] = Entry(model, name)

    def _remove(self, model: KnownModel) -> None:
        for text in _ids(model):
            self._by_id[fold(text)].discard(model.id)
        for table in (self._by_key, self._by_alias_key, self._by_name):
            for text in (*_ids(model), model.facts.name or ""):
                for is_name in (False, True):
                    table.get(read(text, is_name=is_name).key, {}).pop(model.id, None)

    def by_id(self, text: str) -> list[KnownModel]:
        """Models with this id, `models.json` key or alias, in any case and with any separators."""
        found = (self.models[one] for one in sorted(self._by_id.get(fold(text), ())))
        return [model for model in found if _is_written(text, model)]

    def by_key(self, key: Key) -> list[Entry]:
        """Models of this key; by an alias only where no model's own id has it."""
        found = self._by_key.get(key) or self._by_alias_key.get(key) or {}
        return [found[one] for one in sorted(found)]

    def by_name(self, key: Key) -> list[Entry]:
        found = self._by_name.get(key, {})
        return [found[one] for one in sorted(found)]

    def sharing(self, key: Key) -> list[Entry]:
        """Models of the same version that have all of this key's parts, or no more words than it has."""
        parts = [self._by_part.get(part, set()) for part in key.parts]
        words = [self._by_part.get(word, set()) for word in (*(key.words - {"instruct"}), *key.versions)]
        # The rarest part first: `qwen` and `instruct` are in hundreds of keys.
        each = (set.intersection(*sorted(found, key=len)) for found in (parts, words) if found)
        same = [one for one in set().union(*each) if one.versions == key.versions]
        same.sort(key=lambda one: (sorted(one.words), *one[1:]))
        return [entry for one in same for entry in self.by_key(one)]


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
