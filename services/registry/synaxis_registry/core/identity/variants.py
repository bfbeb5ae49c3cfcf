"""Ids that say a little less or a little more than a known model's: how it is served, its size, its kind."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from synaxis_registry.core.identity.case import Case, Match, choose, is_possible, within, without
from synaxis_registry.core.identity.index import Entry, spelled
from synaxis_registry.core.identity.names import named_entries, replace_date
from synaxis_registry.core.identity.reading import Key, Reading, read
from synaxis_registry.core.identity.values import KnownModel, Rule
from synaxis_registry.core.identity.vocabulary import OPEN_ONLY, TIERS

OPTIONAL_WORDS = frozenset({"instruct", "preview"})
"""Left out of ids where only one kind is served."""


def variant(case: Case, reading: Reading) -> Match | None:
    """The known model without the words that say how it is served."""
    for words in _subsets(reading.serving):
        base = without(reading, words)
        entries = []
        for entry in case.index.by_key(base.key) or named_entries(case, base):
            reason = _other_tier(case, words, entry.model)
            if reason is None:
                entries.append(entry)
            else:
                case.reject(entry.model, 0.5, reason)
        chosen = choose(case, base, entries)
        if chosen is not None:
            why = f"{_listed(words)} is how it is served; no release date says otherwise"
            return Match(chosen[0].model, Rule.VARIANT, 0.8, (why,))
    return None


def _other_tier(case: Case, words: frozenset[str], model: KnownModel) -> str | None:
    """Why the words name another model rather than a way of serving this one; None when they may not."""
    is_open = model.facts.open_weights is True and model.source_id is not None
    sized = bool(read(spelled(model)).key.sizes)
    # Who serves a catalog's open weights faster has no other model, whatever day the provider gives.
    if case.against(model).other_release and not (is_open and (sized or not words & OPEN_ONLY)):
        return "the release dates are of two releases"
    if model.facts.open_weights is True:
        return None
    if tier := words & OPEN_ONLY:
        return f"{_listed(tier)} names another tier of a closed model"
    if words & TIERS and not model.source_id:
        return f"{_listed(words & TIERS)} may name another tier: no catalog lists that model without it"
    return None


def _subsets(words: frozenset[str]) -> Iterator[frozenset[str]]:
    """The fewest words first, so that what belongs to the model stays."""
    ordered = sorted(words)
    for size in range(1, len(ordered) + 1):
        for chosen in combinations(ordered, size):
            yield frozenset(chosen)


def _listed(words: frozenset[str]) -> str:
    return " ".join(sorted(words))


def partial(case: Case, reading: Reading) -> Match | None:
    """The id leaves out, or adds, what does not tell known models apart, and the evidence agrees."""
    for words in (frozenset[str](), reading.serving) if reading.serving else (frozenset[str](),):
        one = without(reading, words)
        fitting = [
            entry
            for entry in case.index.sharing(one.key)
            if _only_optional(one.key, entry.reading.key, case, entry)
            and not (words and _other_tier(case, words, entry.model))
        ]
        agreeing = [
            entry for entry in fitting if _confirmed(case, one.key, entry) and is_possible(case, one, entry)
        ]
        named = [entry for entry in agreeing if case.named(entry)]
        keys = {entry.reading.key for entry in named or agreeing}
        if len(keys) == 1:
            chosen = choose(case, one, named or agreeing)
            if chosen is not None:
                why = f"all but {_difference(one.key, chosen[0].reading.key)} is {chosen[0].reading.slug}'s"
                agreed = "its name agrees" if named else "nothing else is so like it, and its release agrees"
                return Match(chosen[0].model, Rule.PARTIAL, 0.72, (why, agreed))
        for entry in fitting:
            reason = "as like as another" if entry in agreeing else "neither name nor release date agrees"
            case.reject(entry.model, 0.4, f"{reason}; differs in {_difference(one.key, entry.reading.key)}")
    return None


def _confirmed(case: Case, key: Key, entry: Entry) -> bool:
    """Whether the evidence is enough for what the id leaves out or adds.

    Experts and active parameters follow from the size. A model that only providers know of may have sisters
    of other sizes that nobody has named yet: there the name has to say it.
    """
    own = entry.reading.key
    if key.sizes == own.sizes and key.sizes and (key.words == own.words or _only_instruct(case, key, entry)):
        return True
    if entry.model.source_id is None:
        return case.named(entry)
    # Sisters of several sizes come out on one day: it proves no size that the known model does not give.
    return case.said(entry) if key.sizes and not own.sizes else case.agrees(entry)


def _only_instruct(case: Case, key: Key, entry: Entry) -> bool:
    """Whether the id leaves out `instruct` of a model listed by a catalog that has no sister without it."""
    own, family = entry.reading.key, case.offering.facts.family
    sister = own._replace(words=key.words | {"thinking"})
    return (
        own.words - key.words == {"instruct"}
        and entry.model.source_id is not None
        and family in (None, entry.model.facts.family)
        and not case.index.by_key(sister)
    )


def _difference(one: Key, other: Key) -> str:
    return ", ".join(sorted(one.parts ^ other.parts)) or "the order"


def _only_optional(one: Key, other: Key, case: Case, entry: Entry) -> bool:
    if one == other or one.versions != other.versions:
        return False
    if one.words ^ other.words:
        missing, extra = other.words - one.words, one.words - other.words
        if "reasoning" in missing and _reasons_alone(other, case):
            missing -= {"reasoning"}
        # A preview is what follows it only as long as nothing has: the release tells which of the two it is.
        if "preview" in missing and case.against(entry.model).same_release is not True:
            return False
        if missing - OPTIONAL_WORDS or extra - {"instruct"}:
            return False
        # Beside a model that thinks or not as it is told, the instruct one is another model; and where the
        # weights are closed, as with gpt-3.5-turbo-instruct.
        if extra and (entry.model.facts.reasoning is True or entry.model.facts.open_weights is not True):
            return False
    # A size more than the known model's: only for a model that a catalog lists without one.
    if one.sizes and not other.sizes and entry.model.source_id is None:
        return False
    return within(one.sizes, other.sizes) and within(one.active, other.active)


def _reasons_alone(key: Key, case: Case) -> bool:
    """Whether the offering reasons, and no model stands beside the reasoning one that does not."""
    siblings = (
        key._replace(words=words)
        for words in (key.words - {"reasoning"}, (key.words - {"reasoning"}) | {"nonreasoning"})
    )
    return case.offering.facts.reasoning is True and not any(case.index.by_key(one) for one in siblings)


def partial_name(case: Case, reading: Reading) -> Match | None:
    """The name is a known model's but for a size or the like, and that model has all that the id has."""
    if case.name is None or not reading.key.words:
        return None
    fitting = [
        entry
        for entry in case.index.sharing(case.name.key)
        if entry.model.source_id is not None
        and reading.key.parts <= entry.reading.key.parts
        and reading.key.versions == entry.reading.key.versions
        and _only_optional(case.name.key, entry.reading.key, case, entry)
        and case.against(entry.model).same_release
    ]
    if len({entry.reading.key for entry in fitting}) != 1:
        return None
    chosen = choose(case, replace_date(case.name, reading), fitting)
    if chosen is None:
        return None
    why = f"the provider calls it {case.offering.facts.name!r}, and its release date agrees"
    return Match(chosen[0].model, Rule.PARTIAL, 0.7, (why,))
