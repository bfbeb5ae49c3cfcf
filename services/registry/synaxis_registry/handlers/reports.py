"""Consumes polls and call reports."""

from __future__ import annotations

import asyncio
from collections import Counter as Counts
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import Final

from prometheus_client import Counter, Histogram

from synaxis_common.clock import Clock
from synaxis_common.consumer import Delivery
from synaxis_common.contracts.observation import ProviderObservation
from synaxis_common.contracts.usage import AttemptOutcome
from synaxis_common.logging import get_logger
from synaxis_common.pricing import total
from synaxis_registry.core.availability import not_found, observe
from synaxis_registry.core.changes import ProviderUpdate
from synaxis_registry.core.health import is_news
from synaxis_registry.core.judgement import NO_RESULT
from synaxis_registry.core.reading import AnyAttempt, Reading, Report
from synaxis_registry.core.records import ProviderRecord
from synaxis_registry.core.settle import Settlement, overrun_usd, settlement
from synaxis_registry.resolving import Resolving
from synaxis_registry.store import catalog, ledger
from synaxis_registry.store.database import Connection, Database, DatabaseUnavailable

log = get_logger(__name__)

AT_ONCE: Final = 500
"""Reports recorded in one transaction: longer ones hold tenants' locks longer than a lease lives."""
NOTE_EVERY_S: Final = 0.2
"""How long attempts wait to count for the health of their endpoints: sketches are read, changed and written
for each endpoint, however few attempts there are to it, while plans need no fresher ones."""
UNNOTED_AT_MOST: Final = 10_000
"""Attempts that wait for Postgres."""

CALLS = Counter("synaxis_calls_total", "Requests put into the ledger, by outcome", ["outcome"])
SPENT = Counter("synaxis_spent_usd_total", "What requests have cost, in USD")
OVERRUNS = Counter("synaxis_overruns_total", "Requests that were dearer than what was reserved for them")
OVERRUN_USD = Counter("synaxis_overrun_usd_total", "By how much, in USD")
BATCH_SIZE = Histogram(
    "synaxis_ledger_batch_size", "Reports recorded together", buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500)
)
POLLS = Counter("synaxis_polls_applied_total", "Polls of providers, by outcome", ["outcome"])


class ReportHandlers:
    """Applies what discovery saw and what gateways did."""

    def __init__(
        self, database: Database, resolving: Resolving, clock: Clock, confirm_after: timedelta
    ) -> None:
        self._database, self._resolving, self._clock = database, resolving, clock
        self._confirm_after = confirm_after
        self._unnoted: list[AnyAttempt] = []
        """Attempts in the ledger that do not count for the health of their endpoints yet."""
        self._some_unnoted = asyncio.Event()
        self._reading = Reading()

    async def poll(self, delivery: Delivery) -> None:
        """Apply one poll of one provider. Raises pydantic.ValidationError."""
        message = ProviderObservation.model_validate_json(delivery.data)
        await self._database.run(lambda connection: self._observe(connection, message))
        POLLS.labels(message.outcome.value).inc()

    async def calls(self, deliveries: Sequence[Delivery]) -> None:
        """Put requests into the ledger, some hundred at a time. Raises pydantic.ValidationError.

        Done again after a failure it changes nothing: a request is in the ledger once.
        """
        reports = [self._reading.report(delivery.data) for delivery in deliveries]
        for begin in range(0, len(reports), AT_ONCE):
            await self._record(reports[begin : begin + AT_ONCE])

    async def _record(self, reports: Sequence[Report]) -> None:
        """All of them or none."""
        settled = [(report, settlement(report)) for report in reports]
        # One statement: a registry that is stopped in the midst of it holds no budget's lock.
        added = await self._database.call(lambda connection: ledger.record(connection, settled))
        BATCH_SIZE.observe(len(reports))
        first = {report.request_id: (report, found) for report, found in reversed(settled)}
        new = [first[request_id] for request_id in sorted(added)]
        _count(new)
        now = self._clock.now()
        self._unnoted += (one for report, _ in new if is_news(report, now) for one in report.attempts)
        self._some_unnoted.set()
        for report, _ in new:
            await self._note_missing(report)

    async def keep_health(self) -> None:
        """Let what came in count for the health of endpoints, for ever."""
        while True:
            await self._some_unnoted.wait()
            await asyncio.sleep(NOTE_EVERY_S)
            await self.note_health()

    async def note_health(self) -> None:
        """Let what has come in since the last time count. While Postgres is away the latest of it waits."""
        attempts, self._unnoted = self._unnoted, []
        self._some_unnoted.clear()
        now = self._clock.now()
        try:
            await self._database.run(lambda connection: ledger.note_health(connection, attempts, now))
        except DatabaseUnavailable as error:
            log.warning("health_not_noted", attempts=len(attempts), error=str(error))
            self._unnoted = (attempts + self._unnoted)[-UNNOTED_AT_MOST:]
            self._some_unnoted.set()

    async def _observe(self, connection: Connection, message: ProviderObservation) -> None:
        await connection.execute(catalog.SQL["lock_provider"], message.provider_id)
        record, rows = await catalog.read_provider(connection, message.provider_id)
        if record is None:
            log.warning("poll_of_unknown_provider", provider=message.provider_id)
            return
        async with self._resolving.session(connection) as resolve:
            update = await asyncio.to_thread(
                observe, record, rows, message, self._clock.now(), self._confirm_after, resolve
            )
        await catalog.store_update(connection, update, rows)

    async def _note_missing(self, message: Report) -> None:
        for attempt in message.attempts:
            if attempt.outcome is AttemptOutcome.NOT_FOUND:
                rule = self._missing(attempt.provider_model_id)
                await self._database.run(partial(catalog.change_provider, attempt.provider_id, rule))

    def _missing(self, provider_model_id: str) -> catalog.Change:
        def rule(record: ProviderRecord | None, rows: catalog.Rows) -> ProviderUpdate:
            row = rows.get(provider_model_id)
            if record is None or row is None:
                return NO_RESULT
            return not_found(record, row, self._clock.now(), self._confirm_after)

        return rule


def _count(new: Sequence[tuple[Report, Settlement]]) -> None:
    """Tell of requests that are new in the ledger."""
    for outcome, count in Counts(report.outcome for report, _ in new).items():
        CALLS.labels(outcome.value).inc(count)
    SPENT.inc(float(total(found.cost_usd for _, found in new if found.cost_usd is not None)))
    for report, found in new:
        if overrun := overrun_usd(report, found):
            OVERRUNS.inc()
            OVERRUN_USD.inc(float(overrun))
            log.warning(
                "budget_overrun",
                request_id=str(report.request_id),
                tenant=report.tenant_id,
                provider=found.provider_id,
                usd=str(overrun),
            )
