"""What operators look at, page by page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from decimal import Decimal

import asyncpg

from synaxis_registry.core.periods import Span, Split
from synaxis_registry.core.records import GlobalModelRecord, ProviderModelRecord, ProviderRecord
from synaxis_registry.store import catalog, queries
from synaxis_registry.store.database import Connection
from synaxis_registry.store.records import GLOBAL_MODEL, PROVIDER, PROVIDER_MODEL

SQL = queries.load("admin")
USAGE_SQL = queries.load("usage")

CountedProvider = tuple[ProviderRecord, int, int]
"""With the number of its models, and of those that are available."""
CountedModel = tuple[GlobalModelRecord, int, int]


async def providers(connection: Connection, after: str, limit: int) -> list[CountedProvider]:
    """Providers whose id is greater than `after`."""
    rows = await connection.fetch(SQL["providers"], after, limit)
    return [_counted(row) for row in rows]


async def provider(provider_id: str, connection: Connection) -> CountedProvider | None:
    """One provider."""
    row = await connection.fetchrow(SQL["provider"], provider_id)
    return None if row is None else _counted(row)


def _counted(row: asyncpg.Record) -> CountedProvider:
    # The column is ahead of the record from when a poll was asked for until its observation has come.
    record = replace(PROVIDER.read(row["record"]), next_poll_at=row["next_poll_at"])
    return record, row["models"], row["available"]


async def models(connection: Connection, after: str, limit: int) -> list[CountedModel]:
    """Global models whose id is greater than `after`."""
    rows = await connection.fetch(SQL["models"], after, limit)
    return [(GLOBAL_MODEL.read(row["record"]), row["endpoints"], row["available"]) for row in rows]


async def model(connection: Connection, model_id: str) -> CountedModel | None:
    """One global model."""
    row = await connection.fetchrow(SQL["model"], model_id)
    return None if row is None else (GLOBAL_MODEL.read(row["record"]), row["endpoints"], row["available"])


async def provider_models(
    connection: Connection,
    provider_id: str | None,
    model_id: str | None,
    available: bool | None,
    after: tuple[str, str],
    limit: int,
) -> list[tuple[ProviderModelRecord, ProviderRecord]]:
    """Provider models after a key, each with its provider."""
    return _with_providers(
        await connection.fetch(SQL["provider_models"], provider_id, model_id, available, *after, limit)
    )


async def unsure(
    connection: Connection,
    provider_id: str | None,
    confidence: Decimal,
    after_provider_id: str,
    after_provider_model_id: str,
    limit: int,
) -> list[tuple[ProviderModelRecord, ProviderRecord]]:
    """Provider models whose global model no operator has decided, the least sure first, after a key."""
    return _with_providers(
        await connection.fetch(
            SQL["unsure"], provider_id, confidence, after_provider_id, after_provider_model_id, limit
        )
    )


async def providers_of_model(connection: Connection, model_id: str) -> list[str]:
    """The providers that offer a global model, in the order in which they are to be locked."""
    return [row[0] for row in await connection.fetch(SQL["providers_of_model"], model_id)]


def _with_providers(rows: list[asyncpg.Record]) -> list[tuple[ProviderModelRecord, ProviderRecord]]:
    known: dict[str, ProviderRecord] = {}
    found = []
    for row in rows:
        record = PROVIDER_MODEL.read(row["record"])
        if record.provider_id not in known:
            known[record.provider_id] = PROVIDER.read(row["provider"])
        found.append((record, known[record.provider_id]))
    return found


async def provider_model(
    provider_id: str, provider_model_id: str, connection: Connection
) -> tuple[ProviderModelRecord, ProviderRecord] | None:
    """One provider model with its provider."""
    row = await connection.fetchrow(catalog.SQL["provider_model"], provider_id, provider_model_id)
    return None if row is None else (PROVIDER_MODEL.read(row["record"]), PROVIDER.read(row["provider"]))


@dataclass(frozen=True, slots=True)
class UsageOf:
    """Whose usage is summed; None: everybody's."""

    tenant_id: str | None = None
    global_model_id: str | None = None
    provider_id: str | None = None
    """Empty: requests for which no provider was tried."""
    key_id: str | None = None


NO_DAYS = (date(2000, 1, 1), date(2000, 1, 1))
NO_SPAN = Span(datetime(2000, 1, 1, tzinfo=UTC), datetime(2000, 1, 1, tzinfo=UTC))


async def usage(
    connection: Connection, of: UsageOf, period: Split, groups: Sequence[str], at_most: int
) -> list[asyncpg.Record]:
    """Exact sums of a period, by those of tenant, model, provider, key, day and hour that `groups` names.

    In one statement, so that a request that is being recorded counts everywhere or nowhere.
    """
    await connection.execute(USAGE_SQL["plan_each_time"])
    return await connection.fetch(
        USAGE_SQL["sums"],
        groups,
        of.tenant_id,
        of.global_model_id,
        of.provider_id,
        of.key_id,
        *(period.days or NO_DAYS),
        *_two(period.hours),
        *_two(period.lines),
        at_most,
    )


def _two(spans: tuple[Span, ...]) -> list[object]:
    """The parameters of two spans, of which a period never has more; what is missing is empty."""
    first, second = (*spans, NO_SPAN, NO_SPAN)[:2]
    return [value for span in (first, second) for value in (span.begins, span.ends, span.sign)]


async def dead_letters(
    connection: Connection, stream: str | None, before: int | None, limit: int, payload_bytes: int
) -> list[asyncpg.Record]:
    """Messages that were set aside, newest first, with the first `payload_bytes` of each."""
    return await connection.fetch(SQL["dead_letters"], stream, before, limit, payload_bytes)


async def dead_letter(connection: Connection, letter_id: int) -> asyncpg.Record | None:
    """One of them, whole."""
    return await connection.fetchrow(SQL["dead_letter"], letter_id)


async def delete_dead_letter(connection: Connection, letter_id: int) -> bool:
    """Remove one. False: it is not there."""
    return await connection.fetchval(SQL["delete_dead_letter"], letter_id) is not None


async def count_dead_letters(connection: Connection) -> dict[str, int]:
    """How many there are, by stream."""
    return {row["stream"]: row["letters"] for row in await connection.fetch(SQL["count_dead_letters"])}
