"""Call reports on their way to the bus: kept until it has stored them, however long that takes."""

from __future__ import annotations

import asyncio
from collections import deque

from synaxis_common import subjects
from synaxis_common.bus import Bus, BusUnavailable
from synaxis_common.contracts.routing import LeaseReturn
from synaxis_common.contracts.usage import CallReport
from synaxis_common.logging import get_logger
from synaxis_gateway import metrics

log = get_logger(__name__)

BATCH = 64
"""Reports that wait for the bus at once."""
FIRST_DELAY_S = 0.2
MAX_DELAY_S = 10.0


class Reports:
    """A bounded queue with a background publisher. What a killed gateway held is lost."""

    def __init__(self, bus: Bus, capacity: int) -> None:
        self._bus = bus
        self._capacity = capacity
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._returns: deque[LeaseReturn] = deque()
        self._some = asyncio.Event()
        self._none = asyncio.Event()
        self._none.set()

    @property
    def is_full(self) -> bool:
        """Whether requests must be refused, because what they use could not be reported."""
        return len(self._waiting) >= self._capacity

    def problem(self) -> str | None:
        """Why the reports keep the gateway from being ready."""
        return "call reports cannot be stored" if self.is_full else None

    def submit(self, report: CallReport) -> None:
        """Have `report` stored. Never waits, never refuses: the request is done, and was not free."""
        self._waiting.append((str(report.request_id), report.to_bytes()))
        self._wake()

    def give_back(self, unused: LeaseReturn) -> None:
        """Tell the registry at once of a permit that was not used; if it does not hear, it lapses."""
        self._returns.append(unused)
        self._wake()

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

    async def flush(self, timeout: float) -> int:
        """Wait until all is stored, at most `timeout` seconds; answers how many are not."""
        try:
            async with asyncio.timeout(timeout):
                await self._none.wait()
        except TimeoutError:
            log.error("call_reports_lost", count=len(self._waiting))
        return len(self._waiting)

    def _wake(self) -> None:
        metrics.REPORTS_WAITING.set(len(self._waiting))
        self._some.set()
        self._none.clear()

    async def _publish_some(self) -> bool:
        """Publish a batch. False: some of it stays in the queue, to be sent again with the same id."""
        returns = [self._returns.popleft() for _ in range(len(self._returns))]
        batch = [self._waiting[position] for position in range(min(BATCH, len(self._waiting)))]
        try:
            for unused in returns:
                await self._bus.publish(subjects.LEASE_RETURN, unused)
        except BusUnavailable:
            log.warning("lease_return_not_sent", count=len(returns))
        results = await asyncio.gather(
            *(self._bus.store(subjects.USAGE, payload, message_id) for message_id, payload in batch),
            return_exceptions=True,
        )
        failed: list[tuple[str, bytes]] = []
        for entry, result in zip(batch, results, strict=True):
            if isinstance(result, BusUnavailable):
                failed.append(entry)
            elif isinstance(result, BaseException):
                raise result
        for _ in batch:
            self._waiting.popleft()
        self._waiting.extendleft(reversed(failed))
        metrics.REPORTS_RETRIED.inc(len(failed))
        metrics.REPORTS_WAITING.set(len(self._waiting))
        if not self._waiting and not self._returns:
            self._some.clear()
            self._none.set()
        return not failed
