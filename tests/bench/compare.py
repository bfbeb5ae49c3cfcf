"""`python -m tests.bench.compare OLD.json NEW.json`: what has become better or worse between two results."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.bench.figures import Figure, better, shown
from tests.bench.results import NotAResult, Result, table

NOTEWORTHY = 0.10
"""A smaller change is noise on most machines."""
SAME_MACHINE = ("cpu", "cores", "kernel", "python")
HEADINGS = ("figure", "old", "new", "ratio", "")


def change(name: str, old: Figure, new: Figure) -> tuple[str, str]:
    """The ratio of new to old, and what to say of it."""
    if isinstance(old, str) or isinstance(new, str):
        return "", "" if old == new else "changed"
    if not old:
        return "", "" if old == new else _verdict(name, rises=new > old)
    ratio = new / old
    # What is added to a direct call may be below zero, where a ratio says nothing.
    if ratio < 0 or (old < 0 and new < 0):
        return "", ""
    is_noteworthy = abs(ratio - 1) > NOTEWORTHY
    return f"{ratio:.2f}", _verdict(name, rises=ratio > 1) if is_noteworthy else ""


def _verdict(name: str, *, rises: bool) -> str:
    wanted = better(name)
    if wanted is None:
        return ""
    return "better" if rises == (wanted == "more") else "WORSE"


def rows(old: Mapping[str, Figure], new: Mapping[str, Figure]) -> list[tuple[str, ...]]:
    """A row for each figure of either."""
    found: list[tuple[str, ...]] = [HEADINGS]
    for name in dict.fromkeys([*old, *new]):
        if name not in new:
            found.append((name, shown(old[name]), "", "", "gone"))
        elif name not in old:
            found.append((name, "", shown(new[name]), "", "new"))
        else:
            found.append((name, shown(old[name]), shown(new[name]), *change(name, old[name], new[name])))
    return found


def differences(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """What makes the two machines different, so that figures cannot be compared."""
    return [
        f"{what}: {old.get(what)} and {new.get(what)}"
        for what in SAME_MACHINE
        if old.get(what) != new.get(what)
    ]


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.compare", description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    said = parser.parse_args()
    try:
        old, new = Result.read(said.old), Result.read(said.new)
    except NotAResult as error:
        parser.error(str(error))
    for result in (old, new):
        print(f"{result.machine.get('commit', '?'):24} {result.machine.get('date', '?')}")
    for each in differences(old.machine, new.machine):
        print(f"Not the same machine, so the figures cannot be compared: {each}")
    print("\n" + "\n".join(table(rows(old.figures, new.figures))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
