"""The verb on usage: exact sums of the ledger."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import asyncpg

from synaxis_common.contracts.admin import AdminReply, page
from synaxis_common.money import plain
from synaxis_registry.core.periods import Split, split
from synaxis_registry.handlers.admin.paging import MAX_PAGE_BYTES, size_of
from synaxis_registry.handlers.admin.verb import Ask, Surroundings, invalid, model_or_literal, ok
from synaxis_registry.store import admin
from synaxis_registry.store.database import Connection

GROUPS = ("tenant", "model", "provider", "key", "day", "hour")
MAX_BY_HOUR = timedelta(days=7)
"""Hours have twenty times the rows of days."""
MAX_ROWS = 5_000
"""More rows than this would hardly fit a message of the bus."""

NOTHING_USED = {
    "requests": 0,
    "input_tokens": 0,
    "output_tokens": 0,
    "cost_usd": "0",
    "requests_without_price": 0,
    "requests_estimated": 0,
}


def plain_row(row: asyncpg.Record) -> dict[str, Any]:
    """A row as JSON: exact amounts as decimal strings, times in ISO 8601."""
    shown: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Decimal):
            shown[name] = plain(value)
        elif isinstance(value, date):  # a datetime is one too
            shown[name] = value.isoformat()
        else:
            shown[name] = value
    return shown


async def query(around: Surroundings, ask: Ask) -> AdminReply:
    """Sums by the fields of `group_by`, all of them in one answer; without it one row for everything."""
    groups = [name.strip() for name in ask.query.get("group_by", "").split(",") if name.strip()]
    unknown = [name for name in groups if name not in GROUPS]
    if unknown:
        raise invalid(f"group_by takes {', '.join(GROUPS)}; not {', '.join(unknown)[:100]}", "group_by")
    period = _period(ask, by_hour="hour" in groups)
    of = admin.UsageOf(
        ask.query.get("tenant"),
        await model_or_literal(around, ask.query.get("model")),
        ask.query.get("provider"),
        ask.query.get("key"),
    )

    async def read(connection: Connection) -> list[asyncpg.Record]:
        return await admin.usage(connection, of, period, groups, MAX_ROWS + 1)

    rows = [
        {name: value for name, value in plain_row(row).items() if name not in GROUPS or name in groups}
        for row in await around.database.run(read)
    ]
    if len(rows) > MAX_ROWS or sum(map(size_of, rows)) > MAX_PAGE_BYTES:
        raise invalid(
            "these are too many rows for one answer: narrow from and to, or group by less", "group_by"
        )
    return ok(page(rows or ([] if groups else [dict(NOTHING_USED)]), None))


def _period(ask: Ask, *, by_hour: bool) -> Split:
    start, end = _moment(ask, "from"), _moment(ask, "to")
    if start is not None and end is not None and start > end:
        raise invalid("from must not be after to", "from")
    if by_hour and (start is None or end is None or end - start > MAX_BY_HOUR):
        raise invalid(f"by the hour at most {MAX_BY_HOUR.days} days are told: set from and to", "group_by")
    return split(start, end, by_hour=by_hour)


def _moment(ask: Ask, name: str) -> datetime | None:
    text = ask.query.get(name)
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise invalid(f"{name} must be a date or a time in ISO 8601", name) from error
