"""One row, under load, from the fault until the books are right again."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp
import asyncpg
import nats.errors
from tests.chaos import books
from tests.chaos.auditor import MARKER, Billed, read_journal
from tests.chaos.checker import REPORT_TIME_S
from tests.chaos.load import Load, Seen
from tests.chaos.world import MODELS
from tests.faults.rows import Row
from tests.faults.stage import TENANTS, Stage

BEFORE_S, AFTER_S = 0.7, 0.5
"""Of load, around a fault."""
PROBE_S = 5.0
ANSWERED = "200 complete"
LOOK_EVERY_S = 0.3
BOOKED_WITHIN_S = 60.0
PATIENCE = 5.0
"""A slow machine may take so many times as long as the matrix says."""


@dataclass(frozen=True)
class Struck:
    """What clients saw of a row. `begun` and `mended` are monotonic seconds."""

    row: Row
    seen: Counter[str]
    """How many clients got what."""
    well_after_s: float | None
    """After the fault was mended; None: never."""
    begun: float
    mended: float

    @property
    def broken(self) -> tuple[str, ...]:
        """The promises to clients that were not kept."""
        found = [
            f"clients saw {result!r} {times} times"
            for result, times in sorted(self.seen.items())
            if result != ANSWERED and not any(result.startswith(may) for may in self.row.may_see)
        ]
        if not self.seen[ANSWERED]:
            found.append("no client had an answer")
        if self.well_after_s is None or self.well_after_s > self.row.well_within_s * PATIENCE:
            found.append(f"well after {self.well_after_s} s, not {self.row.well_within_s:.0f} s")
        return tuple(found)


@dataclass(frozen=True)
class Booked:
    """What the ledger says of the requests that the providers billed."""

    billed: int
    lost: frozenset[str]
    """Billed requests that are not in the ledger."""
    doubled: int
    """More in the sums by the hour than in the ledger."""

    @property
    def broken(self) -> tuple[str, ...]:
        """The promises about the books that were not kept."""
        found = []
        if self.lost:
            found.append(f"not in the ledger: {sorted(self.lost)}")
        if self.doubled:
            found.append(f"{self.doubled} requests counted twice")
        return tuple(found)


async def strike(stage: Stage, row: Row, outage_s: float) -> Struck:
    """Do what `row` says for `outage_s`, under load, and wait until all is well."""
    begun = time.monotonic()
    load = Load(stage.world.system.url, TENANTS, stage.world.keys, row.number)
    under_load = asyncio.create_task(load.run(BEFORE_S + (outage_s if row.lasts else 0.0) + AFTER_S))
    try:
        await asyncio.sleep(BEFORE_S)
        await row.do(stage, outage_s)
        mended = time.monotonic()
        well_after_s = await _well(stage, mended, row.well_within_s * PATIENCE)
        await under_load
    finally:
        under_load.cancel()
    return Struck(row, Counter(_result(one) for one in load.seen), well_after_s, begun, mended)


def _result(seen: Seen) -> str:
    if seen.status == 503 and not seen.retry_after:
        return f"without retry-after: {seen.result}"
    return seen.result


async def _well(stage: Stage, mended: float, within_s: float) -> float | None:
    """Seconds until requests that every tenant makes are served, however slow the providers are."""
    while time.monotonic() - mended <= within_s:
        asked = time.monotonic()
        if all(await asyncio.gather(*(_is_served(stage, tenant.name) for tenant in TENANTS))):
            return asked - mended
        await asyncio.sleep(LOOK_EVERY_S)
    return None


async def _is_served(stage: Stage, tenant: str) -> bool:
    marker = {"tenant": tenant, "key": 0, "n": 0, "lie": False, "strict": False}
    body = {
        "model": MODELS[0],
        "max_tokens": 4,
        "messages": [{"role": "user", "content": f"{MARKER}{json.dumps(marker)}\n"}],
    }
    try:
        async with asyncio.timeout(PROBE_S):
            key = stage.world.keys[tenant][0]
            answer = await stage.world.system.http(
                "POST", "/v1/chat/completions", json.dumps(body).encode(), key
            )
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False
    return answer.status == 200


async def booked(stage: Stage, since: float) -> Booked:
    """The books of what was billed since then, when they have it all or it is too late."""
    begun = time.monotonic()
    while True:
        billed = [one for one in read_journal(stage.world.journal) if one.came >= since]
        expected = _expected(billed, stage.gateway_kills)
        is_late = time.monotonic() - begun > BOOKED_WITHIN_S
        try:
            found = await books.read(stage.where)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, nats.errors.Error, TimeoutError):
            if is_late:
                raise
        else:
            lost = expected - found.ledger.keys()
            if is_late or (not lost and not found.waiting):
                ledger, by_hour = (found.sums[table][0] for table in ("usage_ledger", "usage_hour"))
                return Booked(len(expected), frozenset(lost), by_hour - ledger)
        await asyncio.sleep(LOOK_EVERY_S)


def _expected(billed: Sequence[Billed], kills: Sequence[float]) -> set[str]:
    """The requests that must be in the ledger: all but those that a killed gateway had under way."""
    return {
        one.request_id
        for one in billed
        if one.is_billed
        and not any(
            one.came <= kill and (one.ended is None or kill <= one.ended + REPORT_TIME_S) for kill in kills
        )
    }
