"""The fault matrix on one fleet of real processes; outages are short here, long with `make chaos`."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.faults.perform import booked, strike
from tests.faults.rows import ROWS, Row
from tests.faults.stage import Stage, staged

OUTAGE_S = 2.0

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with staged() as running:
        yield running


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.number}: {row.fault}")
async def test_clients_see_no_more_than_is_said_and_all_is_well_soon_after(stage: Stage, row: Row) -> None:
    struck = await strike(stage, row, OUTAGE_S)
    assert not struck.broken, struck


async def test_after_all_of_it_every_billed_request_is_in_the_ledger_once(stage: Stage) -> None:
    found = await booked(stage, since=0.0)
    assert found.billed > 0
    assert not found.broken, found
