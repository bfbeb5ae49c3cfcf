"""Reads the events stream from any place on: in order, each event once, and never waiting in silence.

An ordered consumer of the client library notices only after 10 to 20 seconds that a restarted server has
forgotten it. Here a reading ends with `ReadingLost` as soon as the connection was lost, an event is missing,
or the server has not been heard of for two heartbeats; whoever reads begins anew after the last event it has.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Final

import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from synaxis_common import subjects
from synaxis_common.bus import Bus
from synaxis_common.logging import get_logger

log = get_logger(__name__)

BATCH: Final = 256
"""Events under way to a reading at most; it asks for more when half of them are here."""
HEARTBEAT_S: Final = 2.0
EXPIRES_S: Final = 30.0
FORGOTTEN_AFTER_S: Final = 30.0
"""When the server gives up a consumer that nobody reads."""
_NANOSECONDS: Final = 1_000_000_000
_HEARTBEAT, _REQUEST_OVER, _DONE = "100", "408", "Batch Completed"

AWAY = (nats.errors.Error, OSError, TimeoutError)


class ReadingLost(Exception):
    """The reading cannot go on; begin anew after the last event."""


@dataclass(frozen=True)
class StoredEvent:
    """An event with its place in the stream."""

    sequence: int
    subject: str
    payload: bytes

    @cached_property
    def frame(self) -> bytes:
        """The event as readers get it, made once for all of them."""
        tokens = self.subject.removeprefix(f"{subjects.EVENTS}.").split(".")
        kind = ".".join(tokens[: 3 if tokens[0] == "tenant" else 2])
        data = self.payload.replace(b"\n", b"\ndata: ")
        return b"id: %d\nevent: %s\ndata: %s\n\n" % (self.sequence, kind.encode(), data)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the stream has. One that was lost and made anew has another `created`."""

    created: datetime | None
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Piece:
    """Events that came together; `is_all`: the stream had no more at that moment."""

    events: tuple[StoredEvent, ...]
    is_all: bool


class EventStream:
    """The stream `SYNAXIS_EVENTS`, for reading."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._readings: set[asyncio.Queue[Msg | None]] = set()
        bus.on_reconnect(self._on_reconnect)

    async def bounds(self) -> Bounds:
        """Where the stream begins and ends. Raises ReadingLost."""
        try:
            info = await self._bus.jetstream.stream_info(subjects.STREAM_EVENTS)
        except AWAY as error:
            raise ReadingLost(type(error).__name__) from error
        return Bounds(info.created, info.state.first_seq, info.state.last_seq)

    @asynccontextmanager
    async def reading(self, after: int, filters: Sequence[str]) -> AsyncIterator[AsyncIterator[Piece]]:
        """Events after the place `after`, for ever. Raises ReadingLost, here and while reading."""
        arrived: asyncio.Queue[Msg | None] = asyncio.Queue()
        inbox, name = self._bus.client.new_inbox(), f"gateway-{secrets.token_hex(8)}"
        async with AsyncExitStack() as stack:
            self._readings.add(arrived)
            stack.callback(self._readings.discard, arrived)
            try:
                subscription = await self._bus.client.subscribe(inbox, cb=arrived.put)
                stack.push_async_callback(self._let_go, name, subscription)
                made = await self._bus.jetstream.add_consumer(
                    subjects.STREAM_EVENTS,
                    ConsumerConfig(
                        name=name,
                        deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
                        opt_start_seq=after + 1,
                        ack_policy=AckPolicy.NONE,
                        filter_subjects=list(filters),
                        inactive_threshold=FORGOTTEN_AFTER_S,
                        mem_storage=True,
                        num_replicas=1,
                    ),
                )
            except AWAY as error:
                raise ReadingLost(type(error).__name__) from error
            pieces = self._pieces(name, inbox, arrived, is_all=not made.num_pending)
            yield await stack.enter_async_context(aclosing(pieces))

    async def _pieces(
        self, name: str, inbox: str, arrived: asyncio.Queue[Msg | None], *, is_all: bool
    ) -> AsyncGenerator[Piece, None]:
        if is_all:
            yield Piece((), is_all=True)
        asked = number = 0
        while True:
            if asked <= BATCH // 2:
                await self._ask(name, inbox, BATCH - asked)
                asked = BATCH
            found: list[StoredEvent] = []
            for message in await _arrivals(arrived):
                if (message.headers or {}).get("Status") is not None:
                    asked -= _given_up(message.headers or {})
                    continue
                place = message.metadata
                number += 1
                if place.sequence.consumer != number:
                    raise ReadingLost("an event was lost on the way")
                asked -= 1
                is_all = not place.num_pending
                found.append(StoredEvent(place.sequence.stream, message.subject, message.data))
            if found:
                yield Piece(tuple(found), is_all)

    async def _ask(self, name: str, inbox: str, count: int) -> None:
        request = {
            "batch": count,
            "expires": int(EXPIRES_S * _NANOSECONDS),
            "idle_heartbeat": int(HEARTBEAT_S * _NANOSECONDS),
        }
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{subjects.STREAM_EVENTS}.{name}"
        try:
            await self._bus.client.publish(subject, json.dumps(request).encode(), reply=inbox)
        except AWAY as error:
            raise ReadingLost(type(error).__name__) from error

    async def _let_go(self, name: str, subscription: Subscription) -> None:
        """Take the consumer away at once; if that fails the server does it after a while."""
        try:
            await subscription.unsubscribe()
            await self._bus.client.publish(f"$JS.API.CONSUMER.DELETE.{subjects.STREAM_EVENTS}.{name}", b"")
        except AWAY as error:
            log.debug("consumer_not_deleted", error=type(error).__name__)

    async def _on_reconnect(self) -> None:
        for arrived in self._readings:
            arrived.put_nowait(None)


async def _arrivals(arrived: asyncio.Queue[Msg | None]) -> list[Msg]:
    """What has come, waiting for the first. Raises ReadingLost."""
    try:
        async with asyncio.timeout(2 * HEARTBEAT_S + 1):
            found = [await arrived.get()]
    except TimeoutError as error:
        raise ReadingLost("the server is silent") from error
    while not arrived.empty():
        found.append(arrived.get_nowait())
    messages = [message for message in found if message is not None]
    if len(messages) < len(found):
        raise ReadingLost("the connection was lost")
    return messages


def _given_up(headers: Mapping[str, str]) -> int:
    """How many of the events asked for will not come, by a word of the server.

    Raises ReadingLost where it was the server's last.
    """
    status, about = headers["Status"], headers.get("Description", "")
    if status == _HEARTBEAT or about == _DONE:
        return 0
    if status == _REQUEST_OVER:
        return int(headers.get("Nats-Pending-Messages", BATCH))
    raise ReadingLost(f"status {status} {about}")
