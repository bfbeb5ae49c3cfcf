"""`make bench`: what a gateway takes on one core, what it adds to a request, and what its surroundings cost.

`python -m tests.bench [--only throughput,streams] [--rounds 3] [--json FILE]`. Numbers depend on the machine,
so they are printed, kept as JSON and never asserted; `tests.bench.compare` compares two runs. Load goes to
loopback only.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from tests.bench import bench_gateway, bench_streams, bench_wire
from tests.bench.bench_core import routing_core
from tests.bench.bench_events import bench_events
from tests.bench.bench_failover import bench_failover
from tests.bench.bench_sharing import bench_sharing
from tests.bench.machine import description
from tests.bench.results import flatten, table, write
from tests.bench.stage import Stage, set_up

GAP_S = "0.02"
"""Between two events of a slow stream."""
LEAST_RATE = 100.0
"""Requests a second at which latency is measured when the throughput is not."""

Section = Callable[[Stage], Awaitable[dict[str, Any]]]
ON_STAGE: dict[str, Section] = {
    "rest": bench_gateway.rest,
    "one_at_a_time": bench_gateway.one_at_a_time,
    "throughput": bench_gateway.throughput,
    "latency": lambda stage: bench_gateway.latency(stage, LEAST_RATE),
    "prompts": bench_gateway.prompts,
    "streams": bench_streams.quick,
}
"""With a provider that answers at once. `latency` goes by the throughput when both are measured."""


async def core() -> dict[str, Any]:
    """The routing core runs in this process."""
    return await asyncio.to_thread(routing_core)


BY_THEMSELVES: dict[str, Callable[[], Awaitable[dict[str, Any]]]] = {
    "core": core,
    "wire": bench_wire.measure,
    "failover": bench_failover,
    "sharing": bench_sharing,
    "events": bench_events,
}
PACED = "paced"
ALL = (*ON_STAGE, PACED, *BY_THEMSELVES)


class Run:
    """The figures of one run, and what failed."""

    def __init__(self, wanted: frozenset[str]) -> None:
        self.wanted = wanted
        self.figures: dict[str, Any] = {}
        self.failed: list[str] = []

    async def section(self, name: str, measure: Callable[[], Awaitable[dict[str, Any]]]) -> None:
        """Measure, unless it is not wanted; a failure is told and the others go on."""
        if name not in self.wanted:
            return
        begun = time.monotonic()
        try:
            self.figures[name] = await measure()
        except Exception:  # noqa: BLE001 - told, and in the exit status
            self.failed.append(name)
            traceback.print_exc()
        else:
            print(f"{name} ({time.monotonic() - begun:.0f} s)")
            print(table({name: self.figures[name]}), flush=True)

    async def all(self) -> None:
        """One run."""
        if self.wanted & ON_STAGE.keys():
            async with set_up() as stage:
                for name in ON_STAGE:
                    await self.section(name, partial(self._on_stage, name, stage))
        if PACED in self.wanted:
            async with set_up("--gap", GAP_S) as stage:
                await self.section(PACED, lambda: bench_streams.paced(stage))
        for name, measure in BY_THEMSELVES.items():
            await self.section(name, measure)

    async def _on_stage(self, name: str, stage: Stage) -> dict[str, Any]:
        if name == "latency" and "throughput" in self.figures:
            return await bench_gateway.latency(stage, float(self.figures["throughput"]["requests_per_s"]))
        return await ON_STAGE[name](stage)


def median_of(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Of each figure the median of all runs; of what is no number the last."""
    found: dict[str, Any] = {}
    for name, value in flatten(runs[-1]).items():
        numbers = [one[name] for one in map(flatten, runs) if isinstance(one.get(name), int | float)]
        found[name] = statistics.median(numbers) if len(numbers) == len(runs) else value
    return found


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(ALL), help="sections, by commas")
    parser.add_argument("--rounds", type=int, default=1, help="of which the medians count")
    parser.add_argument("--json", type=Path, default=None)
    said = parser.parse_args()
    wanted = frozenset(said.only.split(","))
    if unknown := wanted - set(ALL):
        parser.error(f"there is no section {', '.join(sorted(unknown))}; there are {', '.join(ALL)}")
    machine = description()
    print(machine)
    runs = []
    for _ in range(said.rounds):
        run = Run(wanted)
        asyncio.run(run.all())
        runs.append(run)
    figures = median_of([run.figures for run in runs])
    path = said.json or Path("bench-results") / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    write(path, machine, figures)
    print(f"\n{table(figures)}\n\nkept in {path}")
    failed = sorted({name for run in runs for name in run.failed})
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
