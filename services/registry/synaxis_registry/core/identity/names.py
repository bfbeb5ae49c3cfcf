"""What the provider's own name for a model says, beside its id."""

from __future__ import annotations

from dataclasses import replace

from synaxis_registry.core.identity.case import (
    Case,
    Match,
    bare,
    choose,
    is_possible,
    name_key,
    same_date,
    within,
    without,
)
from synaxis_registry.core.identity.evidence import NEAR_DAYS, days_apart
from synaxis_registry.core.identity.index import Entry, spelled
from synaxis_registry.core.identity.reading import Key, Reading, read
from synaxis_registry.core.identity.values import KnownModel, Rule
from synaxis_registry.core.identity.vocabulary import SIZE_CLASSES


def contradicted(case: Case, found: KnownModel) -> KnownModel | None:
    """The other known model that name and release date describe, where they describe not this one."""
    if case.name is None:
        return None
    named = case.index.by_key(case.name.key) or case.index.by_name(case.name.key)
    if not named or any(one.model.id == found.id for one in named):
        return None
    own = _keys(found)
    if case.name.key in own or any(key in own for key in bare(case.name)):
        return None
    for entry in named:
        released = case.offering.facts.release_date
        apart = days_apart(released, entry.model.facts.release_date)
        if apart == 0 and days_apart(released, found.facts.release_date) not in (0, None):
            return entry.model
    return None


def _keys(model: KnownModel) -> set[Key | None]:
    return {read(spelled(model)).key, name_key(model)}


def fuller_name(case: Case, reading: Reading) -> Match | None:
    """The name is a known model's and has all that the id has, and more."""
    if not reading.key.words:
        return None
    bare = (without(name, name.serving) for name in case.names if name.serving)
    for name in (*case.names, *bare):
        entries = case.index.by_key(name.key) or case.index.by_name(name.key)
        entries = [one for one in entries if reading.key.parts <= one.reading.key.parts | name.key.parts]
        if case.index.by_key(reading.key):
            entries = [one for one in entries if case.against(one.model).same_release is not False]
        entries = [one for one in entries if _compatible(reading.key, one.reading.key)]
        chosen = choose(case, replace_date(name, reading), entries)
        if chosen is not None:
            why = f"the provider calls it {case.offering.facts.name!r}"
            return Match(chosen[0].model, Rule.FULLER_NAME, 0.82, (why, "the id says nothing against it"))
    return None


def replace_date(name: Reading, reading: Reading) -> Reading:
    """The name's reading with the id's date: names seldom carry one."""
    return Reading(
        name.key,
        name.atoms,
        name.slug,
        reading.vendor,
        reading.attributes,
        name.date or reading.date,
        name.is_latest or reading.is_latest,
    )


def _compatible(one: Key, other: Key) -> bool:
    """Neither contradicts the other in size or version; one may not say."""
    pairs = ((one.sizes, other.sizes), (one.active, other.active), (one.versions, other.versions))
    return all(within(first, second) for first, second in pairs)


def by_its_name(case: Case, reading: Reading) -> Match | None:
    """The id is what people call a known model: `mistral-large-3` for `mistral-large-2512`."""
    chosen = choose(case, reading, named_entries(case, reading))
    if chosen is None:
        return None
    why = f"the id is that model's name, {chosen[0].model.facts.name!r}"
    return Match(chosen[0].model, Rule.SAME_MODEL, 0.85, (why,))


def by_name_and_size(case: Case, reading: Reading) -> Match | None:
    """The id is such a name with the size added: `mistral-small-3.2-24b-instruct` for `mistral-small-2506`.

    Only for models that carry a date where others carry a version: elsewhere another size is another model,
    such as `deepseek-r1-8b`. The date, the release or the provider's name has to agree, and since sisters of
    several sizes come out on one day, the size has to be settled by a word such as `small`, or by the name.
    """
    key = reading.key
    if not key.sizes or not key.versions or key.active:
        return None
    plain = key._replace(words=key.words - {"instruct"}, sizes=())
    entries = [one for one in named_entries(case, replace(reading, key=plain)) if _is_of_that_date(case, one)]
    settled = bool(plain.words & SIZE_CLASSES)
    fitting = [one for one in entries if (settled or case.named(one)) and is_possible(case, reading, one)]
    if len(fitting) != 1:
        return None
    model = fitting[0].model
    why = f"the id is that model's name, {model.facts.name!r}, and its size; date, release or name agrees"
    return Match(model, Rule.PARTIAL, 0.75, (why,))


def _is_of_that_date(case: Case, entry: Entry) -> bool:
    """Whether the model's id has a date instead of its name's version, and the offering is of that date."""
    own = read(spelled(entry.model))
    if own.date is None or own.key.versions or own.key.sizes:
        return False
    released = days_apart(case.offering.facts.release_date, own.date)
    return (
        same_date(case.reading.date or "none", own.date)
        or case.agrees(entry)
        or (released is not None and released <= NEAR_DAYS)
    )


def named_entries(case: Case, reading: Reading) -> list[Entry]:
    """Models that are called what the id says, and whose own date is not another than the id's."""
    entries = []
    for entry in case.index.by_name(reading.key):
        own = read(spelled(entry.model)).date
        if reading.date is not None and own is not None and not same_date(reading.date, own):
            case.reject(entry.model, 0.5, f"of {own}, not of {reading.date}")
        elif (
            _is_of_that_date(case, entry) or case.named(entry) or not case.against(entry.model).other_release
        ):
            entries.append(entry)
    return _plain(entries)


def _plain(entries: list[Entry]) -> list[Entry]:
    """Without those that are called the latest where another is plainly called so."""
    plain = [one for one in entries if not one.reading.is_latest]
    return plain or entries


def from_facts(case: Case) -> Match | None:
    """The name is a known model's, every date and limit agrees, and the id says nothing against it."""
    if case.name is None:
        return None
    entries = case.index.by_key(case.name.key) or case.index.by_name(case.name.key)
    fitting = []
    for entry in entries:
        comparison = case.against(entry.model)
        key = case.reading.key
        versions = {(), entry.reading.key.versions, case.name.key.versions}
        agreed = {"release date", "context window", "output limit"} <= set(comparison.agreeing)
        if agreed and key.versions in versions and within(key.sizes, entry.reading.key.sizes):
            fitting.append(entry)
    chosen = choose(case, replace_date(case.name, case.reading), fitting)
    if chosen is None:
        return None
    return Match(chosen[0].model, Rule.FACTS, 0.6, ("name, release date and limits are that model's",))
