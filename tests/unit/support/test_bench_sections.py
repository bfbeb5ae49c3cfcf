"""The benchmark runs every section that is wanted, whatever becomes of the others."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from tests.bench.__main__ import run
from tests.bench.length import LONG, SHORT
from tests.bench.sections import sections

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the benchmark pins processes, as Linux does")


async def breaks() -> dict[str, Any]:
    raise TimeoutError("nobody answered")


async def gives_up() -> dict[str, Any]:
    pytest.fail("synaxis up did not start")


async def works() -> dict[str, Any]:
    return {"requests_per_s": 13_000.0, "ledger": {"lag_s": 0.5}}


def test_a_section_that_fails_is_told_and_the_others_still_run(capsys: pytest.CaptureFixture[str]) -> None:
    result = run({"hop": breaks, "growth": gives_up, "throughput": works}, repetitions=1)
    assert result.failed == {
        "hop": "TimeoutError: nobody answered",
        "growth": "Failed: synaxis up did not start",
    }
    assert result.figures == {"throughput.requests_per_s": 13_000.0, "throughput.ledger.lag_s": 0.5}
    shown = capsys.readouterr().out
    assert "hop FAILED: TimeoutError: nobody answered" in shown
    assert "13,000  at least 12,000  reached" in shown


def test_both_lengths_have_the_same_sections() -> None:
    assert list(sections(SHORT)) == list(sections(LONG))
