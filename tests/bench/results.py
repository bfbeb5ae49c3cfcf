"""A result: what was measured on which machine, as a file and as a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.bench.figures import BARS, Figures, shown

FOLDER = Path("bench-results")


class NotAResult(Exception):
    """A file that is none of ours."""


@dataclass
class Result:
    """All figures of a run by `section.name`; why sections failed, by their name."""

    machine: dict[str, str]
    figures: Figures = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """As JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Result:
        """Raises NotAResult."""
        try:
            found: Any = json.loads(path.read_text())
            return cls(**found)
        except (OSError, ValueError, TypeError) as error:
            raise NotAResult(f"{path}: {error}") from error


def default_path() -> Path:
    """Named after now, in UTC."""
    return FOLDER / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"


def table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Lines with aligned columns, the first of which is words and the others numbers."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def of_section(name: str, figures: Figures) -> list[str]:
    """The lines of a section: its figures, and beside some what they are to reach."""
    rows = []
    for figure, value in figures.items():
        bar = BARS.get(f"{name}.{figure}")
        verdict = ""
        if bar is not None and not isinstance(value, str):
            verdict = "reached" if bar.is_met_by(value) else "NOT reached"
        wanted = "" if bar is None else f"{bar.sign} {shown(bar.value)}"
        rows.append((f"  {figure}", shown(value), wanted, verdict))
    return [name, *table(rows)] if rows else [name]
