"""The ways in which an offering may be a known model, from the surest to the least sure.

Each rule is a pure function of the case and a reading of its id. It returns a `Match`, or None; what it
considered and turned down, it tells the case.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from synaxis_registry.core.identity.case import Case, Match, choose
from synaxis_registry.core.identity.index import Entry, spelled
from synaxis_registry.core.identity.names import by_its_name, by_name_and_size, from_facts, fuller_name
from synaxis_registry.core.identity.reading import Reading, read, rekeyed
from synaxis_registry.core.identity.values import Rule
from synaxis_registry.core.identity.variants import partial, partial_name, variant
from synaxis_registry.core.identity.vocabulary import PLANS

REVISION = re.compile(r"00\d")


def same_model(case: Case, reading: Reading) -> Match | None:
    chosen = choose(case, reading, case.index.by_key(reading.key))
    if chosen is None:
        return None
    entry, by_date = chosen
    reason = f"the same words, versions and sizes as {entry.reading.slug}"
    if not by_date:
        return Match(entry.model, Rule.SAME_MODEL, 0.96, (reason,))
    other = entry.reading.date or ("its latest" if entry.reading.is_latest else "undated")
    return Match(entry.model, Rule.DATED, 0.88, (reason, f"date: {reading.date or 'none'}; known: {other}"))


def prefixes(case: Case) -> Iterator[tuple[Reading, str, bool]]:
    """The id without what a provider has put before it: reading, what was dropped, whether it needs proof."""
    atoms = case.reading.atoms
    own = set(read(case.offering.provider_id).atoms)
    count = 0
    while count < len(atoms) - 1 and atoms[count] in own:
        count += 1
    if count:
        yield rekeyed(case.reading, atoms[count:]), " ".join(atoms[:count]), False
    plan = 0
    while plan < len(atoms) - 1 and atoms[plan] in PLANS:
        plan += 1
    if plan:
        rest = read("-".join(atoms[plan:]))
        yield rekeyed(case.reading, rest.atoms), " ".join(atoms[:plan]), True


def spelling(case: Case, reading: Reading) -> Match | None:
    """The id with a prefix dropped, or with its first two digits taken as a version such as 5.2."""
    for index, atom in enumerate(reading.atoms):
        if atom.isdigit():
            if len(atom) == 2 and atom[0] != "0":
                split = rekeyed(reading, (*reading.atoms[:index], *atom, *reading.atoms[index + 1 :]))
                entries = [one for one in case.index.by_key(split.key) if case.agrees(one)]
                chosen = choose(case, split, entries)
                if chosen is not None:
                    why = f"{atom} is version {atom[0]}.{atom[1]}, as its name or release date confirms"
                    return Match(chosen[0].model, Rule.SPELLING, 0.85, (why,))
            return None
    return None


def revision(case: Case, reading: Reading) -> Match | None:
    """The id without a revision at its end, `-001` or `-v1`, where that model is not known by itself."""
    atoms = reading.atoms
    if len(atoms) > 2 and REVISION.fullmatch(atoms[-1]):
        kept = atoms[:-1]
    elif len(atoms) > 3 and atoms[-2:] == ("v", "1"):
        kept = atoms[:-2]
    else:
        return None
    base = rekeyed(reading, kept)
    chosen = choose(case, base, [one for one in case.index.by_key(base.key) if case.agrees(one)])
    if chosen is None:
        return None
    return Match(
        chosen[0].model, Rule.SPELLING, 0.8, ("what follows the name is a revision; the release agrees",)
    )


RULES = (
    *(same_model, by_its_name, spelling, by_name_and_size, fuller_name),
    *(variant, revision, partial, partial_name),
)
"""The surest first."""


def best_match(case: Case) -> Match | None:
    """The first rule that decides."""
    starts: list[tuple[Reading, str, bool]] = [(case.reading, "", False), *prefixes(case)]
    for rule in RULES:
        for reading, prefix, needs_proof in starts:
            found = rule(case, reading)
            if found is None:
                continue
            entry = Entry(found.model, read(spelled(found.model)))
            if needs_proof and not case.agrees(entry):
                case.reject(
                    found.model, 0.5, f"only the tail is its id, and nothing confirms that {prefix!r} is none"
                )
                continue
            if not prefix:
                return found
            why = (f"{prefix!r} is the provider's prefix", *found.reasons)
            kind = Rule.SPELLING if found.rule is Rule.SAME_MODEL else found.rule
            return Match(found.model, kind, found.confidence - 0.06, why)
    return from_facts(case)


def by_fuller_name(case: Case) -> Match | None:
    """What the fuller name says, with any prefix of the provider left aside."""
    for reading in (case.reading, *(one for one, _, _ in prefixes(case))):
        if (found := fuller_name(case, reading)) is not None:
            return found
    return None
