"""Leases on their way back to the registry: said again until it has taken them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Final

from synaxis_common import subjects
from synaxis_common.bus import Bus, BusUnavailable
from synaxis_common.clock import Clock
from synaxis_common.contracts.leases import LeaseReturn, LeaseReturned
from synaxis_common.logging import get_logger
from synaxis_gateway import metrics

log = get_logger(__name__)

AT_ONCE: Final = 32
TIMEOUT_S: Final = 2.0
RETRY_S: Final = 1.0
GIVE_UP_S: Final = 900.0
"""As long as a registry waits for what was reserved: later it has charged it, and only a report helps."""


class Returns:
    """A queue with a background sender. What a killed gateway had not returned lapses at its worst case."""

    def __init__(self, bus: Bus, clock: Clock) -> None:
        self._bus = bus
        self._clock = clock
        self._waiting: deque[tuple[float, LeaseReturn]] = deque()
        self._some = asyncio.Event()
        self._none = asyncio.Event()
        self._none.set()

    def add(self, returned: Iterable[LeaseReturn]) -> None:
        """Give leases back, soon."""
        now = self._clock.monotonic()
        self._waiting.extend((now, one) for one in returned)
        if self._waiting:
            self._some.set()
            self._none.clear()

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            await self._some.wait()
            if not await self._send_some():
                await asyncio.sleep(RETRY_S)

    async def flush(self, timeout: float) -> int:
        """Wait until all are taken, at most `timeout` seconds; answers how many are not."""
        try:
            async with asyncio.timeout(timeout):
                await self._none.wait()
        except TimeoutError:
            log.warning("leases_not_returned", count=len(self._waiting))
        return len(self._waiting)

    async def _send_some(self) -> bool:
        batch = [self._waiting[place] for place in range(min(AT_ONCE, len(self._waiting)))]
        taken = await asyncio.gather(*(self._send(one) for _, one in batch))
        for _ in batch:
            self._waiting.popleft()
        oldest = self._clock.monotonic() - GIVE_UP_S
        again = [entry for entry, done in zip(batch, taken, strict=True) if not done and entry[0] > oldest]
        self._waiting.extendleft(reversed(again))
        metrics.LEASES_RETURNED.inc(sum(taken))
        if not self._waiting:
            self._some.clear()
            self._none.set()
        return all(taken)

    async def _send(self, returned: LeaseReturn) -> bool:
        try:
            await self._bus.request(subjects.LEASE_RETURN, returned, LeaseReturned, TIMEOUT_S)
        except BusUnavailable:
            return False
        return True
