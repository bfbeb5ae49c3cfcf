"""Call reports on their way to the bus: kept until it has stored them, however long that takes."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

import msgspec

from synaxis_common import subjects
from synaxis_common.bus import Bus, BusUnavailable
from synaxis_common.contracts.usage import CallReport
from synaxis_common.logging import get_logger
from synaxis_gateway import metrics
from synaxis_gateway.spool import Abandoned, Segment, Spool

log = get_logger(__name__)

BATCH = 128
"""Reports that wait for the bus at once."""
FIRST_DELAY_S = 0.2
MAX_DELAY_S = 10.0
ADOPT_EVERY_S = 15.0
"""How often a gateway looks for what gateways that are gone have left in the spool."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    message_id: str
    payload: bytes
    segment: Segment | None


class _Named(msgspec.Struct):
    """What must be known of a report to send it on, whatever release wrote it."""

    request_id: str


class Reports:
    """A bounded queue with a background publisher, and a spool on disk where there is one."""

    def __init__(self, bus: Bus, capacity: int, spool: Spool | None) -> None:
        self._bus = bus
        self._capacity = capacity
        self._spool = spool
        self._waiting: deque[_Waiting] = deque()
        self._some = asyncio.Event()
        self._none = asyncio.Event()
        self._none.set()

    @property
    def is_full(self) -> bool:
        """Whether requests must be refused, because what they use could not be reported."""
        return len(self._waiting) >= self._capacity

    def problem(self) -> str | None:
        """Why the reports keep the gateway from being ready."""
        if self.is_full:
            return "call reports cannot be stored"
        return None if self._spool is None else self._spool.problem()

    def submit(self, report: CallReport) -> None:
        """Have `report` stored. When this returns it is in the spool.

        Never waits, never refuses: the request is done, and was not free.
        """
        payload = report.to_bytes()
        segment = None if self._spool is None else self._spool.append(payload)
        self._waiting.append(_Waiting(str(report.request_id), payload, segment))
        metrics.REPORTS_WAITING.set(len(self._waiting))
        self._some.set()
        self._none.clear()

    async def run(self) -> None:
        """Publish until cancelled."""
        delay = FIRST_DELAY_S
        while True:
            await self._some.wait()
            if await self._publish_some():
                delay = FIRST_DELAY_S
                continue
            log.warning("call_reports_not_stored", waiting=len(self._waiting), retry_in_s=delay)
            await asyncio.sleep(delay)
            delay = min(delay * 2, MAX_DELAY_S)

    async def adopt(self) -> None:
        """Publish what gateways that are gone have left in the spool, for ever."""
        spool = self._spool
        if spool is None:
            return
        while True:
            for left in spool.abandoned():
                await self._adopt(left)
            await asyncio.sleep(ADOPT_EVERY_S)

    async def flush(self, timeout: float) -> int:
        """Wait until all is stored, at most `timeout` seconds; answers how many are not."""
        try:
            async with asyncio.timeout(timeout):
                await self._none.wait()
        except TimeoutError:
            if self._spool is None:
                log.error("call_reports_lost", count=len(self._waiting))
            else:
                log.warning("call_reports_left_in_spool", count=len(self._waiting))
        return len(self._waiting)

    async def _publish_some(self) -> bool:
        """Publish a batch. False: some of it stays in the queue, to be sent again with the same id."""
        batch = [self._waiting[position] for position in range(min(BATCH, len(self._waiting)))]
        stored = await asyncio.gather(*(self._store(one.message_id, one.payload) for one in batch))
        for _ in batch:
            self._waiting.popleft()
        failed = [one for one, done in zip(batch, stored, strict=True) if not done]
        for one, done in zip(batch, stored, strict=True):
            if done and one.segment is not None and self._spool is not None:
                self._spool.stored(one.segment)
        self._waiting.extendleft(reversed(failed))
        metrics.REPORTS_RETRIED.inc(len(failed))
        metrics.REPORTS_WAITING.set(len(self._waiting))
        if not self._waiting:
            self._some.clear()
            self._none.set()
        return not failed

    async def _store(self, message_id: str, payload: bytes) -> bool:
        try:
            await self._bus.store(subjects.USAGE, payload, message_id)
        except BusUnavailable:
            return False
        return True

    async def _adopt(self, left: Abandoned) -> None:
        try:
            found = await asyncio.to_thread(left.reports)
            for payload in found:
                message_id = msgspec.json.decode(payload, type=_Named).request_id
                while not await self._store(message_id, payload):  # noqa: ASYNC110 - the bus says nothing
                    await asyncio.sleep(FIRST_DELAY_S)
        except BaseException:
            left.let_go()
            raise
        await asyncio.to_thread(left.remove)
        metrics.REPORTS_ADOPTED.inc(len(found))
        log.info("call_reports_adopted", folder=left.folder.name, count=len(found))
