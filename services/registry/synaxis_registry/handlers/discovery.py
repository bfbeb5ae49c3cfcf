"""Answers discovery: whom to poll; and hears which key variables are set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from synaxis_common.clock import Clock
from synaxis_common.contracts.events import Cause
from synaxis_common.contracts.observation import TargetsReply, TargetsRequest
from synaxis_common.logging import get_logger
from synaxis_registry.core.availability import discovery_target, provider_switched
from synaxis_registry.core.changes import ProviderUpdate
from synaxis_registry.core.judgement import NO_RESULT
from synaxis_registry.core.records import ProviderRecord
from synaxis_registry.core.trust import is_key_present, switching_variables
from synaxis_registry.snapshot import Snapshot
from synaxis_registry.store import catalog
from synaxis_registry.store.database import Connection, Database, DatabaseUnavailable

log = get_logger(__name__)

PAGE = 200
"""Targets in one answer: some 60 kB."""


class DiscoveryHandlers:
    """The registry's side of the exchange with discovery."""

    def __init__(self, database: Database, snapshot: Snapshot, clock: Clock) -> None:
        self._database, self._snapshot, self._clock = database, snapshot, clock

    async def targets(self, request: TargetsRequest) -> TargetsReply | None:
        """One page of providers. None (no answer): what was told cannot be stored now, so ask again."""
        providers = self._snapshot.providers
        variables = key_variables(providers)
        if request.keys_present is not None and request.after is None:
            try:
                await self._note_keys(frozenset(request.keys_present))
            except DatabaseUnavailable as error:
                log.warning("keys_not_noted", error=str(error))
                return None
        after = request.after or ""
        ids = sorted(provider_id for provider_id in providers if provider_id > after)
        targets = [target for one in ids[:PAGE] if (target := discovery_target(providers[one])) is not None]
        return TargetsReply(
            targets=tuple(targets),
            key_variables=variables if request.after is None else (),
            next_after=ids[PAGE - 1] if len(ids) > PAGE else None,
        )

    async def _note_keys(self, present: frozenset[str]) -> None:
        async def note(connection: Connection) -> list[str]:
            # Not the snapshot's: a provider that has just been switched elsewhere would be missed.
            providers = await catalog.read_providers(connection)
            variables = key_variables(providers)
            await connection.execute(
                catalog.SQL["save_key_variables"], list(variables), [name in present for name in variables]
            )
            return [
                record.provider_id
                for record in providers.values()
                if record.key_present != is_key_present(record, present)
            ]

        switched = await self._database.run(note)

        def switch(record: ProviderRecord | None, rows: catalog.Rows) -> ProviderUpdate:
            return self._switch(record, rows, present)

        for provider_id in sorted(switched):
            update = await self._database.run(partial(catalog.change_provider, provider_id, switch))
            if update.record is not None:
                log.info("provider_switched", provider=provider_id, key_present=update.record.key_present)

    def _switch(
        self, record: ProviderRecord | None, rows: catalog.Rows, present: frozenset[str]
    ) -> ProviderUpdate:
        if record is None:
            return NO_RESULT
        after = replace(record, key_present=is_key_present(record, present))
        return provider_switched(record, after, rows, self._clock.now(), Cause(kind="key"))


def key_variables(providers: Mapping[str, ProviderRecord]) -> tuple[str, ...]:
    """Every variable that may switch a provider on."""
    return tuple(sorted({name for record in providers.values() for name in switching_variables(record)}))
