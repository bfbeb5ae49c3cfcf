"""`python -m tests.chaos`: a long run, or with `--short` the one that the tests make."""

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

SHORT_S = 54.0
"""Within one window of 60 s, so that all of it must keep the limits; longer runs see windows go by."""


def main() -> int:
    """Run it; the exit status says whether all promises were kept."""
    parser = argparse.ArgumentParser(description="Kill and stop services under load, and check the promises")
    parser.add_argument("--seconds", type=float, default=300.0, help="how long the load lasts")
    parser.add_argument("--seed", type=int, default=None, help="repeat a run's decisions")
    parser.add_argument("--short", action="store_true", help="one kill and one stop each")
    parser.add_argument("--keep", type=Path, help="a folder for the log and the providers' journal")
    parser.add_argument(
        "--environment", action="append", default=[], metavar="NAME=VALUE", help="for the services"
    )
    wanted = parser.parse_args()
    seed = secrets.randbelow(2**31) if wanted.seed is None else wanted.seed
    seconds = SHORT_S if wanted.short else wanted.seconds
    print(f"seed {seed}", flush=True)
    begun = time.monotonic()
    environment = dict(entry.split("=", 1) for entry in wanted.environment)
    evidence, findings = asyncio.run(
        run(
            seconds,
            seed,
            short_plan if wanted.short else lambda dice: long_plan(dice, seconds),
            lambda text: print(f"{time.monotonic() - begun:6.1f} s  {text}", flush=True),
            environment,
            wanted.keep,
        )
    )
    print(f"\n{report.as_text(evidence, findings)}\n\nseed {seed}")
    return 0 if all(finding.is_kept for finding in findings) else 1


if __name__ == "__main__":
    sys.exit(main())
