"""Routing, step 1: which model was asked for?"""

from __future__ import annotations

from dataclasses import dataclass

from synaxis_registry.core import identity
from synaxis_registry.core.catalog import Catalog, Endpoint, GlobalModel


@dataclass(frozen=True, slots=True)
class Found:
    """The model that was meant."""

    model: GlobalModel
    pinned: Endpoint | None = None
    """Set when one provider's endpoint was asked for, and no other will do."""
    how: str | None = None
    """What of the name was left aside, or chosen for it: a date, say. None: it is a name of the model."""


@dataclass(frozen=True, slots=True)
class Missing:
    """Nobody has a model of this name."""

    nearest: tuple[str, ...]
    """Ids like it, those that are served now first."""


@dataclass(frozen=True, slots=True)
class Ambiguous:
    """The name fits several models, and guessing could be dear."""

    candidates: tuple[str, ...]


Lookup = Found | Missing | Ambiguous


def lookup(catalog: Catalog, asked: str) -> Lookup:
    """Find the model that `asked` names.

    In this order: an id; an alias; `provider/provider-model-id`, a pin to that endpoint; an id or alias in
    another case or with other separators; a provider's own name of a model; a name that carries a vendor, a
    date, `-latest` or the like, which means the newest one where it says nothing of when. Exact names go
    before similar ones, so that a pin cannot be taken for a misspelt alias.
    """
    asked = asked.strip()
    names = catalog.names
    if (model := catalog.models.get(asked)) is not None:
        return Found(model)
    if asked in names.by_alias:
        return _only(catalog, names.by_alias[asked])
    if (pinned := _pin(catalog, asked)) is not None:
        return pinned
    for ids in (names.folded(asked), catalog.models_called(asked)):
        if known := frozenset(model_id for model_id in ids if model_id in catalog.models):
            return _only(catalog, known)
    match catalog.spellings.recognise(asked):
        case identity.Found(model_id, how):
            return Found(catalog.models[model_id], how=how)
        case identity.Ambiguous(candidates):
            return Ambiguous(candidates)
    nearest = names.nearest(asked)
    return Missing(tuple(sorted(nearest, key=lambda name: not catalog.is_served(name))))


def _only(catalog: Catalog, ids: frozenset[str]) -> Lookup:
    if len(ids) > 1:
        return Ambiguous(tuple(sorted(ids)))
    (model_id,) = ids
    return Found(catalog.models[model_id])


def _pin(catalog: Catalog, asked: str) -> Found | None:
    provider_id, slash, provider_model_id = asked.partition("/")
    endpoint = catalog.endpoints.get((provider_id, provider_model_id)) if slash else None
    if endpoint is None:
        return None
    # An endpoint can be read an instant before its model: routing needs the endpoint only.
    model = catalog.models.get(endpoint.global_model_id)
    return Found(model or GlobalModel(endpoint.global_model_id, endpoint.global_model_id), endpoint)
