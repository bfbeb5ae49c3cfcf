"""Figures: numbers by a name that ends in their unit, and what the issue asks of some of them."""

from __future__ import annotations

import operator
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Figure = float | int | str
Figures = dict[str, Figure]
Better = Literal["more", "less"]

_MORE = ("_per_s",)
_LESS = ("_ms", "_us", "_s", "_kb", "_mb", "_times")
_SIGNS = {"at least": operator.ge, "less than": operator.lt}


@dataclass(frozen=True, slots=True)
class Bar:
    """What a figure is to reach."""

    sign: Literal["at least", "less than"]
    value: float

    def is_met_by(self, figure: float) -> bool:
        """Whether it is reached."""
        return bool(_SIGNS[self.sign](figure, self.value))


BARS: dict[str, Bar] = {
    "throughput.requests_per_s": Bar("at least", 12_000),
    "throughput.at_50.added_p50_ms": Bar("less than", 0.4),
    "throughput.at_50.added_p99_ms": Bar("less than", 2),
    "throughput.gateway_at_rest_mb": Bar("less than", 120),
    "streams.first_token.added_p50_ms": Bar("less than", 0.5),
    "streams.paced.events_per_s": Bar("at least", 50_000),
    "streams.paced.added_p99_ms": Bar("less than", 10),
    "streams.paced.gateway_per_stream_kb": Bar("less than", 20),
    "growth.decision.of_10000_to_of_10_times": Bar("less than", 1.25),
    "growth.index.changed_ms": Bar("less than", 50),
    "growth.index.changed_worst_stall_ms": Bar("less than", 10),
    "growth.index.first_worst_stall_ms": Bar("less than", 10),
    "growth.keys.of_100000_to_of_10_times": Bar("less than", 1.25),
    "growth.keys.loading_100000_worst_ms": Bar("less than", 50),
    "growth.gateways.of_64_to_of_1_times": Bar("less than", 1.25),
}
"""By the name of a figure. From the issues "The hot path" and "Growth"; of what grows, how many times as much
one request costs with the most of it."""


def better(name: str) -> Better | None:
    """Which way a figure gets better; None: neither, it is told for understanding."""
    if name.endswith(_MORE):
        return "more"
    return "less" if name.endswith(_LESS) else None


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p95, p99 and the largest, in milliseconds."""
    if not seconds:
        return {}
    ordered = sorted(seconds)
    last = len(ordered) - 1
    places = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
    return {name: round(ordered[round(last * place)] * 1e3, 3) for name, place in places.items()}


def added(through: Mapping[str, float], direct: Mapping[str, float]) -> Figures:
    """What lies between two sets of percentiles, both of milliseconds."""
    return {
        f"added_{place}_ms": round(through[place] - direct[place], 3)
        for place in ("p50", "p95", "p99")
        if place in through and place in direct
    }


def flat(tree: Mapping[str, Any], before: str = "") -> Figures:
    """Figures of figures as one mapping with dots in its names. Raises TypeError for what is no figure."""
    found: Figures = {}
    for name, value in tree.items():
        whole = f"{before}{name}"
        if isinstance(value, Mapping):
            found |= flat(value, f"{whole}.")
        elif isinstance(value, float | int | str):
            found[whole] = value
        else:
            raise TypeError(f"{whole} is {type(value).__name__}, which is no figure")
    return found


def medians(rounds: Sequence[Figures]) -> Figures:
    """Of several rounds of the same figures: of numbers the median, of words the commonest."""
    found: Figures = {}
    for name in dict.fromkeys(name for figures in rounds for name in figures):
        values = [figures[name] for figures in rounds if name in figures]
        numbers = [value for value in values if not isinstance(value, str)]
        if len(numbers) == len(values):
            found[name] = statistics.median(numbers)
        else:
            found[name] = statistics.mode(map(str, values))
    return found


def shown(value: Figure) -> str:
    """As it stands in a table."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) or abs(value) >= 1_000:
        return f"{value:,.0f}"
    return f"{value:.4g}"
