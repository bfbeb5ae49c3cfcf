"""Consumes what sync says of models.dev."""

from __future__ import annotations

import asyncio

from synaxis_common import subjects
from synaxis_common.clock import Clock
from synaxis_common.consumer import Delivery
from synaxis_common.contracts.catalog import CatalogComplete, CatalogMetadata, CatalogProvider
from synaxis_common.contracts.events import Cause
from synaxis_common.logging import get_logger
from synaxis_registry.core.identification import reidentified
from synaxis_registry.core.records import Resolve
from synaxis_registry.core.update import apply_complete, apply_provider, vanished
from synaxis_registry.models_json import global_models
from synaxis_registry.resolving import Resolving
from synaxis_registry.store import catalog
from synaxis_registry.store.database import Connection, Database

log = get_logger(__name__)

METADATA = "models"
COMPLETE = "complete"
ETAG = "etag/"


class CatalogHandlers:
    """Applies catalog messages; idempotent, and in whichever order they come."""

    def __init__(self, database: Database, resolving: Resolving, clock: Clock) -> None:
        self._database, self._resolving, self._clock = database, resolving, clock

    async def handle(self, delivery: Delivery) -> None:
        """Apply one message. Raises pydantic.ValidationError for one that is none."""
        if delivery.subject == subjects.CATALOG_COMPLETE:
            complete = CatalogComplete.model_validate_json(delivery.data)
            await self._database.run(lambda connection: self._complete(connection, complete))
        elif delivery.subject.startswith(f"{subjects.CATALOG_MODELS}."):
            metadata = CatalogMetadata.model_validate_json(delivery.data)
            await self._database.run(lambda connection: self._metadata(connection, metadata))
        else:
            provider = CatalogProvider.model_validate_json(delivery.data)
            await self._database.run(lambda connection: self._provider(connection, provider))

    async def _provider(self, connection: Connection, message: CatalogProvider) -> None:
        await connection.execute(catalog.SQL["lock_provider"], message.provider_id)
        record, rows = await catalog.read_provider(connection, message.provider_id)
        keys_present = await catalog.keys_present(connection)
        async with self._resolving.session(connection) as resolve:
            update = await asyncio.to_thread(
                apply_provider, record, rows, message, self._clock.now(), resolve, keys_present
            )
        await catalog.store_update(connection, update, rows)

    async def _metadata(self, connection: Connection, message: CatalogMetadata) -> None:
        """Renew global models, then decide anew what each provider model is."""
        name = METADATA if message.parts == 1 else f"{METADATA}/{message.part}"
        for row in await connection.fetch(catalog.SQL["sources_named"], [METADATA, name]):
            if row["value"] == message.content_hash or row["observed_at"] > message.observed_at:
                return
        known = await catalog.read_models(connection)
        renewed = await asyncio.to_thread(global_models, known, message)
        await catalog.save_models(connection, renewed)
        cause = Cause(kind="sync", id=str(message.run_id))
        async with self._resolving.session(connection) as resolve:
            for provider_id in [row[0] for row in await connection.fetch(catalog.SQL["provider_ids"])]:
                await self._reidentify(connection, provider_id, resolve, cause)
        await catalog.save_source(connection, name, message.content_hash, message.observed_at)
        if message.parts > 1:
            parts = [f"{METADATA}/{part}" for part in range(message.parts)]
            found = await connection.fetch(catalog.SQL["sources_named"], parts)
            if [row["value"] for row in found] == [message.content_hash] * message.parts:
                await catalog.save_source(connection, METADATA, message.content_hash, message.observed_at)

    async def _reidentify(
        self, connection: Connection, provider_id: str, resolve: Resolve, cause: Cause
    ) -> None:
        await connection.execute(catalog.SQL["lock_provider"], provider_id)
        record, rows = await catalog.read_provider(connection, provider_id)
        if record is None:
            return
        update = await asyncio.to_thread(reidentified, record, rows, resolve, self._clock.now(), cause)
        await catalog.store_update(connection, update, rows)

    async def _complete(self, connection: Connection, message: CatalogComplete) -> None:
        stored = await connection.fetchrow(catalog.SQL["source"], COMPLETE)
        applied_at = None if stored is None else stored["observed_at"]
        if applied_at is not None and applied_at >= message.observed_at:
            return
        providers = await catalog.read_providers(connection)
        rows = {}
        for provider_id in vanished(providers, message, applied_at):
            await connection.execute(catalog.SQL["lock_provider"], provider_id)
            record, rows[provider_id] = await catalog.read_provider(connection, provider_id)
            if record is not None:
                providers[provider_id] = record  # as it is now that nobody else can change it
        result = apply_complete(providers, rows, message, self._clock.now(), applied_at)
        if result.refused is not None:
            log.error("nothing_retired", reason=result.refused)
        for update in result.updates:
            if update.record is not None:
                await catalog.store_update(connection, update, rows[update.record.provider_id])
        await catalog.save_source(connection, COMPLETE, message.source, message.observed_at)
        applied = {record.provider_id: record.content_hash for record in providers.values()}
        metadata = await connection.fetchrow(catalog.SQL["source"], METADATA)
        has_metadata = message.metadata_hash is None or (
            metadata is not None and metadata["value"] == message.metadata_hash
        )
        if has_metadata and all(
            applied.get(one.provider_id) == one.content_hash for one in message.providers
        ):
            for document, etag in message.etags.items():
                await catalog.save_source(connection, ETAG + document, etag, message.observed_at)
        else:
            # Something of this run has not been applied: the next run has to read everything again.
            await connection.execute(catalog.SQL["forget_sources"], [ETAG + name for name in message.etags])
