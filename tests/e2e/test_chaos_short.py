"""The promises about limits and money, on real processes, one of each killed and one of each stopped."""

from __future__ import annotations

import secrets

import pytest
from tests.chaos import report
from tests.chaos.__main__ import SHORT_S
from tests.chaos.nemesis import short_plan
from tests.chaos.run import run


@pytest.mark.timeout(180)
async def test_the_promises_are_kept_under_load_while_processes_are_killed_and_stopped() -> None:
    seed = secrets.randbelow(2**31)
    evidence, findings = await run(SHORT_S, seed, short_plan, print)
    text = report.as_text(evidence, findings)
    assert len(evidence.wounds) == 4, f"seed {seed}\n{text}"
    assert all(finding.is_kept for finding in findings), f"seed {seed}\n{text}"
