"""What a registry does on its own, every now and then. Any replica may; rows are taken by one."""

from __future__ import annotations

import asyncio
from functools import partial

from prometheus_client import Counter

from synaxis_common import subjects
from synaxis_common.bus import Bus, BusUnavailable
from synaxis_common.clock import Clock
from synaxis_common.contracts.observation import PollRequested
from synaxis_common.logging import get_logger
from synaxis_registry.core.availability import discovery_target, forgive
from synaxis_registry.core.changes import ProviderUpdate
from synaxis_registry.core.judgement import NO_RESULT
from synaxis_registry.core.records import ProviderRecord
from synaxis_registry.snapshot import Snapshot
from synaxis_registry.store import catalog, ledger
from synaxis_registry.store.database import Database, DatabaseUnavailable

log = get_logger(__name__)

POLL_EVERY_S = 0.5
TIDY_EVERY_S = 30.0
FORGIVE_EVERY_S = 900.0

LAPSED = Counter(
    "synaxis_permits_lapsed_total", "Permits that expired without a report, charged at worst case"
)


class Chores:
    """Asks for due polls, charges lapsed permits, removes what is no longer needed."""

    def __init__(self, database: Database, bus: Bus, snapshot: Snapshot, clock: Clock) -> None:
        self._database, self._bus, self._snapshot, self._clock = database, bus, snapshot, clock

    async def ask_for_polls(self) -> None:
        """Have discovery poll the providers that are due: new ones, suspects, and those that are down."""
        while True:
            try:
                for record in await self._database.run(catalog.due_providers):
                    target = discovery_target(record)
                    if target is not None and target.poll:
                        reason = "confirm" if record.suspect_since is not None else "due"
                        await self._bus.publish(
                            subjects.DISCOVERY_POLL, PollRequested(target=target, reason=reason)
                        )
            except (DatabaseUnavailable, BusUnavailable) as error:
                log.warning("polls_not_asked_for", error=str(error))
            await asyncio.sleep(POLL_EVERY_S)

    async def tidy(self) -> None:
        """Charge lapsed permits, and forget old buckets and permits."""
        while True:
            try:
                lapsed = await self._database.run(ledger.lapse)
                if lapsed:
                    LAPSED.inc(lapsed)
                    log.warning("permits_lapsed", count=lapsed)
                await self._database.run(ledger.forget)
            except DatabaseUnavailable as error:
                log.warning("not_tidied", error=str(error))
            await asyncio.sleep(TIDY_EVERY_S)

    async def forgive(self) -> None:
        """Let models that live requests did not find a day ago be tried again."""
        while True:
            try:
                for provider_id in sorted(self._snapshot.providers):
                    await self._forgive(provider_id)
            except DatabaseUnavailable as error:
                log.warning("not_forgiven", error=str(error))
            await asyncio.sleep(FORGIVE_EVERY_S)

    async def _forgive(self, provider_id: str) -> None:
        if not any(
            endpoint.unavailable_reason == "not_found_live"
            for (owner, _), endpoint in self._snapshot.catalog.endpoints.items()
            if owner == provider_id
        ):
            return

        def rule(record: ProviderRecord | None, rows: catalog.Rows) -> ProviderUpdate:
            return NO_RESULT if record is None else forgive(record, rows, self._clock.now())

        await self._database.run(partial(catalog.change_provider, provider_id, rule))
