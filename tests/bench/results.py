"""Figures by name: as a table beside the bar they are held to, and as JSON that two runs are compared by."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Bar:
    """What a figure should reach."""

    value: float
    at_least: bool = False

    def is_met(self, figure: float) -> bool:
        """Whether it does."""
        return figure >= self.value if self.at_least else figure <= self.value

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.value:g}"


BARS: dict[str, Bar] = {
    "throughput.requests_per_s_and_core": Bar(12_000, at_least=True),
    "throughput.gateway_cpu_us": Bar(83),
    "latency.50%.added_p50_ms": Bar(0.4),
    "latency.50%.added_p99_ms": Bar(2),
    "streams.first_token_added_ms": Bar(0.5),
    "paced.events_per_s": Bar(50_000, at_least=True),
    "paced.added_p99_ms": Bar(10),
    "paced.kb_a_stream": Bar(20),
    "rest.gateway_mb": Bar(120),
}
"""From the project's goals; everything else is measured for comparison only."""

MORE_IS_BETTER = ("per_s", "_rate")


def flatten(figures: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested figures by their dotted names."""
    found: dict[str, Any] = {}
    for name, value in figures.items():
        if isinstance(value, Mapping):
            found |= flatten(value, f"{before}{name}.")
        else:
            found[before + name] = value
    return found


def table(figures: Mapping[str, Any]) -> str:
    """All figures, with the bar of those that have one."""
    lines = []
    for name, value in flatten(figures).items():
        bar = BARS.get(name)
        shown = f"{value:,.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
        verdict = "" if bar is None else f"  {bar} {'✓' if bar.is_met(float(value)) else '✗'}"
        lines.append(f"  {name:44} {shown:>14}{verdict}")
    return "\n".join(lines)


def write(path: Path, machine: Mapping[str, Any], figures: Mapping[str, Any]) -> None:
    """Keep a run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine, "figures": figures}, indent=1) + "\n")


def read(path: Path) -> dict[str, Any]:
    """The figures of a run, flat."""
    return flatten(json.loads(path.read_text())["figures"])


def is_more_better(name: str) -> bool:
    """Whether a figure of that name should grow."""
    return any(part in name for part in MORE_IS_BETTER)
