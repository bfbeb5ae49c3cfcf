"""Decides which global model an offering is."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from synaxis_common.slices import Steps, at_once
from synaxis_registry.core.identity.case import Case, Match
from synaxis_registry.core.identity.evidence import compare
from synaxis_registry.core.identity.index import ModelIndex, fold
from synaxis_registry.core.identity.matching import best_match, by_fuller_name
from synaxis_registry.core.identity.names import contradicted
from synaxis_registry.core.identity.reading import Reading, read
from synaxis_registry.core.identity.values import (
    Attributes,
    KnownModel,
    Offering,
    Resolution,
    Rule,
    RunnerUp,
)

NO_PINS: Mapping[tuple[str, str], str] = MappingProxyType({})
MOST_RUNNERS_UP = 5


class Resolver:
    """Knows the global models, and which of them a provider's id means.

    Resolving changes nothing: a model that is new is suggested, and known once it is learnt. Operators
    split by pinning offerings to another model, and merge by giving the surviving model the other's id as an
    alias and leaving the other out of `known`.
    """

    def __init__(self, known: Iterable[KnownModel], pins: Mapping[tuple[str, str], str] = NO_PINS) -> None:
        models = list(known)
        self._index = ModelIndex(models)
        self._listed = ModelIndex(model for model in models if model.source_id is not None)
        self._pins = dict(pins)

    @property
    def index(self) -> ModelIndex:
        return self._index

    def learn(self, model: KnownModel) -> None:
        """Know a model that was created or loaded, or know it anew."""
        changed = at_once(self.changing([model]))
        self._index, self._listed = changed._index, changed._listed

    def changing(self, models: Sequence[KnownModel], gone: Collection[str] = ()) -> Steps[Resolver]:
        """A resolver that knows `models` too, or anew, and none of those that are `gone`; this one stays."""
        last = {model.id: model for model in models}.values()
        unlisted = [model.id for model in last if model.source_id is None]
        listed = [model for model in last if model.source_id is not None]
        made, index_before, listed_before = Resolver((), self._pins), self._index, self._listed
        made._index = yield from index_before.changing(last, gone)
        made._listed = yield from listed_before.changing(listed, (*gone, *unlisted))
        return made

    def resolve(self, offering: Offering) -> Resolution:
        reading = read(offering.provider_model_id)
        pinned = self._pins.get((offering.provider_id, offering.provider_model_id))
        if pinned is not None:
            return Resolution(
                pinned, Rule.PIN, 1.0, attributes=reading.attributes, evidence=("an operator has pinned it",)
            )
        # What a catalog lists goes first: a model made of one provider's slip must not keep others from it.
        case = Case(offering, reading, self._listed)
        match = _match(case)
        if match is None:
            case = Case(offering, reading, self._index, case.rejected)
            match = _match(case)
        if match is None:
            return self._new(case, Rule.NEW)
        other = contradicted(case, match.model)
        if other is None:
            return _resolution(case, match)
        case.reject(match.model, 0.7, f"its name and release date are those of {other.id}")
        by_name = by_fuller_name(case)
        if by_name is not None and by_name.model.id == other.id:
            return _resolution(case, by_name)
        case.reject(other, 0.6, "the id says otherwise")
        return self._new(case, Rule.CONTRADICTED)

    def _new(self, case: Case, rule: Rule) -> Resolution:
        kept = self._index.models.get(_disputed_id(case)) if rule is Rule.CONTRADICTED else None
        is_kept = kept is not None and kept.source_id is None
        model = kept if kept is not None and is_kept else self._suggest(case, rule)
        why = "no known model is the same in words, versions and sizes"
        if rule is Rule.CONTRADICTED:
            why = "what is said of it contradicts its id, so that it is nobody's until somebody decides"
        confidence = 0.2 if rule is Rule.CONTRADICTED else 0.5 if case.rejected else 0.7
        return Resolution(
            model.id,
            rule,
            confidence,
            not is_kept,
            None if is_kept else model,
            _attributes(case.reading, is_new=True),
            (why,),
            _runners_up(case, None),
        )

    def _suggest(self, case: Case, rule: Rule) -> KnownModel:
        reading = case.reading
        vendor = reading.vendor or case.offering.facts.vendor
        slug = _disputed_id(case) if rule is Rule.CONTRADICTED else _slug(case)
        taken = self._index.models
        free = slug
        if free in taken and vendor:
            free = f"{fold(vendor)}-{slug}"
        if free in taken:
            free = f"{fold(case.offering.provider_id)}-{slug}"
        count = 2
        while free in taken:
            free, count = f"{fold(case.offering.provider_id)}-{slug}-{count}", count + 1
        alias = case.offering.provider_model_id.lower().rsplit("/", 1)[-1]
        is_plain = fold(alias) == free and read(free).key == reading.key
        aliases = frozenset() if rule is Rule.CONTRADICTED or is_plain else frozenset({alias})
        return KnownModel(free, vendor, None, case.offering.facts, aliases)


def _slug(case: Case) -> str:
    return fold(case.reading.slug) or fold(case.offering.provider_model_id) or "model"


def _disputed_id(case: Case) -> str:
    """The id of what only this provider calls so: the same at every sync."""
    provider = fold(case.offering.provider_id)
    return f"{provider}-{_slug(case).removeprefix(f'{provider}-')}"


def _match(case: Case) -> Match | None:
    model_id = case.offering.provider_model_id
    exact = case.index.by_id(model_id)
    if len(exact) == 1:
        return Match(exact[0], Rule.SAME_ID, 0.99, (f"{model_id} is an id or alias of it",))
    return best_match(case)


def _attributes(reading: Reading, *, is_new: bool) -> Attributes:
    served = () if is_new else tuple(sorted(reading.serving))
    return replace(reading.attributes, variants=(*reading.attributes.variants, *served))


def _resolution(case: Case, match: Match) -> Resolution:
    comparison = compare(case.offering.facts, match.model.facts)
    said = list(match.reasons)
    if comparison.agreeing:
        said.append(f"what is said of both agrees: {', '.join(comparison.agreeing)}")
    if comparison.differing:
        said.append(f"differs: {', '.join(comparison.differing)}")
    confidence = match.confidence + 0.03 * comparison.score - (0.05 if comparison.other_release else 0.0)
    named_otherwise = match.rule is not Rule.VARIANT
    return Resolution(
        match.model.id,
        match.rule,
        round(min(0.99, max(0.05, confidence)), 3),
        attributes=_attributes(case.reading, is_new=named_otherwise),
        evidence=tuple(said),
        runners_up=_runners_up(case, match.model),
    )


def _runners_up(case: Case, chosen: KnownModel | None) -> tuple[RunnerUp, ...]:
    best: dict[str, RunnerUp] = {}
    for one in case.rejected:
        if (chosen is None or one.global_model_id != chosen.id) and (
            one.global_model_id not in best or best[one.global_model_id].score < one.score
        ):
            best[one.global_model_id] = one
    ordered = sorted(best.values(), key=lambda one: (-one.score, one.global_model_id))
    return tuple(ordered[:MOST_RUNNERS_UP])
