"""`make bench`: what the system makes, what it adds to a request, and what that costs.

Numbers depend on the machine, so they are told and never asserted. Load goes to loopback only.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import time
import traceback
from pathlib import Path

import pytest
import structlog
from tests.bench import machine, results
from tests.bench.figures import Figures, flat, medians
from tests.bench.length import LONG, SHORT
from tests.bench.pinning import Cores
from tests.bench.results import Result
from tests.bench.sections import Measure, sections
from tests.bench.stage import NICE as NICE_PROCESSES


def section(name: str, measure: Measure, repetitions: int) -> Figures:
    """Run a section as often, and answer its medians."""
    rounds = []
    for number in range(repetitions):
        begun = time.perf_counter()
        rounds.append(flat(asyncio.run(measure())))  # type: ignore[arg-type]
        took = time.perf_counter() - begun
        print(f"... {name} {number + 1} of {repetitions}: {took:.0f} s", file=sys.stderr, flush=True)
    return medians(rounds)


def run(wanted: dict[str, Measure], repetitions: int) -> Result:
    """Run all sections that are wanted, even when one fails."""
    found = Result(machine.description())
    print("\n".join(results.table(list(found.machine.items()))))
    cores = Cores.of_this_machine()
    print(
        f"\nThe gateway runs on core {_listed(cores.gateway)}; load, upstream, nats-server and all else on "
        f"{_listed(cores.others)},\nwhere {', '.join(NICE_PROCESSES)} have a lower priority."
        + (" There is but one core: nothing is pinned apart." if cores.gateway == cores.others else "")
    )
    for name, measure in wanted.items():
        try:
            figures = section(name, measure, repetitions)
        except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001 - told, and the others still run
            traceback.print_exc()
            found.failed[name] = f"{type(error).__name__}: {error}"
            print(f"\n{name} FAILED: {found.failed[name].splitlines()[0]}", flush=True)
            continue
        found.figures |= {f"{name}.{figure}": value for figure, value in figures.items()}
        print("\n" + "\n".join(results.of_section(name, figures)), flush=True)
    return found


def _listed(cores: frozenset[int]) -> str:
    return ", ".join(map(str, sorted(cores)))


def main() -> int:
    """Answers the exit status: 1 when a section failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--long", action="store_true", help="longer loads, three times, and their medians")
    parser.add_argument("--only", default="", help="sections to run, with commas between them")
    parser.add_argument(
        "--json", type=Path, default=None, help="file to write; default: bench-results/<time>.json"
    )
    said = parser.parse_args()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),  # standard output is for the tables
    )
    length = LONG if said.long else SHORT
    known = sections(length)
    names = said.only.split(",") if said.only else list(known)
    if unknown := set(names) - known.keys():
        parser.error(f"no such section: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    found = run({name: known[name] for name in names}, length.repetitions)
    path = said.json or results.default_path()
    found.write(path)
    print(f"\nwritten to {path}")
    return 1 if found.failed else 0


if __name__ == "__main__":
    sys.exit(main())
