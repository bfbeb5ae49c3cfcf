"""Publishes the events of committed changes: each exactly once, in the order of the changes.

An event is written in the transaction of its change. One registry at a time takes the oldest ones, appends
them to the stream, sets the states in the bucket, and deletes them, noting in the same transaction up to
where in the stream all is deleted (`event_cursor`). Whatever dies in between:

- What lies behind that place in the stream was published but not deleted: it is read, and not published
  again. This holds however long ago it was; the message ids, which the server remembers for an hour, guard
  it once more.
- A registry that lost its lock and goes on, or a publish that was given up and is sent after a reconnect,
  finds the stream longer than it expects and is refused (`publishing`). Expecting the last sequence of the
  whole stream is sound, since only the outbox publishes there. Expecting that of each subject would not do:
  the events of one provider model have several subjects, and a newcomer could not tell which sequence to
  expect.
- A stream or a bucket that was lost is noticed by when it was made. The bucket is then filled from
  Postgres, with the states as the events published so far tell of them.

Rows of one provider are written under a lock until their transaction ends, so that the order of ids is the
order of their commits, for each provider.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

import asyncpg
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError
from prometheus_client import Counter, Gauge

from synaxis_common import subjects
from synaxis_common.bus import Bus, BusUnavailable
from synaxis_common.contracts.events import (
    BudgetChange,
    CloudEvent,
    EventType,
    ModelChange,
    ProviderChange,
    ProviderState,
)
from synaxis_common.logging import get_logger
from synaxis_registry import availability_bucket as bucket
from synaxis_registry.availability_bucket import Published
from synaxis_registry.publishing import AWAY, Head, Outgoing, Overtaken, append, head
from synaxis_registry.store import queries, webhooks
from synaxis_registry.store.database import Connection, Database, DatabaseUnavailable

log = get_logger(__name__)
SQL = queries.load("outbox")

BATCH = 500
POLL_S = 1.0
"""How long an event waits at most when the notice of it was lost."""
LOOK_BACK = 5_000
"""How much of a stream that Postgres knows nothing of is read: ten times what can be left undeleted."""

PUBLISHED = Counter("synaxis_events_published_total", "Events published", ["type"])
BACKLOG = Gauge("synaxis_outbox_backlog", "Events not yet published")
OVERTAKEN = Counter("synaxis_outbox_overtaken_total", "Batches given up since somebody else had published")
FILLED = Counter("synaxis_availability_bucket_filled_total", "Times the bucket was filled from Postgres")

_DATA: dict[str, type[ModelChange] | type[ProviderChange] | type[BudgetChange]] = {
    "model": ModelChange,
    "provider": ProviderChange,
    "tenant": BudgetChange,
}


class Outbox:
    """Drains the outbox table into the stream and the bucket."""

    def __init__(
        self, database: Database, bus: Bus, on_deliveries: Callable[[], None] = lambda: None
    ) -> None:
        """`on_deliveries` is called when there are events for webhooks, perhaps before they are committed."""
        self._database, self._bus, self.on_deliveries = database, bus, on_deliveries
        self.wake = asyncio.Event()
        self._is_unsure = True
        """The bus may have lost what it had: look even if there is nothing to publish."""
        self._earlier: dict[UUID, int] = {}
        """What the server said it has, by message id, though it lies further back than was read."""
        bus.on_reconnect(self._look)

    async def run(self) -> None:
        """Drain whenever woken, and every second in any case."""
        while True:
            self.wake.clear()
            try:
                while await self._database.run(self.drain):
                    pass
            except Overtaken as error:
                OVERTAKEN.inc()
                log.info("outbox_overtaken", stream=error.stream)
                continue
            except (DatabaseUnavailable, BusUnavailable) as error:
                log.warning("outbox_waits", error=str(error))
                await asyncio.sleep(POLL_S)
            try:
                async with asyncio.timeout(POLL_S):  # wait_for may lose a cancellation in Python 3.11
                    await self.wake.wait()
            except TimeoutError:
                continue

    async def drain(self, connection: Connection) -> bool:
        """Publish one batch and delete it in the caller's transaction. True: there may be more.

        Raises BusUnavailable and Overtaken; the transaction must be given up then.
        """
        if await connection.fetchval(SQL["is_empty"]) and not self._is_unsure:
            BACKLOG.set(0)
            return False
        if not await connection.fetchval(SQL["lock"]):
            return False
        jetstream = self._bus.jetstream
        try:
            bucket_head = await head(jetstream, bucket.STREAM)  # first: see `availability_bucket`
            events_head = await head(jetstream, subjects.STREAM_EVENTS)
        except NotFoundError as error:
            await self._bus.declare()
            raise BusUnavailable(f"a stream was missing: {error.description}") from error
        known = await connection.fetchrow(SQL["cursor"])
        found = self._earlier | await _published_before(jetstream, events_head, known)
        rows = await connection.fetch(SQL["next"], BATCH, list(found))
        BACKLOG.set(await connection.fetchval(SQL["backlog"]))

        told = {row["event_id"]: cloud_event(row) for row in rows}
        before = [Published(event, found[event_id]) for event_id, event in told.items() if event_id in found]
        await connection.execute(SQL["delete"], [row["id"] for row in rows if row["event_id"] in found])
        last = bucket_head.last
        if _is_lost(known, events_head, bucket_head):
            last = await self._fill(connection, jetstream, events_head, last)
            before = []

        events = [event for event_id, event in told.items() if event_id not in found]
        sequences = await self._publish(jetstream, events, events_head.last)
        published = [Published(*each) for each in zip(events, sequences, strict=True)]
        end = sequences[-1] if sequences else events_head.last
        if before or published:
            states = [*bucket.after_events([*before, *published]), bucket.cursor(end, events_head.created)]
            last = (await append(jetstream, bucket.STREAM, last, states))[-1]
        if await webhooks.enqueue(connection, told.values(), event_subject):
            self.on_deliveries()
        await connection.execute(SQL["delete"], [row["id"] for row in rows])
        await connection.execute(SQL["save_cursor"], events_head.created, end, bucket_head.created, last)
        self._is_unsure = False
        self._earlier.clear()
        return len(rows) >= BATCH

    async def _look(self) -> None:
        self._is_unsure = True
        self.wake.set()

    async def _publish(
        self, jetstream: JetStreamContext, events: Sequence[CloudEvent], last: int
    ) -> list[int]:
        messages = [
            Outgoing(event_subject(event), event.to_bytes(), {"Nats-Msg-Id": event.id}) for event in events
        ]
        try:
            sequences = await append(jetstream, subjects.STREAM_EVENTS, last, messages)
        except Overtaken as error:
            self._earlier.update({UUID(events[position].id): seq for position, seq in error.stored.items()})
            raise
        for event in events:
            PUBLISHED.labels(event.type.value).inc()
        return sequences

    async def _fill(
        self, connection: Connection, jetstream: JetStreamContext, events_head: Head, last: int
    ) -> int:
        """Fill the bucket from Postgres; answers its last sequence."""
        rows = await connection.fetch(SQL["states"])
        await bucket.purge(jetstream)
        values = await bucket.from_rows(rows, events_head.last)
        values.append(bucket.cursor(events_head.last, events_head.created))
        for start in range(0, len(values), BATCH):
            last = (await append(jetstream, bucket.STREAM, last, values[start : start + BATCH]))[-1]
            await connection.execute(SQL["keep_alive"])
        FILLED.inc()
        log.info("bucket_filled", values=len(values) - 1, stream_sequence=events_head.last)
        return last


def _is_lost(known: asyncpg.Record | None, events: Head, states: Head) -> bool:
    """Whether the stream or the bucket is not the one that was written to last, or lacks what was written."""
    return (
        known is None
        or known["stream_created"] != events.created
        or known["bucket_created"] != states.created
        or known["stream_sequence"] > events.last
        or known["bucket_sequence"] > states.last
        or states.messages == 0
    )


async def _published_before(
    jetstream: JetStreamContext, at: Head, known: asyncpg.Record | None
) -> dict[UUID, int]:
    """What is in the stream though Postgres has not noted so: event ids, with their places."""
    if known is not None and known["stream_created"] == at.created and known["stream_sequence"] <= at.last:
        start = max(known["stream_sequence"] + 1, at.first)
    else:
        start = max(at.last - LOOK_BACK + 1, at.first, 1)
    found: dict[UUID, int] = {}
    for begin in range(start, at.last + 1, BATCH):
        sequences = range(begin, min(begin + BATCH, at.last + 1))
        ids = await asyncio.gather(*(_message_id(jetstream, sequence) for sequence in sequences))
        found |= {known_id: seq for known_id, seq in zip(ids, sequences, strict=True) if known_id is not None}
    return found


async def _message_id(jetstream: JetStreamContext, sequence: int) -> UUID | None:
    try:
        message = await jetstream.get_msg(subjects.STREAM_EVENTS, sequence)
        return UUID((message.headers or {}).get("Nats-Msg-Id", ""))
    except (NotFoundError, ValueError):
        return None  # expired meanwhile, or not ours
    except AWAY as error:
        raise BusUnavailable(f"{subjects.STREAM_EVENTS}: {type(error).__name__}") from error


def cloud_event(row: asyncpg.Record | Mapping[str, Any]) -> CloudEvent:
    """The event of a row of the outbox."""
    kind = EventType(row["type"])
    data = _DATA[kind.partition(".")[0]].model_validate_json(row["data"])
    if isinstance(data, ProviderChange):
        is_on = kind is EventType.PROVIDER_RECOVERED
        after = ProviderState(is_on=is_on, reason=None if is_on else data.reason)
        data = data.model_copy(update={"before": ProviderState(is_on=not is_on), "after": after})
    return CloudEvent(
        id=str(row["event_id"]),
        type=kind,
        subject=_about(data),
        time=row["at"],
        sequence=f"{row['id']:020d}",
        data=data,
    )


def _about(data: ModelChange | ProviderChange | BudgetChange) -> str:
    match data:
        case ModelChange():
            return f"{data.provider_id}/{data.provider_model_id}"
        case ProviderChange():
            return data.provider_id
        case BudgetChange():
            return f"{data.tenant_id}/{data.global_model_id}"


def event_subject(event: CloudEvent) -> str:
    """Where an event is published."""
    kind = event.type.value.partition(".")[2]
    match event.data:
        case ModelChange():
            return subjects.model_event(kind, event.data.provider_id, event.data.global_model_id)
        case ProviderChange():
            return subjects.provider_event(kind, event.data.provider_id)
        case BudgetChange():
            return f"{subjects.EVENTS}.tenant.{kind}.{subjects.token(event.data.tenant_id)}"
