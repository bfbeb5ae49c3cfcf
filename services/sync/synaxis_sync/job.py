"""The job `models-dev-sync`: read models.dev, tell the registry what it does not have yet."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Final

from synaxis_common.bus import Bus, BusUnavailable
from synaxis_common.clock import Clock
from synaxis_common.contracts.jobs import JobGrant
from synaxis_common.jobs import JobFailed
from synaxis_common.logging import get_logger
from synaxis_sync.diff import Changes, Checkpoint, Outgoing, Run, changes
from synaxis_sync.entries import (
    API,
    MODELS,
    ModelsRead,
    ProvidersRead,
    Skipped,
    read_models,
    read_providers,
)
from synaxis_sync.metrics import MESSAGES, SKIPPED
from synaxis_sync.models_dev import (
    Document,
    ModelsDev,
    SourceFailed,
    parse,
    snapshot,
    snapshot_version,
)

log = get_logger(__name__)

STORE_ATTEMPTS: Final = 5
STORE_BACK_OFF_S: Final = 0.5
"""Doubling: a message is given up after about 7.5 s beside the publish timeouts."""
MAX_SKIPPED_LOGGED: Final = 50


@dataclass(frozen=True, slots=True)
class Reading:
    """What the documents say; None for one that has not changed, or that there is not."""

    providers: ProvidersRead | None
    models: ModelsRead | None

    def skipped(self) -> list[Skipped]:
        """The entries that could not be read."""
        return [
            *(self.providers.skipped if self.providers is not None else ()),
            *(self.models.skipped if self.models is not None else ()),
        ]


class SyncJob:
    """Does one run; `JobWorker` decides when."""

    def __init__(self, bus: Bus, clock: Clock, models_dev: ModelsDev, max_snapshot_bytes: int) -> None:
        self._bus, self._clock, self._models_dev = bus, clock, models_dev
        self._max_snapshot_bytes = max_snapshot_bytes

    async def __call__(self, grant: JobGrant) -> dict[str, int]:
        """Run once and answer the counts. Raises JobFailed."""
        checkpoint = Checkpoint.of(grant.checkpoint)
        observed_at = self._clock.now()
        try:
            api = await self._models_dev.fetch(API, checkpoint.etags.get(API))
            if api is None:
                raise SourceFailed(f"{API}: HTTP 404")
            models = await self._models_dev.fetch(MODELS, checkpoint.etags.get(MODELS))
            if api.body is None and models is not None and models.body is None:
                return {"not_modified": 1}
            reading = await asyncio.to_thread(_read, api, models, checkpoint)
        except SourceFailed as error:
            if checkpoint.providers:
                raise JobFailed(str(error)) from error
            raise await self._from_snapshot(grant, observed_at, error) from error
        etags = {
            name: document.etag for name, document in ((API, api), (MODELS, models)) if document is not None
        }
        run = Run(
            grant.run_id,
            observed_at,
            "models.dev",
            {name: etag for name, etag in etags.items() if etag is not None},
        )
        return await self._publish(run, checkpoint, reading)

    async def _from_snapshot(self, grant: JobGrant, observed_at: datetime, cause: SourceFailed) -> JobFailed:
        """Fill an empty registry from the snapshot. The run has failed all the same: it is to be retried."""
        version = snapshot_version()
        log.warning("snapshot_used", version=version, error=str(cause))
        reading = await asyncio.to_thread(_read_snapshot, self._max_snapshot_bytes)
        counts = await self._publish(Run(grant.run_id, observed_at, "snapshot"), Checkpoint(), reading)
        return JobFailed(f"{cause}; the snapshot in models-dev {version} was used instead", counts)

    async def _publish(self, run: Run, checkpoint: Checkpoint, reading: Reading) -> dict[str, int]:
        skipped = reading.skipped()
        SKIPPED.inc(len(skipped))
        for entry in islice(skipped, MAX_SKIPPED_LOGGED):
            log.warning("entry_skipped", entry=entry.where, reason=entry.reason)
        found = await asyncio.to_thread(changes, run, checkpoint, reading.providers, reading.models)
        counts = _counts(reading, found, len(skipped))
        for sent, message in enumerate(found.messages):
            try:
                await self._store(message)
            except BusUnavailable as error:
                raise JobFailed(f"the bus did not take it: {error}", {**counts, "messages": sent}) from error
        return counts

    async def _store(self, message: Outgoing) -> None:
        for attempt in range(1, STORE_ATTEMPTS):
            try:
                await self._bus.store(message.subject, message.payload, message.message_id)
            except BusUnavailable as error:
                log.warning("message_not_stored", subject=message.subject, error=str(error), attempt=attempt)
                await asyncio.sleep(STORE_BACK_OFF_S * 2 ** (attempt - 1))
            else:
                break
        else:
            await self._bus.store(message.subject, message.payload, message.message_id)
        MESSAGES.labels(message.kind).inc()


def _read(api: Document, models: Document | None, checkpoint: Checkpoint) -> Reading:
    """Read what has come. Raises SourceFailed for documents that cannot be believed."""
    providers_read = models_read = None
    if api.body is not None:
        providers_read = read_providers(parse(API, api.body))
        found, known = len(providers_read.providers), len(checkpoint.providers)
        if found == 0 or found * 2 < known:
            raise SourceFailed(f"{API}: {found} providers where {known} are known")
    if models is not None and models.body is not None:
        models_read = read_models(parse(MODELS, models.body))
        if not models_read.models:
            raise SourceFailed(f"{MODELS}: no models")
    return Reading(providers_read, models_read)


def _read_snapshot(max_bytes: int) -> Reading:
    return Reading(read_providers(parse("snapshot", snapshot(max_bytes))), None)


def _counts(reading: Reading, found: Changes, skipped: int) -> dict[str, int]:
    providers = reading.providers.providers if reading.providers is not None else ()
    return {
        "providers": len(providers),
        "provider_models": sum(len(provider.models) for provider in providers),
        "models": len(reading.models.models) if reading.models is not None else 0,
        "providers_changed": found.providers_changed,
        "metadata_changed": int(found.metadata_changed),
        "skipped": skipped,
        "messages": len(found.messages),
    }
