"""Publishes the events of committed changes: each exactly once, in the order of the changes.

An event is written in the transaction of its change. One registry at a time takes the oldest ones, stores
them in JetStream under their ids, and deletes them when the stream has acknowledged. If it dies in between,
the next one stores the same ids again, which the stream refuses as duplicates.
"""

from __future__ import annotations

import asyncio

import nats.errors
import nats.js.errors
from prometheus_client import Counter, Gauge

from synaxis_common import subjects
from synaxis_common.bus import Bus, BusUnavailable
from synaxis_common.contracts.events import (
    Availability,
    BudgetChange,
    CloudEvent,
    EventType,
    ModelChange,
    ProviderChange,
)
from synaxis_common.logging import get_logger
from synaxis_registry.store import queries
from synaxis_registry.store.database import Connection, Database, DatabaseUnavailable

log = get_logger(__name__)
SQL = queries.load("outbox")

BATCH = 200
POLL_S = 1.0
"""How long an event waits at most when the notice of it was lost."""

PUBLISHED = Counter("synaxis_events_published_total", "Events published", ["type"])
BACKLOG = Gauge("synaxis_outbox_backlog", "Events not yet published")

_DATA: dict[str, type[ModelChange] | type[ProviderChange] | type[BudgetChange]] = {
    "model": ModelChange,
    "provider": ProviderChange,
    "tenant": BudgetChange,
}
_STATES = (EventType.MODEL_AVAILABLE, EventType.MODEL_UNAVAILABLE)


class Outbox:
    """Drains the outbox table into the stream and the bucket."""

    def __init__(self, database: Database, bus: Bus) -> None:
        self._database, self._bus = database, bus
        self.wake = asyncio.Event()

    async def run(self) -> None:
        """Drain whenever woken, and every second in any case."""
        while True:
            self.wake.clear()
            try:
                while await self._database.run(self.drain):
                    pass
            except (DatabaseUnavailable, BusUnavailable) as error:
                log.warning("outbox_waits", error=str(error))
                await asyncio.sleep(POLL_S)
            try:
                await asyncio.wait_for(self.wake.wait(), timeout=POLL_S)
            except TimeoutError:
                continue

    async def drain(self, connection: Connection) -> bool:
        """Publish one batch and delete it in the caller's transaction. True: there may be more."""
        if not await connection.fetchval(SQL["lock"]):
            return False
        rows = await connection.fetch(SQL["next"], BATCH)
        if not rows:
            BACKLOG.set(0)
            return False
        BACKLOG.set(await connection.fetchval(SQL["backlog"]))
        events = [
            CloudEvent(
                id=str(row["event_id"]),
                type=EventType(row["type"]),
                subject=_about(data),
                time=row["at"],
                sequence=f"{row['id']:020d}",
                data=data,
            )
            for row in rows
            for data in (_DATA[row["type"].partition(".")[0]].model_validate_json(row["data"]),)
        ]
        for event in events:
            await self._bus.store(_subject(event), event.to_bytes(), event.id)
            PUBLISHED.labels(event.type.value).inc()
        await self._put_states(events)
        await connection.execute(SQL["delete"], [row["id"] for row in rows])
        return len(rows) == BATCH

    async def _put_states(self, events: list[CloudEvent]) -> None:
        latest = {
            subjects.availability_key(event.data.provider_id, event.data.provider_model_id): event
            for event in events
            if event.type in _STATES and isinstance(event.data, ModelChange)
        }
        try:
            bucket = await self._bus.jetstream.key_value(subjects.BUCKET_AVAILABILITY)
            for key, event in latest.items():
                assert isinstance(event.data, ModelChange)
                state = Availability(
                    provider_id=event.data.provider_id,
                    provider_model_id=event.data.provider_model_id,
                    global_model_id=event.data.global_model_id,
                    is_available=event.data.after.is_available,
                    reason=event.data.after.reason,
                    sequence=event.sequence,
                    at=event.time,
                )
                await bucket.put(key, state.to_bytes())
        except (nats.errors.Error, nats.js.errors.Error, TimeoutError) as error:
            raise BusUnavailable(f"{subjects.BUCKET_AVAILABILITY}: {type(error).__name__}") from error


def _about(data: ModelChange | ProviderChange | BudgetChange) -> str:
    match data:
        case ModelChange():
            return f"{data.provider_id}/{data.provider_model_id}"
        case ProviderChange():
            return data.provider_id
        case BudgetChange():
            return f"{data.tenant_id}/{data.global_model_id}"


def _subject(event: CloudEvent) -> str:
    kind = event.type.value.partition(".")[2]
    match event.data:
        case ModelChange():
            return subjects.model_event(kind, event.data.provider_id, event.data.global_model_id)
        case ProviderChange():
            return subjects.provider_event(kind, event.data.provider_id)
        case BudgetChange():
            return f"{subjects.EVENTS}.tenant.{kind}.{subjects.token(event.data.tenant_id)}"
