"""`python -m tests.chaos`: a long run, with `--short` the one that the tests make, with `--matrix` the faults
one by one."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
import time
from pathlib import Path

from tests.chaos import report
from tests.chaos.nemesis import long_plan, short_plan
from tests.chaos.run import run
from tests.faults import matrix

SHORT_S = 44.0
"""Within one window of 60 s, so that all of it must keep the limits; longer runs see windows go by."""


def main() -> int:
    """Run it; the exit status says whether all promises were kept."""
    parser = argparse.ArgumentParser(description="Kill and stop services under load, and check the promises")
    parser.add_argument("--seconds", type=float, default=300.0, help="how long the load lasts")
    parser.add_argument("--seed", type=int, default=None, help="repeat a run's decisions")
    parser.add_argument("--short", action="store_true", help="one kill and one stop each")
    parser.add_argument("--matrix", action="store_true", help="the fault matrix, row by row")
    parser.add_argument(
        "--outage", type=float, default=matrix.OUTAGE_S, help="seconds that a fault of the matrix lasts"
    )
    parser.add_argument("--keep", type=Path, help="a folder for the log and the providers' journal")
    parser.add_argument(
        "--environment", action="append", default=[], metavar="NAME=VALUE", help="for the services"
    )
    wanted = parser.parse_args()
    seed = secrets.randbelow(2**31) if wanted.seed is None else wanted.seed
    seconds = SHORT_S if wanted.short else wanted.seconds
    print(f"seed {seed}", flush=True)
    begun = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - begun:6.1f} s  {text}", flush=True)

    if wanted.matrix:
        return 0 if asyncio.run(matrix.run(seed, wanted.outage, say)) else 1
    environment = dict(entry.split("=", 1) for entry in wanted.environment)
    evidence, findings = asyncio.run(
        run(
            seconds,
            seed,
            short_plan if wanted.short else lambda dice: long_plan(dice, seconds),
            say,
            environment,
            wanted.keep,
        )
    )
    print(f"\n{report.as_text(evidence, findings)}\n\nseed {seed}")
    return 0 if all(finding.is_kept for finding in findings) else 1


if __name__ == "__main__":
    sys.exit(main())
