"""Call reports on their way to the bus: kept until it has stored them, and a while longer.

NATS may lose its disk with reports on it that no registry has read. So what it has stored is kept for another
`KEPT_S` and sent again after every reconnect; the ledger knows a request by its id, and takes it once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

import msgspec

from synaxis_common import ids, subjects
from synaxis_common.bus import Bus, BusUnavailable
from synaxis_common.clock import Clock
from synaxis_common.contracts.usage import join_reports
from synaxis_common.logging import get_logger
from synaxis_gateway import metrics
from synaxis_gateway.spool import Abandoned, Segment, Spool

log = get_logger(__name__)

GATHER_S = 0.005
"""How long a report waits for others, to go out with them in one message."""
BATCH = 128
"""Reports in a message."""
BATCH_BYTES = 256 * 1024
"""In a message, but for a single report that is larger: a quarter of what NATS takes."""
IN_FLIGHT = 8
"""Messages that wait for the bus at once."""
FIRST_DELAY_S = 0.2
MAX_DELAY_S = 10.0
ADOPT_EVERY_S = 15.0
"""How often a gateway looks for what gateways that are gone have left in the spool."""
KEPT_S = 60.0
"""Seconds after it was stored; a registry that was killed with a report in its hands holds it up for 30."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    request_id: str
    payload: bytes
    segment: Segment | None


@dataclass(frozen=True, slots=True)
class _Batch:
    """What goes out in one message. Once made it stays as it is, however often it is sent: with other reports
    under the same id JetStream would take it for a duplicate."""

    message_id: str
    payload: bytes
    reports: tuple[_Waiting, ...]


def _next_batch(waiting: deque[_Waiting]) -> _Batch:
    """Take as many reports as go into one message."""
    reports = [waiting.popleft()]
    size = len(reports[0].payload)
    while waiting and len(reports) < BATCH and size + len(waiting[0].payload) < BATCH_BYTES:
        size += len(waiting[0].payload) + 1
        reports.append(waiting.popleft())
    # A report by itself is known by its request's id, as it is in the ledger.
    message_id = reports[0].request_id if len(reports) == 1 else ids.uuid7_text()
    return _Batch(message_id, join_reports([one.payload for one in reports]), tuple(reports))


class _Named(msgspec.Struct):
    """What must be known of a report to send it on, whatever release wrote it."""

    request_id: str


class Reports:
    """A bounded queue with a background publisher, and a spool on disk where there is one."""

    def __init__(self, bus: Bus, clock: Clock, capacity: int, spool: Spool | None) -> None:
        self._bus = bus
        self._clock = clock
        self._capacity = capacity
        self._spool = spool
        self._waiting: deque[_Waiting] = deque()
        self._unsent: deque[_Batch] = deque()
        self._count = 0
        """Reports in both of these."""
        self._kept: deque[tuple[float, _Batch]] = deque()
        """What is stored, with when that was; no more reports than `capacity`."""
        self._kept_count = 0
        self._is_stuck = False
        """The bus did not take what it was last given."""
        self._some = asyncio.Event()
        self._none = asyncio.Event()
        self._none.set()

    @property
    def is_full(self) -> bool:
        """Whether requests must be refused, because what they use could not be reported."""
        return self._count >= self._capacity

    def problem(self) -> str | None:
        """Why the reports keep the gateway from being ready."""
        if self.is_full:
            return "call reports cannot be stored"
        return None if self._spool is None else self._spool.problem()

    @property
    def may_be_lost(self) -> bool:
        """Whether what limited tenants use could go unaccounted for: neither disk nor bus takes a report."""
        return self._is_stuck and self._spool is not None and self._spool.problem() is not None

    def submit(self, request_id: str, payload: bytes) -> None:
        """Have a report stored, which is a `CallReport` in JSON. When this returns it is in the spool.

        Never waits, never refuses: the request is done, and was not free.
        """
        segment = None if self._spool is None else self._spool.append(payload)
        self._waiting.append(_Waiting(request_id, payload, segment))
        self._count += 1
        if self._count == 1:
            self._some.set()
            self._none.clear()

    async def send_again(self) -> None:
        """The bus may have lost what it had stored."""
        self._forget_old()
        again, self._kept = self._kept, deque()
        count, self._kept_count = self._kept_count, 0
        self._unsent.extend(batch for _, batch in again)
        self._count += count
        if self._count:
            self._some.set()
            self._none.clear()
        metrics.REPORTS_REPEATED.inc(count)

    async def run(self) -> None:
        """Publish until cancelled."""
        delay = FIRST_DELAY_S
        while True:
            await self._some.wait()
            if len(self._waiting) < BATCH:
                await asyncio.sleep(GATHER_S)
            if await self._publish_some():
                delay = FIRST_DELAY_S
                continue
            log.warning("call_reports_not_stored", waiting=self._count, retry_in_s=delay)
            await asyncio.sleep(delay)
            delay = min(delay * 2, MAX_DELAY_S)

    async def adopt(self) -> None:
        """Publish what gateways that are gone have left in the spool, and forget what is safe, for ever."""
        while True:
            self._forget_old()
            for left in () if self._spool is None else self._spool.abandoned():
                await self._adopt(left)
            await asyncio.sleep(ADOPT_EVERY_S)

    async def flush(self, timeout: float) -> int:
        """Wait until all is stored, at most `timeout` seconds; answers how many are not."""
        try:
            async with asyncio.timeout(timeout):
                await self._none.wait()
        except TimeoutError:
            if self._spool is None:
                log.error("call_reports_lost", count=self._count)
            else:
                log.warning("call_reports_left_in_spool", count=self._count)
        self._forget(len(self._kept))
        return self._count

    def _keep(self, batch: _Batch) -> None:
        self._kept.append((self._clock.monotonic(), batch))
        self._kept_count += len(batch.reports)
        while self._kept_count > self._capacity:
            self._forget(1)

    def _forget_old(self) -> None:
        now = self._clock.monotonic()
        self._forget(sum(now - since > KEPT_S for since, _ in self._kept))

    def _forget(self, count: int) -> None:
        for _ in range(count):
            _, batch = self._kept.popleft()
            self._kept_count -= len(batch.reports)
            for one in batch.reports:
                if one.segment is not None and self._spool is not None:
                    self._spool.stored(one.segment)

    async def _publish_some(self) -> bool:
        """Publish some messages. False: some stay in the queue, to be sent again as they are."""
        self._gather()
        batches = [self._unsent.popleft() for _ in range(min(IN_FLIGHT, len(self._unsent)))]
        stored = await asyncio.gather(*(self._store(one.message_id, one.payload) for one in batches))
        failed = [one for one, done in zip(batches, stored, strict=True) if not done]
        for one, done in zip(batches, stored, strict=True):
            if done:
                self._keep(one)
                self._count -= len(one.reports)
        self._unsent.extendleft(reversed(failed))
        self._is_stuck = bool(failed)
        metrics.REPORTS_RETRIED.inc(sum(len(one.reports) for one in failed))
        metrics.REPORTS_WAITING.set(self._count)
        if not self._count:
            self._some.clear()
            self._none.set()
        return not failed

    def _gather(self) -> None:
        """Make messages of what waits, as many as go out at once."""
        while self._waiting and len(self._unsent) < IN_FLIGHT:
            self._unsent.append(_next_batch(self._waiting))

    async def _store(self, message_id: str, payload: bytes) -> bool:
        try:
            await self._bus.store(subjects.USAGE, payload, message_id)
        except BusUnavailable:
            return False
        return True

    async def _adopt(self, left: Abandoned) -> None:
        try:
            found = await asyncio.to_thread(left.reports)
            waiting = deque(
                _Waiting(msgspec.json.decode(one, type=_Named).request_id, one, None) for one in found
            )
            while waiting:
                batch = _next_batch(waiting)
                while not await self._store(batch.message_id, batch.payload):  # noqa: ASYNC110 - it says nothing
                    await asyncio.sleep(FIRST_DELAY_S)
        except BaseException:
            left.let_go()
            raise
        await asyncio.to_thread(left.remove)
        metrics.REPORTS_ADOPTED.inc(len(found))
        log.info("call_reports_adopted", folder=left.folder.name, count=len(found))
