"""A durable JetStream consumer that loses nothing: acknowledges after the work is done, and only then.

FastStream's subscribers delete a message whose handler raised once, use up all deliveries within
milliseconds on a plain nak, and stay silent for ever when the consumer is deleted on the server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from prometheus_client import Counter

from synaxis_common.bus import Bus
from synaxis_common.logging import get_logger

log = get_logger(__name__)

HANDLED = Counter(
    "synaxis_consumer_messages_total",
    "Messages of a durable consumer, by what came of them",
    ["consumer", "outcome"],
)

FETCH_TIMEOUT_S = 0.4
"""After a restart of the server a fetch waits out its time before it asks again, and so does a consumer that
stops: keep it short."""
CHECK_AFTER = 12
"""Fetches without a message (some 5 s) after which it is asked whether the consumer is still there."""
MAX_RETRY_DELAY_S = 30.0


class Poison(Exception):
    """The message can never be handled: set it aside."""


class TryLater(Exception):
    """The message is fine, something it needs is away: deliver it again, however often."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One delivery of one message."""

    stream: str
    subject: str
    data: bytes
    stream_sequence: int
    num_delivered: int


Handler = Callable[[Delivery], Awaitable[None]]
BatchHandler = Callable[[Sequence[Delivery]], Awaitable[None]]
Split = Callable[[bytes], Sequence[bytes]]
DeadLetter = Callable[[Delivery, str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class ConsumerSpec:
    """A durable consumer. Replicas that give the same spec share its messages."""

    stream: str
    durable: str
    max_ack_pending: int
    """In flight over all replicas; 1 keeps the order of the stream."""
    batch: int = 1
    ack_wait_s: float = 15.0
    max_attempts: int = 5
    """Unexpected failures of one message before it is set aside; TryLater does not count."""


class DurableConsumer:
    """Pulls messages of a durable consumer and hands them to a handler, one after another.

    The handler returns: acknowledged. It raises Poison: handed to `dead_letter`, then acknowledged.
    It raises TryLater: delivered again after a growing delay. Anything else: likewise, but at most
    `max_attempts` times, then set aside as poison.
    """

    def __init__(self, bus: Bus, spec: ConsumerSpec, handler: Handler, dead_letter: DeadLetter) -> None:
        self._bus, self._spec, self._handler, self._dead_letter = bus, spec, handler, dead_letter
        self.problem_now: str | None = "not started"

    def problem(self) -> str | None:
        """Why this consumer keeps the service from being ready."""
        return self.problem_now

    async def run(self) -> None:
        """Consume until cancelled; what is in hand at a cancellation goes back at once."""
        while True:
            try:
                subscription = await self._subscribe()
                try:
                    self.problem_now = None
                    await self._consume(subscription)
                finally:
                    await self._let_go(subscription)
            except (nats.errors.Error, OSError, TimeoutError) as error:
                self.problem_now = f"consumer {self._spec.durable}: {type(error).__name__}"
                log.warning("consumer_lost", consumer=self._spec.durable, error=type(error).__name__)
                await asyncio.sleep(0.5)

    async def _subscribe(self) -> JetStreamContext.PullSubscription:
        spec = self._spec
        return await self._bus.jetstream.pull_subscribe(
            subject="",
            durable=spec.durable,
            stream=spec.stream,
            config=ConsumerConfig(
                durable_name=spec.durable,
                deliver_policy=DeliverPolicy.ALL,
                ack_policy=AckPolicy.EXPLICIT,
                ack_wait=spec.ack_wait_s,
                max_deliver=-1,
                max_ack_pending=spec.max_ack_pending,
            ),
        )

    async def _let_go(self, subscription: JetStreamContext.PullSubscription) -> None:
        """Give the inbox up: a drain would wait for what nobody reads any more."""
        try:
            await subscription.unsubscribe()
        except nats.errors.Error as error:
            log.debug("inbox_not_given_up", consumer=self._spec.durable, error=type(error).__name__)

    async def _consume(self, subscription: JetStreamContext.PullSubscription) -> None:
        quiet = 0
        while True:
            fetching = asyncio.ensure_future(subscription.fetch(self._spec.batch, timeout=FETCH_TIMEOUT_S))
            try:
                messages = await asyncio.shield(fetching)
            except asyncio.CancelledError:
                await self._give_back(fetching)
                raise
            except TimeoutError:
                quiet += 1
                if (
                    quiet % CHECK_AFTER == 0
                ):  # a consumer that was deleted on the server is silent, not an error
                    await subscription.consumer_info()
                continue
            quiet = 0
            await self._handle_all(messages)

    async def _handle_all(self, messages: Sequence[Msg]) -> None:
        """Handle what was fetched; a consumer that stops gives back what it has not handled."""
        for position, message in enumerate(messages):
            try:
                await self._handle(message)
            except asyncio.CancelledError:
                await _release(messages[position:])
                raise

    async def _give_back(self, fetching: asyncio.Future[list[Msg]]) -> None:
        """What arrives while this consumer stops goes to another one at once, not after `ack_wait`."""
        try:
            await _release(await fetching)
        except (TimeoutError, nats.errors.Error) as error:
            log.debug("nothing_given_back", consumer=self._spec.durable, error=type(error).__name__)

    async def _handle(self, message: Msg) -> None:
        spec = self._spec
        delivery = self._delivery(message)
        delay = _delay(delivery)
        try:
            await self._handler(delivery)
        except TryLater as reason:
            HANDLED.labels(spec.durable, "retried").inc()
            log.warning("message_delayed", consumer=spec.durable, reason=str(reason), retry_in_s=delay)
            await message.nak(delay=delay)
        except Poison as reason:
            await self._set_aside(message, delivery, str(reason))
        except Exception as error:
            log.exception("message_failed", consumer=spec.durable, delivery=delivery.num_delivered)
            if delivery.num_delivered >= spec.max_attempts:
                await self._set_aside(message, delivery, f"{type(error).__name__}: {error}")
            else:
                HANDLED.labels(spec.durable, "failed").inc()
                await message.nak(delay=delay)
        else:
            HANDLED.labels(spec.durable, "handled").inc()
            await message.ack()

    def _delivery(self, message: Msg) -> Delivery:
        return Delivery(
            stream=self._spec.stream,
            subject=message.subject,
            data=message.data,
            stream_sequence=message.metadata.sequence.stream,
            num_delivered=message.metadata.num_delivered or 1,
        )

    async def _set_aside(self, message: Msg, delivery: Delivery, reason: str) -> None:
        try:
            await self._bury(delivery, reason)
        except TryLater:
            await message.nak(delay=1.0)
            return
        await message.ack()

    async def _bury(self, delivery: Delivery, reason: str) -> None:
        await self._dead_letter(delivery, reason)
        HANDLED.labels(self._spec.durable, "dead_letter").inc()
        log.error("message_set_aside", consumer=self._spec.durable, subject=delivery.subject, reason=reason)


async def _release(messages: Sequence[Msg]) -> None:
    """Let other consumers have what this one has not answered for, at once."""
    for message in messages:
        if not message.is_acked:
            await message.nak()


def _delay(delivery: Delivery) -> float:
    """How long a message waits that could not be handled, in seconds: longer each time."""
    return float(min(0.5 * 2 ** min(delivery.num_delivered - 1, 10), MAX_RETRY_DELAY_S))


class BatchConsumer(DurableConsumer):
    """As `DurableConsumer`, for a handler that takes all that was fetched at once, or nothing of it.

    A batch that fails is halved until the message that is to blame stands alone; what becomes of that one is
    as with `DurableConsumer`, and the others are handled. TryLater is said of the whole batch. With `split` a
    message may hold several things: one that is to blame is set aside without its siblings.
    """

    def __init__(
        self,
        bus: Bus,
        spec: ConsumerSpec,
        handler: BatchHandler,
        dead_letter: DeadLetter,
        split: Split | None = None,
    ) -> None:
        async def alone(delivery: Delivery) -> None:
            parts = (delivery.data,) if split is None else split(delivery.data)
            if len(parts) == 1:
                await handler([delivery])
                return
            try:
                await handler([delivery])
            except TryLater:
                raise
            except Exception as error:  # noqa: BLE001 - whose fault it is shows when each stands alone
                log.warning(
                    "message_split", consumer=spec.durable, parts=len(parts), error=type(error).__name__
                )
                await self._handle_parts([replace(delivery, data=part) for part in parts])

        super().__init__(bus, spec, alone, dead_letter)
        self._batch_handler = handler

    async def _handle_parts(self, parts: Sequence[Delivery]) -> None:
        """Handle the parts of a message one by one; what is poison among them is set aside.

        Raises TryLater, and what else kept a part from being handled, when all others have been.
        """
        failure: Exception | None = None
        for part in parts:
            try:
                await self._batch_handler([part])
            except Poison as reason:
                await self._bury(part, str(reason))
            except TryLater:
                raise
            except Exception as error:  # noqa: BLE001 - raised when the others have been handled
                if part.num_delivered >= self._spec.max_attempts:
                    await self._bury(part, f"{type(error).__name__}: {error}")
                else:
                    failure = error
        if failure is not None:
            raise failure

    async def _handle_all(self, messages: Sequence[Msg]) -> None:
        waiting = [messages]
        try:
            while waiting:
                batch = waiting.pop()
                if len(batch) == 1:
                    await self._handle(batch[0])
                elif not await self._handle_batch(batch):
                    half = len(batch) // 2
                    waiting += [batch[half:], batch[:half]]
        except asyncio.CancelledError:
            for untouched in (batch, *waiting):
                await _release(untouched)
            raise

    async def _handle_batch(self, batch: Sequence[Msg]) -> bool:
        """Handle several messages together. False: one of them is to blame that it failed."""
        spec = self._spec
        deliveries = [self._delivery(message) for message in batch]
        try:
            await self._batch_handler(deliveries)
        except TryLater as reason:
            HANDLED.labels(spec.durable, "retried").inc(len(batch))
            log.warning("batch_delayed", consumer=spec.durable, messages=len(batch), reason=str(reason))
            for message, delivery in zip(batch, deliveries, strict=True):
                await message.nak(delay=_delay(delivery))
        except Exception as error:  # noqa: BLE001 - whose fault it is shows when each stands alone
            log.warning(
                "batch_halved", consumer=spec.durable, messages=len(batch), error=type(error).__name__
            )
            return False
        else:
            HANDLED.labels(spec.durable, "handled").inc(len(batch))
            for message in batch:
                await message.ack()
        return True
