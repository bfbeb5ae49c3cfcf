"""The exchange with the registry: whom to poll, and which of the keys it knows of are here."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from synaxis_common import key_variables, subjects
from synaxis_common.bus import Bus, BusUnavailable
from synaxis_common.clock import Clock
from synaxis_common.contracts.observation import DiscoveryTarget, TargetsReply, TargetsRequest
from synaxis_common.jobs import heed_cancellation
from synaxis_common.logging import get_logger
from synaxis_discovery.metrics import KEYS

log = get_logger(__name__)

REPLY_TIMEOUT_S: Final = 5.0
EAGER_INTERVAL_S: Final = 1.0
"""Between exchanges while no variable is known, and for a while after the list has changed: a registry that
has just been filled learns within this time which providers are on."""
EAGER_FOR_S: Final = 60.0
MAX_CORRECTIONS: Final = 3
"""Told again at once when the answer names other variables, but not for ever."""
MAX_PAGES: Final = 1000


class Targets:
    """Knows the variables that may hold keys, and tells the registry which of them are set.

    Only names are told, and only of variables that the registry has named.
    """

    def __init__(
        self, bus: Bus, clock: Clock, environment: Mapping[str, str], worker_id: str, interval_s: float
    ) -> None:
        self._bus, self._clock, self._environment, self._worker_id = bus, clock, environment, worker_id
        self._interval_s = interval_s
        self._variables: tuple[str, ...] = ()
        self._eager_until = clock.monotonic() + EAGER_FOR_S
        self._reconnected = asyncio.Event()
        bus.on_reconnect(self._on_reconnect)

    async def run(self) -> None:
        """Keep the registry informed until cancelled."""
        while True:
            self._reconnected.clear()
            try:
                await self.announce()
            except BusUnavailable as error:
                log.debug("targets_not_answered", error=str(error))
            heed_cancellation()
            eager = not self._variables or self._clock.monotonic() < self._eager_until
            try:
                async with asyncio.timeout(
                    min(EAGER_INTERVAL_S, self._interval_s) if eager else self._interval_s
                ):
                    await self._reconnected.wait()
            except TimeoutError:
                continue

    async def announce(self) -> TargetsReply:
        """Tell which keys are here and answer the first page. Raises BusUnavailable."""
        for _ in range(MAX_CORRECTIONS):
            told = self.keys_present() if self._variables else None
            reply = await self._ask(told, None)
            if reply.key_variables != self._variables:
                self._variables = reply.key_variables
                self._eager_until = self._clock.monotonic() + EAGER_FOR_S
            if not self._variables or self.keys_present() == told:
                break
        KEYS.set(len(self.keys_present()))
        return reply

    async def all(self) -> tuple[DiscoveryTarget, ...]:
        """Every provider there is. Raises BusUnavailable."""
        reply = await self.announce()
        targets = list(reply.targets)
        for _ in range(MAX_PAGES):
            if reply.next_after is None:
                break
            reply = await self._ask(None, reply.next_after)
            targets.extend(reply.targets)
        return tuple(targets)

    def keys_present(self) -> tuple[str, ...]:
        """The variables that the registry knows of, and that hold something which may be used as a key."""
        return tuple(
            name for name in self._variables if key_variables.find_key((name,), self._environment) is not None
        )

    async def _ask(self, keys_present: tuple[str, ...] | None, after: str | None) -> TargetsReply:
        request = TargetsRequest(worker_id=self._worker_id, keys_present=keys_present, after=after)
        return await self._bus.request(subjects.DISCOVERY_TARGETS, request, TargetsReply, REPLY_TIMEOUT_S)

    async def _on_reconnect(self) -> None:
        self._reconnected.set()
