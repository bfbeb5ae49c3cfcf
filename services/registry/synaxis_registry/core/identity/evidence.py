"""Weighs what is said of an offering against what is known of a model."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from functools import lru_cache

from synaxis_registry.core.identity.values import ModelFacts

NEAR_DAYS = 31
"""Providers give their own launch or the maker's announcement: a month apart is the same release."""
FAR_DAYS = 62
"""Further apart they are two releases: of the pairs that models.dev linked by hand, 98 % are nearer."""


@lru_cache(maxsize=8192)
def day(text: str | None) -> tuple[date, int] | None:
    """The date and how many days wide it is; None for what is not one."""
    if not text:
        return None
    parts = text.split("-")
    width = {1: 365, 2: 31, 3: 1}.get(len(parts))
    try:
        year, month, number = (int(part) for part in (*parts, "1", "1")[:3])
        return (date(year, month, number), width) if width else None
    except ValueError:
        return None


def days_apart(one: str | None, other: str | None) -> int | None:
    """Days between two dates, 0 where one is within the month or year that the other gives."""
    first, second = day(one), day(other)
    if first is None or second is None:
        return None
    (earlier, width), (later, _) = sorted((first, second))
    if earlier == later:
        return 0
    return max(0, (later - earlier).days - (width - 1))


@dataclass(frozen=True, slots=True)
class Comparison:
    """How far two descriptions agree."""

    same_release: bool | None
    """Within `NEAR_DAYS`; None when unknown."""
    other_release: bool
    """Further apart than `FAR_DAYS`."""
    agreeing: tuple[str, ...]
    differing: tuple[str, ...]

    @property
    def score(self) -> float:
        """-1 to 1."""
        count = len(self.agreeing) + len(self.differing)
        return (len(self.agreeing) - len(self.differing)) / count if count else 0.0


def compare(offered: ModelFacts, known: ModelFacts) -> Comparison:
    apart = days_apart(offered.release_date, known.release_date)
    agreeing: list[str] = []
    differing: list[str] = []
    if apart is not None:
        (agreeing if apart <= NEAR_DAYS else differing).append("release date")
    pairs: tuple[tuple[str, object, object], ...] = (
        ("context window", offered.context_window, known.context_window),
        ("output limit", offered.max_output, known.max_output),
        ("family", offered.family, known.family),
        ("input modalities", offered.input_modalities or None, known.input_modalities or None),
        ("open weights", offered.open_weights, known.open_weights),
        ("reasoning", offered.reasoning, known.reasoning),
    )
    for what, one, other in pairs:
        if one is not None and other is not None:
            (agreeing if one == other else differing).append(what)
    return Comparison(
        None if apart is None else apart <= NEAR_DAYS,
        apart is not None and apart > FAR_DAYS,
        tuple(agreeing),
        tuple(differing),
    )


def other_output(offered: ModelFacts, known: ModelFacts) -> bool:
    """Whether one makes what the other does not make at all: text against speech, say."""
    one, other = offered.output_modalities, known.output_modalities
    return bool(one and other) and not one & other
