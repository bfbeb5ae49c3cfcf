"""`python -m tests.bench.compare OLD.json NEW.json`: a line for each figure that both runs have."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.bench.results import is_more_better, read

NOTEWORTHY = 0.10
"""Smaller differences are noise on a shared machine."""


def rows(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, float, float, float, str]]:
    """Name, both figures, their ratio, and what that means."""
    found = []
    for name in old:
        before, after = _number(old[name]), _number(new.get(name))
        if not before or after is None:
            continue
        ratio = after / before
        change = "" if abs(ratio - 1) <= NOTEWORTHY else "better" if is_better(name, ratio) else "worse"
        found.append((name, before, after, ratio, change))
    return found


def is_better(name: str, ratio: float) -> bool:
    """Whether a figure that became `ratio` of what it was has improved."""
    return ratio > 1 if is_more_better(name) else ratio < 1


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def main() -> None:
    """Compare two files."""
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    for name, before, after, ratio, change in rows(read(Path(sys.argv[1])), read(Path(sys.argv[2]))):
        print(f"  {name:44} {before:14,.3f} {after:14,.3f}  ×{ratio:6.3f}  {change}")


if __name__ == "__main__":
    main()
