"""Which provider ids are the same model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ModelFacts:
    name: str | None = None
    family: str | None = None
    vendor: str | None = None
    release_date: str | None = None
    context_window: int | None = None
    max_output: int | None = None
    input_modalities: frozenset[str] = frozenset()
    output_modalities: frozenset[str] = frozenset()
    open_weights: bool | None = None
    reasoning: bool | None = None


@dataclass(frozen=True, slots=True)
class KnownModel:
    id: str
    vendor: str | None = None
    source_id: str | None = None
    facts: ModelFacts = ModelFacts()
    aliases: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Offering:
    provider_id: str
    provider_model_id: str
    facts: ModelFacts = ModelFacts()


@dataclass(frozen=True, slots=True)
class Resolution:
    global_model_id: str
    rule: str
    confidence: float
    is_new: bool = False
    suggested: KnownModel | None = None


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.rsplit("/", 1)[-1].lower()).strip("-") or "model"


class Resolver:
    def __init__(self, known: Iterable[KnownModel], pins: Mapping[tuple[str, str], str] = {}) -> None:
        self._known = {model.id: model for model in known}

    def resolve(self, offering: Offering) -> Resolution:
        found = slug(offering.provider_model_id)
        if found in self._known:
            return Resolution(found, "slug", 0.8)
        return Resolution(found, "new", 0.5, True, KnownModel(found))

    def learn(self, model: KnownModel) -> None:
        self._known[model.id] = model


def global_models_from_models_json(
    entries: Mapping[str, Mapping[str, Any]],
    existing: Mapping[str, str] = {},
) -> list[KnownModel]:
    return [
        KnownModel(
            existing.get(key, slug(key)),
            key.partition("/")[0],
            key,
            ModelFacts(name=entry.get("name")),
            frozenset({key}),
        )
        for key, entry in sorted(entries.items())
    ]
