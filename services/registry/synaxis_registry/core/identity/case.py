"""One offering on its way through the rules, and the choice among models that differ only by date."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from synaxis_registry.core.identity.evidence import Comparison, compare, days_apart, other_output
from synaxis_registry.core.identity.index import Entry, ModelIndex
from synaxis_registry.core.identity.reading import Key, Reading, read, rekeyed
from synaxis_registry.core.identity.values import KnownModel, Offering, Rule, RunnerUp

BRACKETED = re.compile(r"\(([^()]*[a-z][^()]*\d[^()]*)\)", re.IGNORECASE)

SNAPSHOT_DAYS = 25
"""A snapshot's date and its announcement are less than a month apart: `kimi-k2-0711` came out on 11 July,
`ministral-14b-2512` on 2 December; `gemini-2.5-pro-preview-05-06` and `-06-05` are two."""


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

    names: tuple[Reading, ...] = field(init=False, default=())
    """The provider's name for it; then what it has in brackets: `Agentic Chat (GPT-5.1)`."""

    def __post_init__(self) -> None:
        name = self.offering.facts.name
        if name:
            bracketed = BRACKETED.findall(name)
            self.names = tuple(read(one, is_name=True) for one in (name, *bracketed))

    @property
    def name(self) -> Reading | None:
        return self.names[0] if self.names else None

    def against(self, model: KnownModel) -> Comparison:
        return compare(self.offering.facts, model.facts)

    def reject(self, model: KnownModel, score: float, reason: str) -> None:
        self.rejected.append(RunnerUp(model.id, score, reason))

    def named(self, entry: Entry) -> bool:
        """Whether the provider's name for it says the same as the model's id or name."""
        keys = (entry.reading.key, name_key(entry.model))
        return any(key in keys for name in self.names for key in bare(name))

    def agrees(self, entry: Entry) -> bool:
        """What a match needs that the string alone does not make."""
        return self.said(entry) or bool(self.against(entry.model).same_release)

    def said(self, entry: Entry) -> bool:
        """Whether the name, or the id's own date, is the model's."""
        apart = days_apart(self.reading.date, entry.model.facts.release_date)
        return self.named(entry) or (apart is not None and apart <= SNAPSHOT_DAYS)


def name_key(model: KnownModel) -> Key | None:
    return read(model.facts.name, is_name=True).key if model.facts.name else None


def bare(reading: Reading) -> Iterator[Key]:
    """The key as it is, and without the words that say how a model is served."""
    yield reading.key
    if reading.serving:
        yield without(reading, reading.serving).key


def without(reading: Reading, words: Iterable[str]) -> Reading:
    dropped = set(words)
    return rekeyed(reading, tuple(atom for atom in reading.atoms if atom not in dropped))


def choose(case: Case, reading: Reading, entries: list[Entry]) -> tuple[Entry, bool] | None:
    """Which of the models that differ only by date; and whether a date had to be dropped or added."""
    entries = [one for one in entries if is_possible(case, reading, one)]
    if not entries:
        return None
    undated = [one for one in entries if one.reading.date is None and not one.reading.is_latest]
    latest = [one for one in entries if one.reading.is_latest]
    dated = [one for one in entries if one.reading.date is not None]
    if reading.date is not None:
        for one in dated:
            if same_date(reading.date, one.reading.date):
                return one, False
        for one in (*undated, *latest):
            if _dated_release_of(reading.date, one.model):
                return one, True
            case.reject(one.model, 0.6, f"a snapshot of another date than {reading.date}")
        return None
    for group in (latest, undated) if reading.is_latest else (undated, latest):
        if group:
            return group[0], group is latest and not reading.is_latest
    dated = [one for one in dated if one.model.source_id or not case.against(one.model).other_release]
    if not dated:
        return None
    newest = max(dated, key=lambda one: (one.reading.date or "", one.model.id))
    released = case.offering.facts.release_date
    nearest = [one for one in dated if days_apart(released, one.model.facts.release_date) == 0]
    return (nearest[0] if len(nearest) == 1 else newest), True


def is_possible(case: Case, reading: Reading, entry: Entry) -> bool:
    if other_output(case.offering.facts, entry.model.facts):
        case.reject(entry.model, 0.3, "it makes something else: the output modalities have nothing in common")
        return False
    if reading.vendor and entry.vendor and reading.vendor != entry.vendor and not case.agrees(entry):
        case.reject(entry.model, 0.5, f"{reading.vendor} is another vendor than {entry.vendor}")
        return False
    return True


def same_date(one: str, other: str | None) -> bool:
    """Whether two dates agree as far as both go: `2025-07` and `2025-07-10`, `07-10` and `2025-07-10`."""
    if other is None:
        return False
    shorter, longer = sorted((one, other), key=len)
    return longer.startswith(shorter) or (len(shorter) == 5 and longer.endswith(shorter))


def _dated_release_of(date: str, model: KnownModel) -> bool:
    """Closed models are renewed under one name; open weights of another date are other weights.

    Of a model that no catalog lists, nobody knows for sure which it is: there too the date has to fit.
    """
    if model.source_id is not None and model.facts.open_weights is not True:
        return True
    released = model.facts.release_date or ""
    if len(date) == 5:
        date = f"{released[:4]}-{date}"
    apart = days_apart(date, released)
    return apart is not None and apart <= SNAPSHOT_DAYS


def within(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    return not one or not other or one == other
