"""Questions answered byte for byte on a plain subscription, where FastStream's way to a handler is too dear.

FastStream takes half a millisecond a question, ten times what a question on the hot path needs itself; what
is asked seldom is better off there, where messages are validated and documented by their types.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from prometheus_client import Counter, Gauge

from synaxis_common.logging import get_logger
from synaxis_common.slices import SLICE_S

log = get_logger(__name__)

WITHIN_S = 10.0
"""Nobody waits longer for an answer."""
CORRELATION = "correlation_id"
"""The header by which whoever asks through FastStream knows an answer again."""

IN_HAND = Gauge(
    "synaxis_answers_in_hand", "Questions that wait for something else to be answered", ["subject"]
)
WAITING = Gauge("synaxis_answers_waiting", "Questions that have come and were not looked at yet", ["subject"])
UNSENT = Counter("synaxis_answers_unsent_total", "Answers that could not be sent", ["subject"])

Answer = bytes | None
"""None: whoever asked is not answered."""
Handler = Callable[[bytes], Answer | Awaitable[Answer]]
"""Answers at once what it can, for which no task is made; else it answers something to wait for."""
Failed = Callable[[str, Exception], None]
"""Hears of a subject and the error that kept a question on it from being answered."""


class Answers:
    """Has a handler answer the questions on a subject, of which at most `workers` wait at a time."""

    def __init__(self, subject: str, queue: str, handler: Handler, workers: int, failed: Failed) -> None:
        self._subject, self._queue = subject, queue
        self._handler, self._workers, self._failed = handler, workers, failed
        self._subscription: Subscription | None = None
        self._client: Client | None = None
        self._waiting: set[asyncio.Task[None]] = set()
        self._one_is_done = asyncio.Event()
        self._slice_ends = 0.0

    async def start(self, client: Client) -> None:
        """Take questions from now on."""
        self._client = client
        self._subscription = await client.subscribe(self._subject, queue=self._queue, cb=self._take)
        IN_HAND.labels(self._subject).set_function(lambda: len(self._waiting))
        WAITING.labels(self._subject).set_function(self._unlooked_at)

    async def stop(self) -> None:
        """Take no more questions, and answer all that have come."""
        subscription, self._subscription = self._subscription, None
        if subscription is None:
            return
        await subscription.drain()  # type: ignore[no-untyped-call]
        if self._waiting:
            await asyncio.wait(self._waiting)

    def _unlooked_at(self) -> int:
        return 0 if self._subscription is None else int(self._subscription.pending_msgs)

    async def _take(self, message: Msg) -> None:
        """One question; the next one is not looked at before this returns."""
        while len(self._waiting) >= self._workers:
            self._one_is_done.clear()
            await self._one_is_done.wait()
        try:
            answer = self._handler(message.data)
        except Exception as error:  # noqa: BLE001 - one question must not keep the others from being answered
            self._failed(self._subject, error)
            return
        if answer is None or isinstance(answer, bytes):
            await self._send(message, answer)
            await self._give_way()
            return
        task = asyncio.ensure_future(self._send_later(message, answer))
        self._waiting.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._waiting.discard(task)
        self._one_is_done.set()

    async def _send_later(self, message: Msg, answer: Awaitable[Answer]) -> None:
        try:
            async with asyncio.timeout(WITHIN_S):
                found = await answer
        except Exception as error:  # noqa: BLE001 - whoever asked gets no answer, and asks again or gives up
            self._failed(self._subject, error)
        else:
            await self._send(message, found)

    async def _send(self, message: Msg, answer: Answer) -> None:
        if answer is None or not message.reply or self._client is None:
            return
        correlation = message.headers and message.headers.get(CORRELATION)
        try:
            await self._client.publish(
                message.reply, answer, headers={CORRELATION: correlation} if correlation else None
            )
        except nats.errors.Error as error:
            UNSENT.labels(self._subject).inc()
            log.warning("answer_not_sent", subject=self._subject, error=type(error).__name__)

    async def _give_way(self) -> None:
        """What has come is otherwise answered in one go, though others have been ready for long."""
        now = time.monotonic()
        if now >= self._slice_ends:
            await asyncio.sleep(0)
            self._slice_ends = time.monotonic() + SLICE_S
