"""The job `provider-discovery`, and single polls when the registry asks for one."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Final

from synaxis_common import subjects
from synaxis_common.bus import Bus, BusUnavailable
from synaxis_common.contracts.jobs import JobGrant
from synaxis_common.contracts.observation import DiscoveryTarget, PollRequested, ProviderObservation
from synaxis_common.jobs import JobFailed
from synaxis_common.logging import get_logger
from synaxis_discovery.metrics import UNSENT
from synaxis_discovery.poll import Poller, encoded
from synaxis_discovery.targets import Targets

log = get_logger(__name__)

STORE_ATTEMPTS: Final = 3
STORE_BACK_OFF_S: Final = 0.5

_random = random.SystemRandom()


class Discovery:
    """Polls providers and puts what they answered on the bus."""

    def __init__(
        self, bus: Bus, targets: Targets, poller: Poller, *, concurrency: int, spread_s: float
    ) -> None:
        self._bus, self._targets, self._poller = bus, targets, poller
        self._spread_s = spread_s
        self._slots = asyncio.Semaphore(concurrency)

    async def poll_all(self, _grant: JobGrant) -> dict[str, int]:
        """The job: poll every provider that is to be polled and whose key is here. Raises JobFailed."""
        try:
            targets = await self._targets.all()
        except BusUnavailable as error:
            raise JobFailed(f"the registry does not say whom to poll: {error}") from error
        due = [target for target in targets if target.poll and self._poller.can_ask(target)]
        counts = Counter({"targets": len(targets), "polled": len(due)})
        async with asyncio.TaskGroup() as polls:
            for target in due:
                polls.create_task(self._poll_in_turn(target, counts))
        if counts["unsent"]:
            raise JobFailed("the bus did not take all observations", counts)
        return dict(counts)

    async def poll_one(self, asked: PollRequested) -> None:
        """Poll one provider now, because the registry wants to know."""
        if not self._poller.can_ask(asked.target):
            log.info("poll_without_key", provider=asked.target.provider_id, reason=asked.reason)
            return
        async with self._slots:
            await self._poll(asked.target, Counter())

    async def _poll_in_turn(self, target: DiscoveryTarget, counts: Counter[str]) -> None:
        await asyncio.sleep(_random.uniform(0.0, self._spread_s))
        async with self._slots:
            await self._poll(target, counts)

    async def _poll(self, target: DiscoveryTarget, counts: Counter[str]) -> None:
        try:
            observation = await self._poller.poll(target)
            await self._store(observation)
        except BusUnavailable as error:
            UNSENT.inc()
            counts["unsent"] += 1
            log.warning("observation_not_stored", provider=target.provider_id, error=str(error))
        except Exception:
            counts["broken"] += 1
            log.exception("poll_broke", provider=target.provider_id)
        else:
            counts[observation.outcome] += 1
            counts["models"] += len(observation.models)
            log.info(
                "provider_polled",
                provider=target.provider_id,
                outcome=observation.outcome,
                models=len(observation.models),
                skipped=observation.skipped_entries,
                error=observation.error,
            )

    async def _store(self, observation: ProviderObservation) -> None:
        subject = subjects.observation(observation.provider_id)
        payload = encoded(observation)
        for attempt in range(1, STORE_ATTEMPTS):
            try:
                await self._bus.store(subject, payload, str(observation.poll_id))
            except BusUnavailable:
                await asyncio.sleep(STORE_BACK_OFF_S * attempt)
            else:
                return
        await self._bus.store(subject, payload, str(observation.poll_id))
