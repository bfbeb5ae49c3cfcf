"""The connection to NATS, and every stream and bucket, declared here and nowhere else."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import nats.errors
import nats.js.errors
from faststream.nats import NatsBroker
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import (
    DiscardPolicy,
    KeyValueConfig,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)
from prometheus_client import Counter

from synaxis_common import answers, subjects
from synaxis_common.contracts.base import Message
from synaxis_common.logging import get_logger
from synaxis_common.settings import ServiceSettings

log = get_logger(__name__)

ReplyT = TypeVar("ReplyT", bound=Message)

DAY_S = 86_400.0
PING_INTERVAL_S = 5
"""With two outstanding pings a black-holed connection is noticed within 15 s; the default needs minutes."""
EXIT_BUS_CLOSED = 70
"""Exit status when the connection is closed for good; `EX_SOFTWARE` of sysexits.h."""

DISCONNECTS = Counter("synaxis_bus_disconnects_total", "Times the connection to NATS was lost")
BUS_ERRORS = Counter("synaxis_bus_errors_total", "Errors reported by the NATS client", ["kind"])

STREAMS: tuple[StreamConfig, ...] = (
    StreamConfig(
        name=subjects.STREAM_USAGE,
        subjects=[subjects.USAGE],
        retention=RetentionPolicy.LIMITS,
        discard=DiscardPolicy.NEW,
        storage=StorageType.FILE,
        max_age=7 * DAY_S,
        max_bytes=4 * 1024**3,
        duplicate_window=3600,
    ),
    StreamConfig(
        name=subjects.STREAM_CATALOG,
        subjects=[f"{subjects.CATALOG}.>"],
        retention=RetentionPolicy.LIMITS,
        discard=DiscardPolicy.OLD,
        storage=StorageType.FILE,
        max_msgs_per_subject=2,
        max_bytes=256 * 1024**2,
        duplicate_window=120,
    ),
    StreamConfig(
        name=subjects.STREAM_OBSERVATION,
        subjects=[f"{subjects.OBSERVATION}.>"],
        retention=RetentionPolicy.LIMITS,
        discard=DiscardPolicy.OLD,
        storage=StorageType.FILE,
        max_msgs_per_subject=4,
        max_age=DAY_S,
        max_bytes=512 * 1024**2,
        duplicate_window=120,
    ),
    StreamConfig(
        name=subjects.STREAM_EVENTS,
        subjects=[f"{subjects.EVENTS}.>"],
        retention=RetentionPolicy.LIMITS,
        discard=DiscardPolicy.OLD,
        storage=StorageType.FILE,
        max_age=7 * DAY_S,
        max_bytes=4 * 1024**3,
        duplicate_window=3600,
        deny_delete=True,
    ),
)

AVAILABILITY_BUCKET = KeyValueConfig(
    bucket=subjects.BUCKET_AVAILABILITY, history=1, storage=StorageType.FILE, max_bytes=256 * 1024**2
)


LOOK_EVERY_S = 0.005
QUIET_LOOKS = 2
"""A message is for an instant in nobody's books while it goes from FastStream's queue to a worker."""


class BusUnavailable(Exception):
    """Nobody answered in time, or the bus is away. The request may still be carried out later."""


class StreamDrift(Exception):
    """A stream exists with other subjects or another retention than ours: somebody else's hands."""


class Bus:
    """One connection to NATS: requests, acknowledged publishes, and FastStream's broker on the same wire."""

    def __init__(self, settings: ServiceSettings, name: str) -> None:
        self._reconnected: list[Callable[[], Awaitable[None]]] = []
        self._plain: list[answers.Answers] = []
        self._closing = False
        self._is_started = False
        self.broker = NatsBroker(
            settings.nats_url.get_secret_value().split(","),
            name=f"synaxis-{name}",
            connect_timeout=2,
            reconnect_time_wait=0.2,  # type: ignore[arg-type]  # annotated int, used as seconds
            max_reconnect_attempts=-1,
            ping_interval=PING_INTERVAL_S,
            max_outstanding_pings=2,
            inbox_prefix=settings.nats_inbox_prefix,
            error_cb=self._on_error,
            disconnected_cb=self._on_disconnected,
            reconnected_cb=self._on_reconnected,
            closed_cb=self._on_closed,
            logger=None,
        )

    @property
    def client(self) -> Client:
        """The raw connection."""
        return self.broker.connection

    @property
    def jetstream(self) -> JetStreamContext:
        """JetStream on this connection."""
        return self.client.jetstream(timeout=5)

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection now."""
        return self._is_started and bool(self.client.is_connected)

    def problem(self) -> str | None:
        """Why the bus keeps the service from being ready."""
        return None if self.is_connected else "not connected to NATS"

    def on_reconnect(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Call back after each reconnect: watches are blind for up to 20 s then and must be made anew."""
        self._reconnected.append(callback)

    def answer(self, subject: str, handler: Callable[..., Awaitable[object]], *, workers: int = 1) -> None:
        """Have `handler` answer a subject, shared with the other registries; before the broker is started.

        FastStream reads the types of the messages off the handler. `workers`: how many at a time.
        """
        self.broker.subscriber(subject, queue=subjects.QUEUE_REGISTRY, max_workers=workers)(handler)

    def answer_bytes(
        self,
        subject: str,
        handler: answers.Handler,
        *,
        failed: answers.Failed,
        queue: str = subjects.QUEUE_REGISTRY,
        workers: int = 1,
    ) -> None:
        """`answer` for a handler of bytes, on a plain subscription: ten times as fast, see `answers`.

        `failed` hears of what was not answered because of an error. `workers`: how many may wait at a time.
        """
        self._plain.append(answers.Answers(subject, queue, handler, workers, failed))

    async def start_answering(self) -> None:
        """Begin to answer on all subjects."""
        await self.broker.start()
        for one in self._plain:
            await one.start(self.client)

    async def stop_answering(self, timeout: float = 5.0) -> None:
        """Take no more questions, and answer those that were taken; at most `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await asyncio.gather(
                    *map(_finished, self.broker.subscribers), *(one.stop() for one in self._plain)
                )
        except (TimeoutError, nats.errors.Error) as error:
            log.warning("questions_left", error=type(error).__name__)

    async def connect(self) -> None:
        """Connect, trying for ever, and declare the streams and the bucket."""
        delay = 0.2
        while True:
            try:
                await self.broker.connect()
                await self.declare()
                self._is_started = True
            except (OSError, TimeoutError, nats.errors.Error) as error:
                log.warning("bus_not_reachable", error=type(error).__name__, retry_in_s=delay)
                await asyncio.sleep(delay)
                delay = min(delay * 2, 5.0)
            else:
                return

    async def declare(self) -> None:
        """Create what is missing. Raises StreamDrift when what is there is not ours."""
        jetstream = self.jetstream
        for wanted in STREAMS:
            assert wanted.name is not None
            try:
                found = (await jetstream.stream_info(wanted.name)).config
            except nats.js.errors.NotFoundError:
                await jetstream.add_stream(wanted)
                continue
            if found.subjects != wanted.subjects or found.retention != wanted.retention:
                raise StreamDrift(f"stream {wanted.name} has subjects {found.subjects} and {found.retention}")
        try:
            await jetstream.key_value(subjects.BUCKET_AVAILABILITY)
        except nats.js.errors.BucketNotFoundError:
            await jetstream.create_key_value(AVAILABILITY_BUCKET)

    async def request(
        self,
        subject: str,
        message: Message,
        reply: type[ReplyT],
        timeout: float,
        headers: dict[str, str] | None = None,
    ) -> ReplyT:
        """Ask and wait. Raises BusUnavailable when no answer came within `timeout` seconds."""
        return await self.request_bytes(subject, message.to_bytes(), reply, timeout, headers)

    async def request_bytes(
        self,
        subject: str,
        payload: bytes,
        reply: type[ReplyT],
        timeout: float,
        headers: dict[str, str] | None = None,
    ) -> ReplyT:
        """`request` for a message that is bytes already. Raises BusUnavailable likewise."""
        try:
            answer = await self.client.request(subject, payload, timeout=timeout, headers=headers)
        except (TimeoutError, nats.errors.Error) as error:
            raise BusUnavailable(f"{subject}: {type(error).__name__}") from error
        return reply.model_validate_json(answer.data)

    async def publish(self, subject: str, message: Message) -> None:
        """Send without waiting for anybody: for hints, never for facts."""
        try:
            await self.client.publish(subject, message.to_bytes())
        except nats.errors.Error as error:
            raise BusUnavailable(f"{subject}: {type(error).__name__}") from error

    async def store(self, subject: str, payload: bytes, message_id: str, timeout: float = 5.0) -> int:
        """Publish to JetStream and wait until it is stored; answers its sequence in the stream.

        Raises BusUnavailable when no acknowledgement came: it may be stored all the same, so send it
        again with the same `message_id`.
        """
        try:
            ack = await self.jetstream.publish(
                subject, payload, timeout=timeout, headers={"Nats-Msg-Id": message_id}
            )
        except (TimeoutError, nats.errors.Error) as error:
            raise BusUnavailable(f"{subject}: {type(error).__name__}") from error
        return int(ack.seq)

    async def close(self, timeout: float = 5.0) -> None:
        """Finish what is under way and disconnect; never waits longer than `timeout` seconds."""
        self._closing = True
        try:
            async with asyncio.timeout(timeout):
                await self.broker.stop()
        except (TimeoutError, nats.errors.Error) as error:
            # drain() refuses while reconnecting, so a stop fails exactly when NATS is away.
            log.warning("bus_not_drained", error=type(error).__name__)
            await self.client.close()

    async def _on_error(self, error: Exception) -> None:
        BUS_ERRORS.labels(kind=type(error).__name__).inc()
        if isinstance(error, OSError):
            return  # one for each attempt to reconnect; the disconnect itself was told
        log.warning("bus_error", error=type(error).__name__, detail=str(error))

    async def _on_disconnected(self) -> None:
        DISCONNECTS.inc()
        if not self._closing:
            log.warning("bus_disconnected")

    async def _on_reconnected(self) -> None:
        log.info("bus_reconnected")
        await self.declare()
        for callback in self._reconnected:
            await callback()

    async def _on_closed(self) -> None:
        if not self._closing:
            # A closed connection never comes back, and pull subscribers on it spin without yielding.
            log.critical("bus_closed")
            os._exit(EXIT_BUS_CLOSED)


async def _finished(subscriber: Any) -> None:
    """FastStream's own stop throws away what has arrived and has not been begun: nobody else gets that."""
    subscription, subscriber.subscription = subscriber.subscription, None
    if subscription is None:
        return
    await subscription.drain()
    quiet = 0
    while quiet < QUIET_LOOKS:
        await asyncio.sleep(LOOK_EVERY_S)
        quiet = 0 if _is_busy(subscriber) else quiet + 1
    await subscriber.stop()


def _is_busy(subscriber: Any) -> bool:
    """Whether it has anything in hand; one with a single worker is done once it is drained."""
    limiter = getattr(subscriber, "limiter", None)
    if limiter is None:
        return False
    taken = subscriber.receive_stream.statistics().current_buffer_used
    waiting = limiter.statistics().tasks_waiting
    return bool(taken or waiting or limiter.value < subscriber.max_workers)
