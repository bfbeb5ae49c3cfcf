"""The ways in which an offering may be a known model, from the surest to the least sure.

Each is a pure function of the offering's reading and the index. It returns a `Match`, or None; what it
considered and turned down goes to `rejected`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import combinations

from synaxis_registry.core.identity.evidence import Comparison, compare, days_apart, other_output
from synaxis_registry.core.identity.index import Entry, ModelIndex
from synaxis_registry.core.identity.reading import Key, Reading, read, rekeyed
from synaxis_registry.core.identity.values import KnownModel, Offering, Rule, RunnerUp
from synaxis_registry.core.identity.vocabulary import OPEN_ONLY, PLANS, TIERS

OPTIONAL_WORDS = frozenset({"instruct", "preview"})
"""Left out of ids where only one kind is served."""


@dataclass(frozen=True, slots=True)
class Match:
    """A known model, and why it is the one."""

    model: KnownModel
    rule: Rule
    confidence: float
    reasons: tuple[str, ...]


@dataclass(slots=True)
class Case:
    """One offering on its way through the rules."""

    offering: Offering
    reading: Reading
    index: ModelIndex
    rejected: list[RunnerUp] = field(default_factory=list)

    def __post_init__(self) -> None:
        name = self.offering.facts.name
        self.name = read(name, is_name=True) if name else None

    name: Reading | None = field(init=False, default=None)

    def against(self, model: KnownModel) -> Comparison:
        return compare(self.offering.facts, model.facts)

    def reject(self, model: KnownModel, score: float, reason: str) -> None:
        self.rejected.append(RunnerUp(model.id, score, reason))

    def named(self, entry: Entry) -> bool:
        """Whether the provider's name for it says the same as the model's id or name."""
        return self.name is not None and any(
            key in (entry.reading.key, _name_key(entry.model)) for key in _bare(self.name)
        )

    def agrees(self, entry: Entry) -> bool:
        """What a match needs that the string alone does not make."""
        return self.named(entry) or bool(self.against(entry.model).same_release)


def _name_key(model: KnownModel) -> Key | None:
    return read(model.facts.name, is_name=True).key if model.facts.name else None


def _bare(reading: Reading) -> Iterator[Key]:
    """The key as it is, and without the words that say how a model is served."""
    yield reading.key
    if reading.serving:
        yield without(reading, reading.serving).key


def without(reading: Reading, words: Iterable[str]) -> Reading:
    dropped = set(words)
    return rekeyed(reading, tuple(atom for atom in reading.atoms if atom not in dropped))


def choose(case: Case, reading: Reading, entries: list[Entry]) -> tuple[Entry, bool] | None:
    """Which of the models that differ only by date; and whether a date had to be dropped or added."""
    entries = [one for one in entries if _possible(case, reading, one)]
    if not entries:
        return None
    undated = [one for one in entries if one.reading.date is None and not one.reading.is_latest]
    latest = [one for one in entries if one.reading.is_latest]
    dated = [one for one in entries if one.reading.date is not None]
    if reading.date is not None:
        for one in dated:
            if _same_date(reading.date, one.reading.date):
                return one, False
        for one in (*undated, *latest):
            if _dated_release_of(reading.date, one.model):
                return one, True
            case.reject(one.model, 0.6, f"open weights of another date than {reading.date}")
        return None
    for group in (latest, undated) if reading.is_latest else (undated, latest):
        if group:
            return group[0], group is latest and not reading.is_latest
    newest = max(dated, key=lambda one: (one.reading.date or "", one.model.id))
    released = case.offering.facts.release_date
    nearest = [one for one in dated if days_apart(released, one.model.facts.release_date) == 0]
    return (nearest[0] if len(nearest) == 1 else newest), True


def _possible(case: Case, reading: Reading, entry: Entry) -> bool:
    if other_output(case.offering.facts, entry.model.facts):
        case.reject(entry.model, 0.3, "it makes something else: the output modalities have nothing in common")
        return False
    if reading.vendor and entry.vendor and reading.vendor != entry.vendor and not case.agrees(entry):
        case.reject(entry.model, 0.5, f"{reading.vendor} is another vendor than {entry.vendor}")
        return False
    return True


def _same_date(one: str, other: str | None) -> bool:
    """Whether two dates agree as far as both go: `2025-07` and `2025-07-10`, `07-10` and `2025-07-10`."""
    if other is None:
        return False
    shorter, longer = sorted((one, other), key=len)
    return longer.startswith(shorter) or (len(shorter) == 5 and longer.endswith(shorter))


def _dated_release_of(date: str, model: KnownModel) -> bool:
    """Closed models are renewed under one name; open weights of another date are other weights."""
    if model.facts.open_weights is not True:
        return True
    released = model.facts.release_date or ""
    if len(date) == 5:
        date = f"{released[:4]}-{date}"
    apart = days_apart(date, released)
    return apart is not None and apart <= 45


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


def contradicted(case: Case, found: KnownModel) -> KnownModel | None:
    """The other known model that name and release date describe, where they describe not this one."""
    if case.name is None:
        return None
    named = case.index.by_key(case.name.key) or case.index.by_name(case.name.key)
    if not named or any(one.model.id == found.id for one in named):
        return None
    own = _keys(found)
    if case.name.key in own or any(key in own for key in _bare(case.name)):
        return None
    for entry in named:
        released = case.offering.facts.release_date
        apart = days_apart(released, entry.model.facts.release_date)
        if apart == 0 and days_apart(released, found.facts.release_date) not in (0, None):
            return entry.model
    return None


def _keys(model: KnownModel) -> set[Key | None]:
    return {read(model.source_id or model.id).key, _name_key(model)}


def fuller_name(case: Case, reading: Reading) -> Match | None:
    """The name is a known model's and has all that the id has, and more."""
    if case.name is None or not reading.key.words:
        return None
    for name in (case.name, *((without(case.name, case.name.serving),) if case.name.serving else ())):
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
    return all(_within(first, second) for first, second in pairs)


def _within(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    return not one or not other or one == other


def prefixes(case: Case) -> Iterator[tuple[Reading, str, bool]]:
    """The id without what a provider has put before it: reading, what was dropped, whether proof is needed."""
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


def variant(case: Case, reading: Reading) -> Match | None:
    """The known model without the words that say how it is served."""
    for words in _subsets(reading.serving):
        base = without(reading, words)
        entries = []
        for entry in case.index.by_key(base.key) or _named_entries(case, base):
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
    if case.against(model).other_release:
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


def by_its_name(case: Case, reading: Reading) -> Match | None:
    """The id is what people call a known model: `mistral-large-3` for `mistral-large-2512`."""
    chosen = choose(case, reading, _named_entries(case, reading))
    if chosen is None:
        return None
    why = f"the id is that model's name, {chosen[0].model.facts.name!r}"
    return Match(chosen[0].model, Rule.SAME_MODEL, 0.85, (why,))


def _named_entries(case: Case, reading: Reading) -> list[Entry]:
    """Models that are called what the id says, and whose own date is not another than the id's."""
    entries = []
    for entry in case.index.by_name(reading.key):
        own = read(entry.model.source_id or entry.model.id).date
        if reading.date is not None and own is not None and not _same_date(reading.date, own):
            case.reject(entry.model, 0.5, f"of {own}, not of {reading.date}")
        elif case.named(entry) or not case.against(entry.model).other_release:
            entries.append(entry)
    return _plain(entries)


def _plain(entries: list[Entry]) -> list[Entry]:
    """Without those that are called the latest where another is plainly called so."""
    plain = [one for one in entries if not one.reading.is_latest]
    return plain or entries


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
        agreeing = [entry for entry in fitting if _confirmed(case, one.key, entry) and _possible(case, one, entry)]
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
    if key.sizes == own.sizes and key.sizes and key.words == own.words:
        return True
    return case.named(entry) if entry.model.source_id is None else case.agrees(entry)


def _difference(one: Key, other: Key) -> str:
    return ", ".join(sorted(one.parts ^ other.parts)) or "the order"


def _only_optional(one: Key, other: Key, case: Case, entry: Entry) -> bool:
    if one == other or one.versions != other.versions:
        return False
    if one.words ^ other.words:
        missing, extra = other.words - one.words, one.words - other.words
        if "reasoning" in missing and _reasons_alone(other, case):
            missing -= {"reasoning"}
        if missing - OPTIONAL_WORDS or extra - {"instruct"}:
            return False
        # Beside a model that thinks or not as it is told, the instruct one is another model; and where the
        # weights are closed, as with gpt-3.5-turbo-instruct.
        if extra and (entry.model.facts.reasoning is True or entry.model.facts.open_weights is not True):
            return False
    # A size more than the known model's: only for a model that a catalog lists without one.
    if one.sizes and not other.sizes and entry.model.source_id is None:
        return False
    return _within(one.sizes, other.sizes) and _within(one.active, other.active)


def _reasons_alone(key: Key, case: Case) -> bool:
    """Whether the offering reasons, and no model stands beside the reasoning one that does not."""
    siblings = (key._replace(words=words) for words in (
        key.words - {"reasoning"}, (key.words - {"reasoning"}) | {"nonreasoning"}
    ))
    return case.offering.facts.reasoning is True and not any(case.index.by_key(one) for one in siblings)


def partial_name(case: Case, reading: Reading) -> Match | None:
    """The name is a known model's but for a size or the like, and that model has all that the id has."""
    if case.name is None or not reading.key.words:
        return None
    fitting = [
        entry
        for entry in case.index.sharing(case.name.key)
        if reading.key.parts <= entry.reading.key.parts
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
        if agreed and key.versions in versions and _within(key.sizes, entry.reading.key.sizes):
            fitting.append(entry)
    chosen = choose(case, replace_date(case.name, case.reading), fitting)
    if chosen is None:
        return None
    return Match(chosen[0].model, Rule.FACTS, 0.6, ("name, release date and limits are that model's",))


def best_match(case: Case) -> Match | None:
    """The first rule that decides."""
    starts: list[tuple[Reading, str, bool]] = [(case.reading, "", False), *prefixes(case)]
    for rule in (same_model, by_its_name, spelling, fuller_name, variant, partial, partial_name):
        for reading, prefix, needs_proof in starts:
            found = rule(case, reading)
            if found is None:
                continue
            entry = Entry(found.model, read(found.model.source_id or found.model.id))
            if needs_proof and not case.agrees(entry):
                case.reject(found.model, 0.5, f"only the tail is its id, and nothing confirms that {prefix!r} is none")
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
