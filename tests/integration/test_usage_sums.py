"""The sums that usage is told from are those of the ledger, line by line."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from synaxis_common import ids
from synaxis_registry.core.periods import split
from synaxis_registry.store import queries
from synaxis_registry.store.admin import UsageOf, usage
from synaxis_registry.store.database import Database
from synaxis_registry.store.migrate import migrate

RECORD = queries.load("ledger")["record_calls"]
GROUPS = ("tenant", "model", "provider", "key", "day", "hour")
ALL = 10_000

FIRST = datetime(2026, 2, 27, tzinfo=UTC)
NEAR = st.sampled_from([timedelta(), timedelta(microseconds=1), timedelta(minutes=29), timedelta(minutes=31)])
MOMENTS = st.builds(
    lambda hours, near, sign: FIRST + timedelta(hours=hours) + sign * near,
    st.integers(0, 96),
    NEAR,
    st.sampled_from([1, -1]),
)
"""Around full hours, half hours and midnights, and over the end of a month."""


@dataclass(frozen=True)
class Line:
    """A request in the ledger."""

    tenant: str
    model: str
    provider: str | None
    key: str
    started_at: datetime
    input_tokens: int
    output_tokens: int
    cost_usd: Decimal | None
    is_estimated: bool

    @property
    def day(self) -> str:
        return self.started_at.date().isoformat()

    @property
    def hour(self) -> str:
        return self.started_at.replace(minute=0, second=0, microsecond=0).isoformat()

    def call(self) -> dict[str, Any]:
        """As it is recorded."""
        return {
            "request_id": str(ids.uuid7()),
            "tenant_id": self.tenant,
            "key_id": self.key,
            "global_model_id": self.model,
            "provider_id": self.provider,
            "provider_model_id": None,
            "operation": "chat",
            "stream": False,
            "outcome": "ok",
            "http_status": 200,
            "started_at": self.started_at.isoformat(),
            "latency_s": 1.0,
            "ttft_s": None,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cache_read_tokens": 0,
            "cache_write_tokens": 0,
            "reasoning_tokens": 0,
            "cost_usd": None if self.cost_usd is None else str(self.cost_usd),
            "is_estimated": self.is_estimated,
            "attempts": [],
            "reserved_usd": "0",
            "gateway_id": "gw",
            "used_tokens": self.input_tokens + self.output_tokens,
            "draws": [],
        }


LINES = st.builds(
    Line,
    tenant=st.sampled_from(["acme", "other"]),
    model=st.sampled_from(["m-1", "m-2"]),
    provider=st.sampled_from(["alpha", "beta", None]),
    key=st.sampled_from(["k-1", "k-2"]),
    started_at=MOMENTS,
    input_tokens=st.integers(0, 1000),
    output_tokens=st.integers(0, 2**40),
    cost_usd=st.none() | st.decimals(0, 1000, places=9),
    is_estimated=st.booleans(),
)
FILTERS = st.builds(
    UsageOf,
    tenant_id=st.sampled_from([None, None, "acme"]),
    global_model_id=st.sampled_from([None, None, "m-1"]),
    provider_id=st.sampled_from([None, None, "alpha", ""]),
    key_id=st.sampled_from([None, None, "k-1"]),
)

Sums = tuple[int, int, int, Decimal, int, int]


def is_of(line: Line, of: UsageOf) -> bool:
    return all(
        wanted is None or wanted == found
        for wanted, found in (
            (of.tenant_id, line.tenant),
            (of.global_model_id, line.model),
            (of.provider_id, line.provider or ""),
            (of.key_id, line.key),
        )
    )


def plain_sums(lines: Sequence[Line], groups: Sequence[str]) -> dict[tuple[Any, ...], Sums]:
    """The answer as it must be."""
    by_group: dict[tuple[Any, ...], list[Line]] = defaultdict(list)
    for line in lines:
        by_group[tuple(getattr(line, name) if name in groups else None for name in GROUPS)].append(line)
    return {
        group: (
            len(found),
            sum(line.input_tokens for line in found),
            sum(line.output_tokens for line in found),
            sum((line.cost_usd or Decimal(0) for line in found), Decimal(0)),
            sum(line.cost_usd is None for line in found),
            sum(line.is_estimated for line in found),
        )
        for group, found in by_group.items()
    }


@dataclass
class Ledger:
    """A ledger that is empty for every example."""

    runner: asyncio.Runner
    pool: asyncpg.Pool[asyncpg.Record]

    def sums(
        self,
        lines: Sequence[Line],
        of: UsageOf,
        groups: Sequence[str],
        start: datetime | None,
        end: datetime | None,
    ) -> dict[tuple[Any, ...], Sums]:
        """What the registry answers when `lines` are in the ledger, and nothing else."""
        return self.runner.run(self._sums(lines, of, groups, start, end))

    async def _sums(
        self,
        lines: Sequence[Line],
        of: UsageOf,
        groups: Sequence[str],
        start: datetime | None,
        end: datetime | None,
    ) -> dict[tuple[Any, ...], Sums]:
        async with self.pool.acquire() as connection:
            transaction = connection.transaction()
            await transaction.start()
            try:
                for batch in (lines[::2], lines[1::2]):
                    await connection.fetch(RECORD, json.dumps([line.call() for line in batch]))
                period = split(start, end, by_hour="hour" in groups)
                rows = await usage(connection, of, period, groups, ALL)
            finally:
                await transaction.rollback()
        found: dict[tuple[Any, ...], Sums] = {}
        for row in rows:
            group = [row[name] for name in GROUPS[:4]]
            group += [None if row[name] is None else row[name].isoformat() for name in GROUPS[4:]]
            assert tuple(group) not in found, "one row a group"
            found[tuple(group)] = (
                row["requests"],
                row["input_tokens"],
                row["output_tokens"],
                row["cost_usd"],
                row["requests_without_price"],
                row["requests_estimated"],
            )
        return found


@contextmanager
def a_ledger(url: str) -> Iterator[Ledger]:
    async def open_pool() -> asyncpg.Pool[asyncpg.Record]:
        database = Database(url, 2)
        await database.connect()
        await migrate(database)
        await database.close()
        pool: asyncpg.Pool[asyncpg.Record] = await asyncpg.create_pool(
            url, min_size=1, max_size=1, server_settings={"timezone": "Asia/Kathmandu"}
        )
        return pool

    with asyncio.Runner() as runner:
        pool = runner.run(open_pool())
        try:
            yield Ledger(runner, pool)
        finally:
            runner.run(pool.close())


@pytest.fixture
def ledger(fresh_database_url: str) -> Iterator[Ledger]:
    """In a session whose time zone is not UTC: days are UTC days all the same."""
    with a_ledger(fresh_database_url) as found:
        yield found


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=st.lists(LINES, max_size=40),
    of=FILTERS,
    groups=st.sets(st.sampled_from(GROUPS[:5])),
    start=st.none() | MOMENTS,
    end=st.none() | MOMENTS,
)
def test_usage_of_any_period_is_a_plain_sum_of_the_ledger(
    ledger: Ledger,
    lines: list[Line],
    of: UsageOf,
    groups: set[str],
    start: datetime | None,
    end: datetime | None,
) -> None:
    within = [
        line
        for line in lines
        if (start is None or start <= line.started_at) and (end is None or line.started_at < end)
    ]
    wanted = plain_sums([line for line in within if is_of(line, of)], sorted(groups))
    assert ledger.sums(lines, of, sorted(groups), start, end) == wanted


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(
    lines=st.lists(LINES, max_size=40),
    of=FILTERS,
    groups=st.sets(st.sampled_from(GROUPS[:5])),
    start=MOMENTS,
    end=MOMENTS,
)
def test_usage_by_the_hour_is_a_plain_sum_too(
    ledger: Ledger, lines: list[Line], of: UsageOf, groups: set[str], start: datetime, end: datetime
) -> None:
    named = [*sorted(groups), "hour"]
    within = [line for line in lines if start <= line.started_at < end and is_of(line, of)]
    assert ledger.sums(lines, of, named, start, end) == plain_sums(within, named)
