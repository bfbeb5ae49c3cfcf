"""The bucket `synaxis-availability`: what the events published so far come to, for those who come late.

How to read it together with the stream is said in `synaxis_common.contracts.events.Availability`. For that
to hold, the outbox writes in this order: the events; the values that they change, each with the place of
its event in the stream; last the cursor, which so never names a place whose effects are not all in the
values. Only the outbox writes here, by `publishing.append`, so that nobody puts an old state over a newer
one: an appender has read where the bucket ends before it published its events, and whoever published later
has moved that end.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import asyncpg
from nats.js import JetStreamContext

from synaxis_common import subjects
from synaxis_common.bus import BusUnavailable
from synaxis_common.contracts.base import Message
from synaxis_common.contracts.events import (
    CURSOR_KEY,
    Availability,
    AvailabilityCursor,
    CloudEvent,
    ModelChange,
    ModelState,
)
from synaxis_registry.core.changes import model_state
from synaxis_registry.publishing import AWAY, Outgoing
from synaxis_registry.store.records import PROVIDER_MODEL

STREAM = f"KV_{subjects.BUCKET_AVAILABILITY}"
UNKNOWN_SEQUENCE = "0" * 20


@dataclass(frozen=True, slots=True)
class Published:
    """An event and its place in the stream."""

    event: CloudEvent
    sequence: int


def after_events(published: Iterable[Published]) -> list[Outgoing]:
    """The values that these events change, one a provider model."""
    latest: dict[str, Availability] = {}
    for one in sorted(published, key=lambda each: each.sequence):
        change = one.event.data
        if isinstance(change, ModelChange):
            key = subjects.availability_key(change.provider_id, change.provider_model_id)
            latest[key] = Availability(
                provider_id=change.provider_id,
                provider_model_id=change.provider_model_id,
                global_model_id=change.global_model_id,
                is_available=change.after.is_available,
                reason=change.after.reason,
                prices=change.after.prices,
                sequence=one.event.sequence,
                stream_sequence=one.sequence,
                at=one.event.time,
            )
    return [_put(key, state) for key, state in latest.items()]


async def from_rows(rows: Sequence[asyncpg.Record], sequence: int) -> list[Outgoing]:
    """The values by the rows of the query `states`, as after the event at `sequence`."""
    return await asyncio.to_thread(lambda: [each for row in rows for each in _from_row(row, sequence)])


def cursor(sequence: int, stream_created: datetime) -> Outgoing:
    """The word that all effects of the events up to `sequence` are in the values."""
    said = AvailabilityCursor(stream_sequence=sequence, stream_created=stream_created, at=datetime.now(UTC))
    return _put(CURSOR_KEY, said)


async def purge(jetstream: JetStreamContext) -> None:
    """Take all values away, and the cursor with them, so that nobody reads half of what follows."""
    try:
        await jetstream.purge_stream(STREAM)
    except AWAY as error:
        raise BusUnavailable(f"{STREAM}: {type(error).__name__}") from error


def _from_row(row: asyncpg.Record, sequence: int) -> list[Outgoing]:
    record = PROVIDER_MODEL.read(row["record"])
    state = model_state(record)
    if row["is_waiting"]:
        if row["before"] is None or json.loads(row["before"]) is None:
            return []
        state = ModelState.model_validate_json(row["before"])
    value = Availability(
        provider_id=record.provider_id,
        provider_model_id=record.provider_model_id,
        global_model_id=record.global_model_id,
        is_available=state.is_available,
        reason=state.reason,
        prices=state.prices,
        sequence=UNKNOWN_SEQUENCE,
        stream_sequence=sequence,
        at=datetime.now(UTC),
    )
    return [_put(subjects.availability_key(record.provider_id, record.provider_model_id), value)]


def _put(key: str, value: Message) -> Outgoing:
    return Outgoing(f"$KV.{subjects.BUCKET_AVAILABILITY}.{key}", value.to_bytes())
