"""What the system itself says afterwards: the ledger, budgets, leases, queues, logs."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
import nats
import nats.errors

USAGE_STREAM, USAGE_CONSUMER = "SYNAXIS_USAGE", "registry-usage"
LOOK_EVERY_S = 0.5
_OPEN_LEASES = """
    SELECT *, extract(epoch FROM clock_timestamp() - granted_at)::float AS age_s FROM lease
     WHERE charged > 0 OR usd > 0 ORDER BY lease_id
"""


@dataclass(frozen=True)
class Line:
    """A line of the ledger."""

    request_id: str
    tenant: str
    key_id: str
    model: str
    provider: str | None
    prompt: int
    completion: int
    cost: Decimal | None
    is_estimated: bool
    reserved: Decimal
    gateway_id: str | None
    attempts: tuple[dict[str, Any], ...]

    @property
    def reached_a_provider(self) -> bool:
        """Whether any attempt may have been seen by one."""
        unseen = {"connect_error", "no_key"}
        return any(attempt["outcome"] not in unseen for attempt in self.attempts)


@dataclass(frozen=True)
class Budget:
    """What a scope has spent this month."""

    spent: Decimal
    reserved: Decimal
    unconfirmed: Decimal


@dataclass(frozen=True)
class Charge:
    """A lease that is not settled: charged at its worst case, or still reserved."""

    lease_id: str
    gateway_id: str
    tenant: str | None
    usd: Decimal
    granted_usd: Decimal = Decimal(0)
    is_returned: bool = False
    age_s: float = 0.0
    scopes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """For the report."""
        returned = "returned" if self.is_returned else "not returned"
        return (
            f"{self.usd} of {self.granted_usd} of {self.tenant}, granted {self.age_s:.0f} s ago "
            f"to {self.gateway_id} as {self.lease_id}, {returned}"
        )


@dataclass
class Books:
    """Everything at one moment."""

    ledger: dict[str, Line] = field(default_factory=dict)
    budgets: dict[str, Budget] = field(default_factory=dict)
    charges: list[Charge] = field(default_factory=list)
    reserved: list[Charge] = field(default_factory=list)
    """In leases that are neither settled nor returned."""
    waiting: int = 0
    """Reports that the registries have not acknowledged yet."""
    dead_letters: int = 0
    sums: dict[str, tuple[int, int, int, Decimal]] = field(default_factory=dict)
    """By table: requests, tokens in and out, USD. The ledger's own are under `usage_ledger`."""
    secrets_found: list[str] = field(default_factory=list)
    """Where."""
    errors: Counter[str] = field(default_factory=Counter)
    """Logged as errors, by service and event."""
    settled_after_s: float | None = None
    """None: it never came to rest."""

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing is reserved and nothing waits."""
        return (
            not self.reserved and not self.waiting and not any(one.reserved for one in self.budgets.values())
        )


@dataclass(frozen=True)
class Where:
    """Where the books are."""

    database_url: str
    nats_url: str


async def settled(where: Where, expected: Collection[str], within_s: float) -> Books:
    """The books at rest, with the `expected` requests in the ledger; or as they are after `within_s`."""
    begun = time.monotonic()
    books = Books()
    while True:
        try:
            books = await read(where)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, nats.errors.Error, TimeoutError):
            if time.monotonic() - begun > within_s:
                raise
        else:
            if books.is_at_rest and books.ledger.keys() >= set(expected):
                books.settled_after_s = time.monotonic() - begun
                return books
        if time.monotonic() - begun > within_s:
            return books
        await asyncio.sleep(LOOK_EVERY_S)


async def read(where: Where) -> Books:
    """The books as they are now."""
    books = Books(waiting=await _waiting(where.nats_url))
    connection = await asyncpg.connect(where.database_url, timeout=5, command_timeout=20)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            for row in await connection.fetch("SELECT * FROM usage_ledger"):
                line = _line(row)
                books.ledger[line.request_id] = line
            for row in await connection.fetch("SELECT * FROM budget"):
                books.budgets[row["scope"]] = Budget(row["spent"], row["reserved"], row["unconfirmed"])
            for row in await connection.fetch(_OPEN_LEASES):
                if row["charged"]:
                    books.charges.append(_charge(row, row["charged"]))
                if row["usd"]:
                    books.reserved.append(_charge(row, row["usd"]))
            books.dead_letters = await connection.fetchval("SELECT count(*) FROM dead_letter")
            for table, requests in (
                ("usage_ledger", "count(*)"),
                ("usage_hour", "sum(requests)"),
                ("usage_day", "sum(requests)"),
            ):
                total = await connection.fetchrow(
                    f"SELECT coalesce({requests}, 0)::bigint, coalesce(sum(input_tokens), 0)::bigint, "
                    f"coalesce(sum(output_tokens), 0)::bigint, coalesce(sum(cost_usd), 0) FROM {table}"
                )
                books.sums[table] = tuple(total or ())
    finally:
        await connection.close()
    return books


def _charge(row: asyncpg.Record, usd: Decimal) -> Charge:
    return Charge(
        lease_id=str(row["lease_id"]),
        gateway_id=row["gateway_id"],
        tenant=row["tenant_id"],
        usd=usd,
        granted_usd=row["granted_usd"],
        is_returned=row["is_returned"],
        age_s=row["age_s"],
        scopes=tuple(row["scopes"]),
    )


def _line(row: asyncpg.Record) -> Line:
    return Line(
        request_id=str(row["request_id"]),
        tenant=row["tenant_id"],
        key_id=row["key_id"],
        model=row["global_model_id"],
        provider=row["provider_id"],
        prompt=row["input_tokens"],
        completion=row["output_tokens"],
        cost=row["cost_usd"],
        is_estimated=row["is_estimated"],
        reserved=row["reserved_usd"],
        gateway_id=row["gateway_id"],
        attempts=tuple(json.loads(row["attempts"])),
    )


async def _waiting(nats_url: str) -> int:
    bus = await nats.connect(nats_url, connect_timeout=2, allow_reconnect=False)
    try:
        info = await bus.jetstream(timeout=5).consumer_info(USAGE_STREAM, USAGE_CONSUMER)
    finally:
        await bus.close()
    return (info.num_pending or 0) + (info.num_ack_pending or 0)


async def find_secrets(books: Books, where: Where, secrets: Iterable[str], folders: Iterable[Path]) -> None:
    """Look for secrets in every row of every table and in every file of `folders`."""
    wanted = list(secrets)
    connection = await asyncpg.connect(where.database_url, timeout=5, command_timeout=60)
    try:
        tables = await connection.fetch(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
        )
        for (table,) in tables:
            patterns = [f"%{secret}%" for secret in wanted]
            if await connection.fetchval(
                f'SELECT count(*) FROM "{table}" t WHERE t::text LIKE ANY ($1)', patterns
            ):
                books.secrets_found.append(f"table {table}")
    finally:
        await connection.close()
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and any(secret.encode() in path.read_bytes() for secret in wanted):
                books.secrets_found.append(f"file {path.relative_to(folder)}")


def count_errors(books: Books, log: Path) -> None:
    """Note what was logged as an error."""
    for line in log.read_text(errors="replace").splitlines():
        try:
            said = json.loads(line)
        except ValueError:
            if line.startswith("Traceback"):
                books.errors["a traceback"] += 1
            continue
        if isinstance(said, dict) and said.get("level") in ("error", "critical"):
            books.errors[f"{said.get('service', '?')}: {said.get('event', '?')}"] += 1
