"""Webhooks and their deliveries in Postgres."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg

from synaxis_common.contracts.events import CloudEvent
from synaxis_registry.core.webhooks import DeliveryStatus, Webhook
from synaxis_registry.store import queries
from synaxis_registry.store.database import Connection

SQL = queries.load("webhooks")


@dataclass(frozen=True, slots=True)
class Claimed:
    """A delivery that this registry is to make now."""

    id: int
    event_id: UUID
    body: bytes
    attempts: int
    """This one included."""
    webhook: Webhook


@dataclass(frozen=True, slots=True)
class Shown:
    """A webhook as operators see it."""

    webhook: Webhook
    created_at: datetime
    pending: int
    failed: int


async def enqueue(
    connection: Connection, events: Iterable[CloudEvent], subject_of: Callable[[CloudEvent], str]
) -> int:
    """Have each event delivered, once, to every webhook that wants it.

    Answers how many deliveries that makes, if none of them was made before.
    """
    wants = [
        (webhook.id, webhook.wanted())
        for row in await connection.fetch(SQL["all"])
        if (webhook := _webhook(row)).enabled
    ]
    if not wants:
        return 0
    rows = [
        (webhook_id, UUID(event.id), event.type.value, event.to_bytes().decode())
        for event in events
        for subject in (subject_of(event),)
        for webhook_id, wanted in wants
        if wanted.takes(subject)
    ]
    if rows:
        await connection.execute(SQL["enqueue"], *(list(column) for column in zip(*rows, strict=True)))
    return len(rows)


async def claim(connection: Connection, full: Sequence[str], each: int, lease_s: float) -> list[Claimed]:
    """What is due, at most `each` of a webhook, and nothing of those that are `full`."""
    return [
        Claimed(
            id=row["id"],
            event_id=row["event_id"],
            body=row["body"].encode(),
            attempts=row["attempts"],
            webhook=Webhook(
                id=row["webhook_id"],
                url=row["url"],
                allow_private=row["allow_private"],
                version=row["version"],
                rotated_at=row["rotated_at"],
            ),
        )
        for row in await connection.fetch(SQL["claim"], list(full), each, lease_s)
    ]


async def settle(
    connection: Connection,
    claimed: Claimed,
    status: DeliveryStatus,
    next_at: datetime,
    http_status: int | None,
    error: str | None,
) -> None:
    """Note what came of an attempt, unless somebody has begun another one."""
    await connection.execute(
        SQL["settle"], claimed.id, claimed.attempts, status.value, next_at, http_status, error
    )


async def switch_off(connection: Connection, webhook_id: str, reason: str) -> bool:
    """Send nothing more to a webhook; answers whether it was on."""
    return await connection.fetchval(SQL["switch_off"], webhook_id, reason) is not None


async def page(connection: Connection, after: str, limit: int) -> list[Shown]:
    """Webhooks in the order of their ids."""
    return [_shown(row) for row in await connection.fetch(SQL["page"], after, limit)]


async def one(connection: Connection, webhook_id: str) -> Shown | None:
    """One webhook."""
    row = await connection.fetchrow(SQL["one"], webhook_id)
    return None if row is None else _shown(row)


async def locked(connection: Connection, webhook_id: str) -> Webhook | None:
    """A webhook that nobody else changes until the transaction ends."""
    row = await connection.fetchrow(SQL["lock"], webhook_id)
    return None if row is None else _webhook(row)


async def save(connection: Connection, webhook: Webhook) -> None:
    """Insert or replace a webhook."""
    await connection.execute(
        SQL["save"],
        webhook.id,
        webhook.url,
        list(webhook.events),
        list(webhook.providers),
        list(webhook.models),
        webhook.allow_private,
        webhook.enabled,
        webhook.off_reason,
        webhook.version,
        webhook.rotated_at,
    )


async def delete(connection: Connection, webhook_id: str) -> bool:
    """Remove a webhook with its deliveries; answers whether it was there."""
    return await connection.fetchval(SQL["delete"], webhook_id) is not None


async def deliveries(
    connection: Connection, webhook_id: str, before: int | None, status: str | None, limit: int
) -> list[asyncpg.Record]:
    """Deliveries, the newest first."""
    return await connection.fetch(SQL["deliveries"], webhook_id, before, status, limit)


async def replay(connection: Connection, webhook_id: str, delivery_id: int) -> bool:
    """Deliver once more; answers whether there is such a delivery."""
    return await connection.fetchval(SQL["replay"], webhook_id, delivery_id) is not None


async def replay_since(connection: Connection, webhook_id: str, since: datetime) -> int:
    """Deliver all events since then once more; answers how many."""
    count: int = await connection.fetchval(SQL["replay_since"], webhook_id, since)
    return count


async def waiting(connection: Connection) -> int:
    """Deliveries that are still to be made."""
    count: int = await connection.fetchval(SQL["waiting"])
    return count


async def forget(connection: Connection) -> None:
    """Remove what is over and older than a week."""
    await connection.execute(SQL["forget"])


def _webhook(row: asyncpg.Record) -> Webhook:
    return Webhook(
        id=row["id"],
        url=row["url"],
        events=tuple(row["events"]),
        providers=tuple(row["providers"]),
        models=tuple(row["models"]),
        allow_private=row["allow_private"],
        enabled=row["enabled"],
        off_reason=row["off_reason"],
        version=row["version"],
        rotated_at=row["rotated_at"],
    )


def _shown(row: asyncpg.Record) -> Shown:
    return Shown(_webhook(row), row["created_at"], row["pending"], row["failed"])
