"""Whole catalogs: global models out of `models.json`, and a catalog's offerings resolved together."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from synaxis_registry.core.identity.case import without
from synaxis_registry.core.identity.index import fold
from synaxis_registry.core.identity.reading import Key, read
from synaxis_registry.core.identity.resolver import NO_PINS, Resolver
from synaxis_registry.core.identity.values import KnownModel, ModelFacts, Offering, Resolution

NONE_EXISTING: Mapping[str, str] = MappingProxyType({})


def facts_from_entry(entry: Mapping[str, Any], vendor: str | None = None) -> ModelFacts:
    """What an entry of models.dev (`models.json`, or a model in `api.json`) says of a model."""
    limit, modalities = entry.get("limit") or {}, entry.get("modalities") or {}
    return ModelFacts(
        name=entry.get("name"),
        family=entry.get("family"),
        vendor=vendor,
        release_date=entry.get("release_date"),
        context_window=limit.get("context") or None,
        max_output=limit.get("output") or None,
        input_modalities=frozenset(modalities.get("input") or ()),
        output_modalities=frozenset(modalities.get("output") or ()),
        open_weights=entry.get("open_weights"),
        reasoning=entry.get("reasoning"),
    )


def global_models_from_models_json(
    entries: Mapping[str, Mapping[str, Any]], existing: Mapping[str, str] = NONE_EXISTING
) -> list[KnownModel]:
    """A global model for each entry, whose key is `vendor/model`.

    The id is the model's slug; where two vendors' models would share it, each takes its vendor before it.
    `existing` (key to id) is kept, whatever arrives.
    """
    taken = set(existing.values())
    wanted = Counter(fold(key.partition("/")[2] or key) for key in entries if key not in existing)
    models = []
    for key in sorted(entries):
        vendor, _, tail = key.rpartition("/")
        slug = fold(tail)
        if key in existing:
            model_id = existing[key]
        elif wanted[slug] > 1 or slug in taken:
            model_id = _free(fold(key), taken)
        else:
            model_id = slug
        taken.add(model_id)
        facts = facts_from_entry(entries[key], vendor or None)
        models.append(KnownModel(model_id, vendor or None, key, facts, frozenset({key})))
    return models


def _free(slug: str, taken: set[str]) -> str:
    count, free = 2, slug
    while free in taken:
        free, count = f"{slug}-{count}", count + 1
    return free


def cluster(
    known: Iterable[KnownModel],
    offerings: Iterable[Offering],
    pins: Mapping[tuple[str, str], str] = NO_PINS,
) -> list[Resolution]:
    """Resolve a whole catalog; the order of the offerings makes no difference.

    What no known model is becomes models of their own, the plainest ids first, so that a variant or a dated
    id finds the model that it belongs to. Two offerings of one new model get the same id; only the first
    resolution of it (in the order in which they were decided) carries `is_new`.
    """
    resolver = Resolver(known, pins)
    listed = list(offerings)
    decided: dict[int, Resolution] = {}
    open_ones: list[int] = []
    for number, offering in enumerate(listed):
        found = resolver.resolve(offering)
        if found.is_new:
            open_ones.append(number)
        else:
            decided[number] = found
    described = _majority([listed[number] for number in open_ones])
    common = Counter(_group(listed[number]) for number in open_ones)
    spelled = Counter(read(listed[number].provider_model_id).slug for number in open_ones)
    for number in sorted(open_ones, key=lambda one: _plainness(listed[one], common, spelled)):
        offering = listed[number]
        found = resolver.resolve(offering)
        if found.is_new and found.suggested is not None:
            facts = described[_group(offering)]
            found = replace(found, suggested=replace(found.suggested, facts=facts))
            if found.suggested is not None:
                resolver.learn(found.suggested)
        decided[number] = found
    # Some were decided before all models were known: now they are, as they will be at the next sync.
    for number in open_ones:
        if not decided[number].is_new:
            decided[number] = resolver.resolve(listed[number])
    return [decided[number] for number in range(len(listed))]


Group = tuple[Key, str | None]


def _group(offering: Offering) -> Group:
    reading = read(offering.provider_model_id)
    return reading.key, reading.date


def _plainness(offering: Offering, common: Counter[Group], spelled: Counter[str]) -> tuple[object, ...]:
    """Undated before dated, plain before variants, what many offer before what few do."""
    reading = read(offering.provider_model_id)
    return (
        reading.date is not None,
        reading.is_latest,
        len(reading.serving) if (without(reading, reading.serving).key, reading.date) in common else 0,
        -common[_group(offering)],
        sorted(reading.key.parts),
        -spelled[reading.slug],
        len(reading.atoms),
        len(offering.provider_model_id),
        offering.provider_model_id.lower(),
        offering.provider_model_id,
        offering.provider_id,
    )


def _majority(offerings: list[Offering]) -> dict[Group, ModelFacts]:
    """For each new model what most of its providers say: one provider's slip should not describe it."""
    groups: dict[Group, list[ModelFacts]] = defaultdict(list)
    for offering in offerings:
        groups[_group(offering)].append(offering.facts)
    return {
        group: ModelFacts(
            **{name: _most([getattr(one, name) for one in said]) for name in ModelFacts.__slots__}
        )
        for group, said in groups.items()
    }


def _most(values: list[Any]) -> Any:
    """The commonest value that says something; of equally common ones the first in order."""
    counts = Counter(value for value in values if value is not None and value != frozenset())
    if not counts:
        return values[0]
    return min(
        counts, key=lambda value: (-counts[value], sorted(value) if isinstance(value, frozenset) else value)
    )
