"""What one gateway sees of candidates, told to all others within a moment; what they tell, held against them.

Gateways tell each other directly: it works as long as the bus does, whoever else is away. What lasts (rates,
percentiles, what a gateway that starts begins with) the registry learns from call reports.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from nats.aio.msg import Msg
from prometheus_client import Counter
from pydantic import ValidationError

from synaxis_common import subjects
from synaxis_common.bus import Bus, BusUnavailable
from synaxis_common.clock import Clock
from synaxis_common.contracts.health import Sighting, Sightings
from synaxis_common.logging import get_logger
from synaxis_gateway.dispatch.cooldown import Cooldowns

log = get_logger(__name__)

GATHER_S: Final = 0.01
"""How long what is seen waits for more of it: a storm of failures becomes a hundred messages a second."""
AT_ONCE: Final = 500
"""Sightings in a message, of at most some 500 bytes each."""
WAITING_AT_MOST: Final = 5_000
"""Older ones are forgotten: in such a storm every gateway has seen enough."""

SHARED: Final = Counter(
    "synaxis_gateway_sightings_total", "Sightings of candidates told to other gateways, or heard", ["way"]
)


class Sharing:
    """Connects a gateway's `Cooldowns` with those of all others."""

    def __init__(self, bus: Bus, clock: Clock, gateway_id: str) -> None:
        self._bus, self._clock, self._gateway_id = bus, clock, gateway_id
        self._waiting: deque[Sighting] = deque(maxlen=WAITING_AT_MOST)
        self._some = asyncio.Event()
        self.cooldowns = Cooldowns(self._tell)

    def _tell(self, sighting: Sighting) -> None:
        self._waiting.append(sighting)
        self._some.set()

    async def listen(self) -> None:
        """Begin to hear what others see."""
        await self._bus.client.subscribe(subjects.SIGHTINGS, cb=self._heard)

    async def run(self) -> None:
        """Tell others, until cancelled."""
        while True:
            await self._some.wait()
            await asyncio.sleep(GATHER_S)
            self._some.clear()
            while self._waiting:
                seen = [self._waiting.popleft() for _ in range(min(AT_ONCE, len(self._waiting)))]
                message = Sightings(gateway_id=self._gateway_id, sightings=tuple(seen))
                try:
                    await self._bus.publish(subjects.SIGHTINGS, message)
                except BusUnavailable as error:
                    log.debug("sightings_not_told", error=str(error))
                else:
                    SHARED.labels("told").inc(len(seen))

    async def _heard(self, message: Msg) -> None:
        try:
            found = Sightings.model_validate_json(message.data)
        except ValidationError:
            log.warning("sightings_not_understood")
            return
        if found.gateway_id == self._gateway_id:
            return
        SHARED.labels("heard").inc(len(found.sightings))
        now = self._clock.monotonic()
        for sighting in found.sightings:
            self.cooldowns.heard(sighting, now)
