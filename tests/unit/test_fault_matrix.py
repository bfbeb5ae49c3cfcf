"""Every row of the fault matrix has a test."""

from __future__ import annotations

from pathlib import Path

from tests.faults.matrix import OTHER_ROWS
from tests.faults.rows import ROWS

ROOT = Path(__file__).parents[2]
NUMBERS = range(1, 34)
"""Of the rows of RELIABILITY's matrix."""


def test_every_row_is_performed_on_the_fleet_or_by_tests_that_are_there() -> None:
    elsewhere = {int(number) for numbers, _, _ in OTHER_ROWS for number in numbers.split(",")}
    assert {row.number for row in ROWS} | elsewhere == set(NUMBERS)


def test_what_the_table_names_exists() -> None:
    for _, _, tests in OTHER_ROWS:
        for test in tests:
            path, _, name = test.partition("::")
            assert f"def {name}" in (ROOT / path).read_text(), test
