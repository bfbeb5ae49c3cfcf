"""How long a benchmark takes: the short form is for every change, the long one for figures to keep."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Length:
    """Seconds for each load, rounds for each thing that is counted, and how often all of it is repeated."""

    direct_s: float
    through_s: float
    rounds: int
    repetitions: int


SHORT = Length(direct_s=2.0, through_s=4.0, rounds=1, repetitions=1)
LONG = Length(direct_s=5.0, through_s=15.0, rounds=4, repetitions=3)
