"""Call reports on their way to the bus: kept until it has stored them, and a while longer.

NATS may lose its disk with reports on it that no registry has read. So what it has stored is kept for another
`KEPT_S` and sent again after every reconnect; the ledger knows a request by its id, and takes it once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

import msgspec

from synaxis_common import subjects
from synaxis_common.bus import Bus, BusUnavailable
from synaxis_common.clock import Clock
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
KEPT_S = 60.0
"""Seconds after it was stored; a registry that was killed with a report in its hands holds it up for 30."""


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

    def __init__(self, bus: Bus, clock: Clock, capacity: int, spool: Spool | None) -> None:
        self._bus = bus
        self._clock = clock
        self._capacity = capacity
        self._spool = spool
        self._waiting: deque[_Waiting] = deque()
        self._kept: deque[tuple[float, _Waiting]] = deque()
        """What is stored, with when that was; no more of it than `capacity`."""
        self._is_stuck = False
        """The bus did not take what it was last given."""
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

    @property
    def may_be_lost(self) -> bool:
        """Whether what limited tenants use could go unaccounted for: neither disk nor bus takes a report."""
        return self._is_stuck and self._spool is not None and self._spool.problem() is not None

    def submit(self, request_id: str, payload: bytes) -> None:
        """Have a report stored, which is a `CallReport` in JSON. When this returns it is in the spool.

        Never waits, never refuses: the request is done, and was not free.
        """
        segment = None if self._spool is None else self._spool.append(payload)
        self._wait(_Waiting(request_id, payload, segment))

    async def send_again(self) -> None:
        """The bus may have lost what it had stored."""
        self._forget_old()
        again, self._kept = self._kept, deque()
        for _, one in again:
            self._wait(one)
        metrics.REPORTS_REPEATED.inc(len(again))

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
                log.error("call_reports_lost", count=len(self._waiting))
            else:
                log.warning("call_reports_left_in_spool", count=len(self._waiting))
        self._forget(len(self._kept))
        return len(self._waiting)

    def _wait(self, one: _Waiting) -> None:
        self._waiting.append(one)
        metrics.REPORTS_WAITING.set(len(self._waiting))
        self._some.set()
        self._none.clear()

    def _keep(self, one: _Waiting) -> None:
        self._kept.append((self._clock.monotonic(), one))
        self._forget(len(self._kept) - self._capacity)

    def _forget_old(self) -> None:
        now = self._clock.monotonic()
        self._forget(sum(now - since > KEPT_S for since, _ in self._kept))

    def _forget(self, count: int) -> None:
        for _ in range(count):
            _, one = self._kept.popleft()
            if one.segment is not None and self._spool is not None:
                self._spool.stored(one.segment)

    async def _publish_some(self) -> bool:
        """Publish a batch. False: some of it stays in the queue, to be sent again with the same id."""
        batch = [self._waiting[position] for position in range(min(BATCH, len(self._waiting)))]
        stored = await asyncio.gather(*(self._store(one.message_id, one.payload) for one in batch))
        for _ in batch:
            self._waiting.popleft()
        failed = [one for one, done in zip(batch, stored, strict=True) if not done]
        for one, done in zip(batch, stored, strict=True):
            if done:
                self._keep(one)
        self._waiting.extendleft(reversed(failed))
        self._is_stuck = bool(failed)
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
