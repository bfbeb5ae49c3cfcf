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
PARTS_AT_ONCE = 500
"""From so many on no further message joins what a handler takes at once."""


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
DeadLetter = Callable[[Delivery, str], Awaitable[None]]
Split = Callable[[bytes], Sequence[bytes]]


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
        if await self._is_set_aside(delivery, reason):
            await message.ack()
        else:
            await message.nak(delay=1.0)

    async def _is_set_aside(self, delivery: Delivery, reason: str) -> bool:
        try:
            await self._dead_letter(delivery, reason)
        except TryLater:
            return False
        HANDLED.labels(self._spec.durable, "dead_letter").inc()
        log.error("message_set_aside", consumer=self._spec.durable, subject=delivery.subject, reason=reason)
        return True


async def _release(messages: Sequence[Msg]) -> None:
    """Let other consumers have what this one has not answered for, at once."""
    for message in messages:
        if not message.is_acked:
            await message.nak()


def _delay(delivery: Delivery) -> float:
    """How long a message waits that could not be handled, in seconds: longer each time."""
    return float(min(0.5 * 2 ** min(delivery.num_delivered - 1, 10), MAX_RETRY_DELAY_S))


@dataclass(frozen=True, slots=True)
class _Part:
    """What is handled or set aside on its own: a message, or one of several things that it carries."""

    message: int
    """The place of its message among those that were fetched."""
    delivery: Delivery


class BatchConsumer(DurableConsumer):
    """As `DurableConsumer`, for a handler that takes many deliveries at once, or none of them.

    `split` takes a message apart that carries several things: each is a delivery of its own. What fails
    together is halved until the one that is to blame stands alone; what becomes of that one is as with
    `DurableConsumer`, and the others are handled. TryLater is said of all that were handed over together. A
    message of which anything must come again comes as a whole, so the handler has to know what it has done.
    """

    def __init__(
        self,
        bus: Bus,
        spec: ConsumerSpec,
        handler: BatchHandler,
        dead_letter: DeadLetter,
        split: Split = lambda data: [data],
    ) -> None:
        async def alone(delivery: Delivery) -> None:
            await handler([delivery])

        super().__init__(bus, spec, alone, dead_letter)
        self._batch_handler, self._split = handler, split

    async def _handle_all(self, messages: Sequence[Msg]) -> None:
        loop = asyncio.get_running_loop()
        asked_for_time = loop.time()
        begin = 0
        try:
            while begin < len(messages):
                if loop.time() - asked_for_time > self._spec.ack_wait_s / 3:
                    for message in messages[begin:]:
                        await message.in_progress()
                    asked_for_time = loop.time()
                parts: list[_Part] = []
                end = begin
                while end < len(messages) and len(parts) < PARTS_AT_ONCE:
                    delivery = self._delivery(messages[end])
                    parts += [_Part(end, replace(delivery, data=d)) for d in self._split(delivery.data)]
                    end += 1
                await self._settle(messages, range(begin, end), parts)
                begin = end
        except asyncio.CancelledError:
            await _release(messages)
            raise

    async def _settle(self, messages: Sequence[Msg], numbers: range, parts: list[_Part]) -> None:
        """Handle these messages, of which `parts` are all there is, and answer for each."""
        spec = self._spec
        again: dict[int, str] = {}
        """Messages that must come again, and what is counted of them."""
        poison: list[tuple[_Part, str]] = []
        good: set[int] = set()
        waiting = [parts]
        while waiting:
            batch = waiting.pop()
            try:
                await self._batch_handler([part.delivery for part in batch])
            except TryLater as reason:
                again |= dict.fromkeys((part.message for part in batch), "retried")
                log.warning("batch_delayed", consumer=spec.durable, parts=len(batch), reason=str(reason))
            except Exception as error:
                if len(batch) > 1:  # whose fault it is shows when each stands alone
                    log.warning(
                        "batch_halved", consumer=spec.durable, parts=len(batch), error=type(error).__name__
                    )
                    half = len(batch) // 2
                    waiting += [batch[half:], batch[:half]]
                elif isinstance(error, Poison):
                    poison.append((batch[0], str(error)))
                else:
                    tried = batch[0].delivery.num_delivered
                    log.exception("message_failed", consumer=spec.durable, delivery=tried)
                    if tried >= spec.max_attempts:
                        poison.append((batch[0], f"{type(error).__name__}: {error}"))
                    else:
                        again[batch[0].message] = "failed"
            else:
                good |= {part.message for part in batch}
        for part, why in poison:
            # What comes again as a whole is set aside then, so that it is set aside once.
            if part.message not in again and not await self._is_set_aside(part.delivery, why):
                again[part.message] = "retried"
        for number in numbers:
            message = messages[number]
            if number in again:
                HANDLED.labels(spec.durable, again[number]).inc()
                await message.nak(delay=_delay(self._delivery(message)))
                continue
            if number in good:
                HANDLED.labels(spec.durable, "handled").inc()
            await message.ack()
