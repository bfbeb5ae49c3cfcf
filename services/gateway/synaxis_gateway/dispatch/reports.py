"""Call reports on their way to the bus: kept until it has stored them, and a while longer.

A message carries what has come together within `GATHER_S`, a line a report. Once formed it stays as
it is, with its id, however often it is sent: JetStream drops what comes under an id that it has seen.

NATS may lose its disk with reports on it that no registry has read. So what it has stored is kept for another
`KEPT_S` and sent again after every reconnect; the ledger knows a request by its id, and takes it once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import msgspec

from synaxis_common import ids, subjects
from synaxis_common.bus import Bus, BusUnavailable
from synaxis_common.clock import Clock
from synaxis_common.contracts.usage import BATCH_BYTES, BATCH_REPORTS, join_reports
from synaxis_common.logging import get_logger
from synaxis_gateway import metrics
from synaxis_gateway.spool import Abandoned, Segment, Spool

log = get_logger(__name__)

GATHER_S: Final = 0.05
"""How long a report waits for company. A message and its acknowledgement take the gateway half a millisecond
or more, in which it serves nobody: with 20 of them a second few requests meet one."""
LANES: Final = 4
"""Messages that wait for the bus at once: one that is not acknowledged does not hold up the others."""
FIRST_DELAY_S = 0.2
MAX_DELAY_S = 10.0
ADOPT_EVERY_S = 15.0
"""How often a gateway looks for what gateways that are gone have left in the spool."""
KEPT_S = 60.0
"""Seconds after it was stored; a registry that was killed with a report in its hands holds it up for 30."""


@dataclass(frozen=True, slots=True, eq=False)
class _Batch:
    """One message, as it is sent each time."""

    message_id: str
    payload: bytes
    count: int
    segments: Mapping[Segment, int]
    """How many of its reports are in each file of the spool."""


class _Gathered:
    """Reports that become one message, which is made of them bit by bit: nobody waits while it is made."""

    __slots__ = ("_first", "_payloads", "_segments", "_size")

    def __init__(self) -> None:
        self._first = ""
        self._payloads: list[bytes] = []
        self._size = 0
        self._segments: dict[Segment, int] = {}

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._payloads)

    def has_room_for(self, payload: bytes) -> bool:
        """Whether a message with one more is within the bounds; one alone always is."""
        count = len(self._payloads)
        return not count or (count < BATCH_REPORTS and self._size + len(payload) < BATCH_BYTES)

    def add(self, request_id: str, payload: bytes, segment: Segment | None) -> None:
        """One more, and the file of the spool that it is in."""
        if not self._payloads:
            self._first = request_id
        self._payloads.append(payload)
        self._size += len(payload) + 1
        if segment is not None:
            self._segments[segment] = self._segments.get(segment, 0) + 1

    def batch(self) -> _Batch:
        """The message."""
        count = len(self._payloads)
        return _Batch(
            message_id=self._first if count == 1 else ids.uuid7_text(),
            payload=join_reports(self._payloads),
            count=count,
            segments=self._segments,
        )


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
        self._gathered = _Gathered()
        self._formed: deque[_Batch] = deque()
        self._waiting = 0
        """Reports that the bus has not stored: gathered, formed, or under way."""
        self._kept: deque[tuple[float, _Batch]] = deque()
        """What is stored, with when that was; no more of it than `capacity` reports."""
        self._kept_count = 0
        self._is_stuck = False
        """The bus did not take what it was last given."""
        self._gathering = asyncio.Lock()
        self._some = asyncio.Event()
        """Something is gathered or formed."""
        self._full = asyncio.Event()
        """A message is formed: waiting for more would bring nothing."""
        self._none = asyncio.Event()
        self._none.set()
        metrics.REPORTS_WAITING.set_function(lambda: self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether requests must be refused, because what they use could not be reported."""
        return self._waiting >= self._capacity

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
        self._expect(1)
        segment = None if self._spool is None else self._spool.append(payload)
        if not self._gathered.has_room_for(payload):
            self._form()
        self._gathered.add(request_id, payload, segment)
        self._some.set()

    async def send_again(self) -> None:
        """The bus may have lost what it had stored."""
        self._forget_old()
        again, self._kept, self._kept_count = self._kept, deque(), 0
        for _, batch in again:
            self._expect(batch.count)
            self._formed.append(batch)
            self._tell()
            metrics.REPORTS_REPEATED.inc(batch.count)

    async def run(self) -> None:
        """Publish until cancelled."""
        lanes = [asyncio.create_task(self._publish()) for _ in range(LANES)]
        try:
            await asyncio.gather(*lanes)
        finally:
            for lane in lanes:
                lane.cancel()
            await asyncio.wait(lanes)

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
                log.error("call_reports_lost", count=self._waiting)
            else:
                log.warning("call_reports_left_in_spool", count=self._waiting)
        while self._kept:
            self._forget_oldest()
        return self._waiting

    def _expect(self, count: int) -> None:
        self._waiting += count
        self._none.clear()

    async def _publish(self) -> None:
        """Publish one batch after another. One that is not stored is sent again after a while, as it is."""
        delay = FIRST_DELAY_S
        while True:
            batch = await self._next_batch()
            try:
                is_stored = await self._store(batch)
            except asyncio.CancelledError:
                self._put_back(batch)
                raise
            self._is_stuck = not is_stored
            if is_stored:
                self._keep(batch)
                delay = FIRST_DELAY_S
                continue
            self._put_back(batch)
            metrics.REPORTS_RETRIED.inc(batch.count)
            log.warning("call_reports_not_stored", waiting=self._waiting, retry_in_s=delay)
            await asyncio.sleep(delay)
            delay = min(delay * 2, MAX_DELAY_S)

    async def _next_batch(self) -> _Batch:
        async with self._gathering:
            while not self._formed:
                self._some.clear()
                self._full.clear()
                if not self._gathered:
                    await self._some.wait()
                    continue
                with suppress(TimeoutError):
                    async with asyncio.timeout(GATHER_S):
                        await self._full.wait()
                if not self._formed:
                    self._form()
            return self._formed.popleft()

    def _form(self) -> None:
        """What is gathered is a message now."""
        self._formed.append(self._gathered.batch())
        self._gathered = _Gathered()
        self._tell()

    def _put_back(self, batch: _Batch) -> None:
        self._formed.appendleft(batch)
        self._tell()

    def _tell(self) -> None:
        self._some.set()
        self._full.set()

    def _keep(self, batch: _Batch) -> None:
        self._waiting -= batch.count
        if not self._waiting:
            self._none.set()
        self._kept.append((self._clock.monotonic(), batch))
        self._kept_count += batch.count
        while self._kept_count > self._capacity:
            self._forget_oldest()

    def _forget_old(self) -> None:
        now = self._clock.monotonic()
        while self._kept and now - self._kept[0][0] > KEPT_S:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        _, batch = self._kept.popleft()
        self._kept_count -= batch.count
        for segment, count in batch.segments.items():
            if self._spool is not None:
                self._spool.stored(segment, count)

    async def _store(self, batch: _Batch) -> bool:
        try:
            await self._bus.store(subjects.USAGE, batch.payload, batch.message_id)
        except BusUnavailable:
            return False
        return True

    async def _adopt(self, left: Abandoned) -> None:
        try:
            found = await asyncio.to_thread(left.reports)
            for batch in _batches(found):
                while not await self._store(batch):  # noqa: ASYNC110 - the bus says nothing
                    await asyncio.sleep(FIRST_DELAY_S)
        except BaseException:
            left.let_go()
            raise
        await asyncio.to_thread(left.remove)
        metrics.REPORTS_ADOPTED.inc(len(found))
        log.info("call_reports_adopted", folder=left.folder.name, count=len(found))


def _request_id(payload: bytes) -> str:
    return msgspec.json.decode(payload, type=_Named).request_id


def _batches(reports: Iterable[bytes]) -> Iterator[_Batch]:
    """Reports, in their order, in messages within the bounds."""
    gathered = _Gathered()
    for payload in reports:
        if not gathered.has_room_for(payload):
            yield gathered.batch()
            gathered = _Gathered()
        gathered.add(_request_id(payload), payload, None)
    if gathered:
        yield gathered.batch()
