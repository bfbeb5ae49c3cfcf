"""Sync, wired: one job, one HTTP client, one bus."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from synaxis_common.jobs import Job, JobWorker, new_worker_id
from synaxis_common.schedule import parse_schedule
from synaxis_common.service import Runtime, run_service
from synaxis_sync.job import SyncJob
from synaxis_sync.models_dev import ModelsDev
from synaxis_sync.settings import SyncSettings


@asynccontextmanager
async def syncing(runtime: Runtime, settings: SyncSettings) -> AsyncIterator[None]:
    """The running worker."""
    async with ModelsDev(settings) as models_dev:
        job = Job(
            "models-dev-sync",
            parse_schedule(settings.sync_schedule),
            SyncJob(runtime.bus, runtime.clock, models_dev, settings.models_dev_max_bytes),
            jitter_s=settings.sync_jitter_s,
        )
        worker = JobWorker(runtime.bus, runtime.clock, job, new_worker_id())
        await runtime.bus.broker.start()
        runtime.tasks.start("models_dev_sync", worker.run)
        try:
            yield
        finally:
            await runtime.tasks.stop()


def main() -> None:
    """Run sync until it is told to stop."""
    run_service("sync", SyncSettings, syncing)
