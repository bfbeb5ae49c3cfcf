"""Consumes polls and call reports."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from functools import partial

from prometheus_client import Counter

from synaxis_common.clock import Clock
from synaxis_common.consumer import Delivery
from synaxis_common.contracts.observation import ProviderObservation
from synaxis_common.contracts.usage import AttemptOutcome, CallReport
from synaxis_common.logging import get_logger
from synaxis_registry.core.availability import not_found, observe
from synaxis_registry.core.changes import ProviderUpdate
from synaxis_registry.core.judgement import NO_RESULT
from synaxis_registry.core.records import ProviderRecord
from synaxis_registry.core.settle import settlement
from synaxis_registry.resolving import Resolving
from synaxis_registry.store import catalog, ledger
from synaxis_registry.store.database import Connection, Database

log = get_logger(__name__)

CALLS = Counter("synaxis_calls_total", "Requests put into the ledger, by outcome", ["outcome"])
POLLS = Counter("synaxis_polls_applied_total", "Polls of providers, by outcome", ["outcome"])


class ReportHandlers:
    """Applies what discovery saw and what gateways did."""

    def __init__(
        self, database: Database, resolving: Resolving, clock: Clock, confirm_after: timedelta
    ) -> None:
        self._database, self._resolving, self._clock = database, resolving, clock
        self._confirm_after = confirm_after

    async def poll(self, delivery: Delivery) -> None:
        """Apply one poll of one provider. Raises pydantic.ValidationError."""
        message = ProviderObservation.model_validate_json(delivery.data)
        await self._database.run(lambda connection: self._observe(connection, message))
        POLLS.labels(message.outcome.value).inc()

    async def call(self, delivery: Delivery) -> None:
        """Put one request into the ledger. Raises pydantic.ValidationError."""
        message = CallReport.model_validate_json(delivery.data)
        if await self._database.run(lambda connection: self._settle(connection, message)):
            CALLS.labels(message.outcome.value).inc()
            await self._note_missing(message)

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

    async def _settle(self, connection: Connection, message: CallReport) -> bool:
        if not await ledger.settle(connection, message, settlement(message)):
            return False
        await ledger.note_health(connection, message.attempts, self._clock.now())
        return True

    async def _note_missing(self, message: CallReport) -> None:
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
