"""All rows one after the other, and a table of what came of them: `make chaos CHAOS=--matrix`."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.faults.perform import Booked, Struck, booked, strike
from tests.faults.rows import ROWS
from tests.faults.stage import staged

OUTAGE_S = 30.0
FAULTS = "tests/faults"
INTEGRATION = "tests/integration"
OTHER_ROWS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("2, 21", "every service is restarted in turn", ("tests/e2e/test_rolling_restart.py",)),
    ("16", "processes are stopped for longer than their leases", ("tests/e2e/test_chaos_short.py",)),
    ("17", "a worker is stopped for longer than its lease", (f"{FAULTS}/test_worker_rows.py",)),
    (
        "22, 23, 24",
        "providers fail in turn; a lone one that fails",
        (f"{FAULTS}/test_storm.py", "tests/unit/gateway/test_gateway_cooldown.py"),
    ),
    (
        "28, 29, 30",
        "clients that send nothing, clients that leave, rights that end",
        (f"{FAULTS}/test_client_rows.py",),
    ),
    (
        "22, 23, 31",
        "providers that misbehave, are all down, cannot be reached",
        (f"{FAULTS}/test_upstream_rows.py",),
    ),
    (
        "25",
        "a provider that comes and goes, simulated",
        ("tests/unit/registry/test_core_feedback.py",),
    ),
    (
        "26",
        "model lists that are empty, broken, endless",
        (
            f"{FAULTS}/test_source_rows.py::test_one_empty_list_changes_nothing_and_a_second_one_confirms_it",
            f"{INTEGRATION}/test_discovery_polls.py",
            "tests/unit/registry/test_core_availability.py",
        ),
    ),
    (
        "27",
        "models.dev that fails, is cut, or says other prices",
        (
            f"{FAULTS}/test_source_rows.py::"
            "test_a_price_that_jumps_is_not_in_force_before_an_operator_says_so",
            f"{INTEGRATION}/test_sync_job.py",
            "tests/unit/registry/test_core_update.py",
        ),
    ),
    ("32", "too few descriptors, full disks", (f"{FAULTS}/test_resource_rows.py",)),
    ("33", "20 gateways start cold at once", (f"{FAULTS}/test_cold_start_row.py",)),
)
"""Rows that need no fleet, and the tests that are about them."""
_WIDTHS = (11, 62, 40, 6, 9, 5)


@dataclass(frozen=True)
class Line:
    """A line of the table."""

    row: str
    fault: str
    seen: str
    lost: str
    well_after: str
    broken: tuple[str, ...]

    def __str__(self) -> str:
        """In columns."""
        kept = "no" if self.broken else "yes"
        cells = (self.row, self.fault, self.seen, self.lost, self.well_after, kept)
        return " ".join(cell.ljust(width) for cell, width in zip(cells, _WIDTHS, strict=True)).rstrip()


def of_fleet(struck: Struck, found: Booked) -> Line:
    """What a row on the fleet came to."""
    seen = ", ".join(f"{times} x {result}" for result, times in struck.seen.most_common())
    well = "never" if struck.well_after_s is None else f"{struck.well_after_s:.1f} s"
    broken = (*struck.broken, *found.broken)
    return Line(str(struck.row.number), struck.row.fault, seen, str(len(found.lost)), well, broken)


def of_tests(row: str, fault: str, tests: tuple[str, ...]) -> Line:
    """What the tests of a row came to."""
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
        capture_output=True,
        text=True,
        check=False,
    )
    said = (result.stdout.strip().splitlines() or [""])[-1].strip("= ")
    return Line(row, fault, said, "-", "-", () if result.returncode == 0 else (said,))


async def run(seed: int, outage_s: float, say: Callable[[str], None]) -> bool:
    """Perform all rows and print the table; answers whether every promise was kept."""
    lines: list[Line] = []
    async with staged(seed) as stage:
        for row in ROWS:
            begun = time.monotonic()
            struck = await strike(stage, row, outage_s)
            found = await booked(stage, struck.begun)
            say(f"row {row.number}, {row.fault}: {time.monotonic() - begun:.0f} s")
            lines.append(of_fleet(struck, found))
    lines += [of_tests(*other) for other in OTHER_ROWS]
    head = ("row", "fault", "clients saw", "lost", "well after", "kept")
    print(" ".join(cell.ljust(width) for cell, width in zip(head, _WIDTHS, strict=True)))
    for line in lines:
        print(line)
    for line in lines:
        for broken in line.broken:
            print(f"row {line.row}: {broken}")
    return not any(line.broken for line in lines)
