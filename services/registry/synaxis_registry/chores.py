"""What a registry does on its own, every now and then. Any replica may; rows are taken by one."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import nats.errors
from prometheus_client import Counter, Gauge

from synaxis_common import slices, subjects
from synaxis_common.bus import Bus, BusUnavailable
from synaxis_common.clock import Clock
from synaxis_common.contracts.leases import GATEWAY_TTL_S
from synaxis_common.contracts.observation import PollRequested
from synaxis_common.logging import get_logger
from synaxis_common.slices import Steps
from synaxis_registry.core.availability import discovery_target, forgive
from synaxis_registry.core.changes import ProviderUpdate
from synaxis_registry.core.feedback import WINDOW, feedback
from synaxis_registry.core.judgement import NO_RESULT
from synaxis_registry.core.records import ProviderRecord
from synaxis_registry.handlers.admin import dead_letters
from synaxis_registry.snapshot import Snapshot
from synaxis_registry.store import catalog, ledger, webhooks
from synaxis_registry.store.database import Connection, Database, DatabaseUnavailable

log = get_logger(__name__)

POLL_EVERY_S = 0.5
TIDY_EVERY_S = 30.0
FORGIVE_EVERY_S = 900.0
LAPSE_EVERY_S = 5.0
SETTLE_EVERY_S = 5.0
JUDGE_EVERY_S = 1.0
LATELY = timedelta(seconds=15)
"""How far back failures are looked for: three buckets of them, should one look fail."""
FLUSH_TIMEOUT_S = 2
PARTITIONS_EVERY_S = 86_400.0
PARTITIONS_AHEAD = 2
"""Months of the ledger that are made before they begin."""

SUSPENDED = Gauge("synaxis_providers_suspended", "Providers that have failed too many live requests")
LAPSED = Counter("synaxis_leases_lapsed_total", "Leases that nobody reported on, charged at worst case")
LAPSED_USD = Counter("synaxis_lapsed_usd_total", "Money charged unconfirmed for lapsed leases, in USD")


@dataclass(slots=True)
class Hearing:
    """Since when this registry would have noted a gateway that is there, by the monotonic clock."""

    since: float
    looked_at: float

    def look(self, now: float, *, is_fit: bool) -> None:
        """Note whether the bus and the database are there. One who slept between two looks heard nothing."""
        if not is_fit or now - self.looked_at > 2 * LAPSE_EVERY_S:
            self.since = now
        self.looked_at = now

    def is_sure(self, now: float) -> bool:
        """Whether a gateway that was not noted for `GATEWAY_TTL_S` is dead, and not just unheard."""
        return now - self.since > GATEWAY_TTL_S


class Chores:
    """Asks for due polls, charges what dead gateways hold, removes what is no longer needed."""

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

    async def lapse(self) -> None:
        """Charge what dead gateways hold.

        Not before this registry itself has been on the bus for as long as a gateway may be silent: after the
        bus was away every gateway looks dead.
        """
        begun = self._clock.monotonic()
        hearing = Hearing(since=begun, looked_at=begun)
        while True:
            await asyncio.sleep(LAPSE_EVERY_S)
            hearing.look(self._clock.monotonic(), is_fit=await self._is_on_the_bus())
            is_sure = hearing.is_sure(self._clock.monotonic())
            try:
                while await self._lapse(GATEWAY_TTL_S if is_sure else ledger.LAPSE_AFTER_S):
                    continue  # there were more than are taken at a time
            except DatabaseUnavailable as error:
                hearing.look(self._clock.monotonic(), is_fit=False)
                log.warning("not_lapsed", error=str(error))

    async def _is_on_the_bus(self) -> bool:
        """Whether the server answers: a black-holed connection seems to be there for a while."""
        if not self._bus.is_connected:
            return False
        try:
            await self._bus.client.flush(FLUSH_TIMEOUT_S)
        except (TimeoutError, nats.errors.Error) as error:
            log.debug("bus_not_flushed", error=type(error).__name__)
            return False
        return True

    async def _lapse(self, gateway_ttl_s: float) -> bool:
        """Charge some of them. True: there may be more."""
        lapsed = await self._database.run(lambda connection: ledger.lapse(connection, gateway_ttl_s))
        for gateway_id in sorted({one.gateway_id for one in lapsed}):
            held = [one.usd for one in lapsed if one.gateway_id == gateway_id]
            LAPSED.inc(len(held))
            LAPSED_USD.inc(float(sum(held)))
            log.warning("leases_lapsed", gateway=gateway_id, leases=len(held), usd=str(sum(held)))
        return len(lapsed) >= ledger.LAPSED_AT_MOST

    async def tidy(self) -> None:
        """Forget old windows and leases, and count what was set aside."""
        while True:
            try:
                await self._database.run(ledger.forget)
                await self._database.run(webhooks.forget)
                await self._database.run(dead_letters.measure)
            except DatabaseUnavailable as error:
                log.warning("not_tidied", error=str(error))
            await asyncio.sleep(TIDY_EVERY_S)

    async def settle_health(self) -> None:
        """Let what is old leave the windows of endpoints that nobody reports on."""
        while True:
            await asyncio.sleep(SETTLE_EVERY_S)
            try:
                while await self._database.run(
                    lambda connection: ledger.settle_health(connection, self._clock.now())
                ):
                    continue  # there may be more than are taken at a time
            except DatabaseUnavailable as error:
                log.warning("health_not_settled", error=str(error))

    async def judge_providers(self) -> None:
        """Suspend providers that fail most live requests, and end what was a suspension."""
        while True:
            await asyncio.sleep(JUDGE_EVERY_S)
            try:
                lately = self._clock.now() - LATELY
                failing = await self._database.call(partial(ledger.failing_providers, since=lately))
                for provider_id in sorted({*failing, *self._suspended()}):
                    await self._judge(provider_id)
            except DatabaseUnavailable as error:
                log.warning("providers_not_judged", error=str(error))

    def _suspended(self) -> list[str]:
        found = [one.provider_id for one in self._snapshot.providers.values() if one.suspension is not None]
        SUSPENDED.set(len(found))
        return found

    async def _judge(self, provider_id: str) -> None:
        """Apply the rule; under the lock, which reads all models, only when something follows."""
        known, now = self._snapshot.providers.get(provider_id), self._clock.now()
        seen = await self._database.call(
            partial(ledger.outcomes, provider_id=provider_id, since=now - WINDOW)
        )
        if known is None or feedback(known, seen, now) == NO_RESULT:
            return

        async def judged(connection: Connection) -> ProviderUpdate:
            now = self._clock.now()
            outcomes = await ledger.outcomes(connection, provider_id, now - WINDOW)

            def rule(record: ProviderRecord | None, _rows: catalog.Rows) -> ProviderUpdate:
                return NO_RESULT if record is None else feedback(record, outcomes, now)

            return await catalog.change_provider(provider_id, rule, connection)

        for event in (await self._database.run(judged)).events:
            log.warning(str(event.type), provider=provider_id, why=getattr(event.data, "reason", ""))

    async def make_partitions(self) -> None:
        """Make the next months of the ledger."""
        while True:
            try:
                await self._database.run(
                    lambda connection: ledger.make_partitions(connection, PARTITIONS_AHEAD)
                )
            except DatabaseUnavailable as error:
                log.warning("partitions_not_made", error=str(error))
                await asyncio.sleep(TIDY_EVERY_S)
            else:
                await asyncio.sleep(PARTITIONS_EVERY_S)

    async def forgive(self) -> None:
        """Let models that live requests did not find a day ago be tried again."""
        while True:
            try:
                for provider_id in sorted(await slices.run(self._with_models_not_found())):
                    await self._forgive(provider_id)
            except DatabaseUnavailable as error:
                log.warning("not_forgiven", error=str(error))
            await asyncio.sleep(FORGIVE_EVERY_S)

    def _with_models_not_found(self) -> Steps[set[str]]:
        """The providers that live requests did not find a model at."""
        found: set[str] = set()
        for (provider_id, _), endpoint in self._snapshot.catalog.endpoints.items():
            if endpoint.unavailable_reason == "not_found_live":
                found.add(provider_id)
            yield
        return found

    async def _forgive(self, provider_id: str) -> None:
        def rule(record: ProviderRecord | None, rows: catalog.Rows) -> ProviderUpdate:
            return NO_RESULT if record is None else forgive(record, rows, self._clock.now())

        await self._database.run(partial(catalog.change_provider, provider_id, rule))
