"""Discovery, wired: the hourly job, single polls on request, and the word which keys are here."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from synaxis_common import subjects
from synaxis_common.jobs import Job, JobWorker, new_worker_id
from synaxis_common.schedule import parse_schedule
from synaxis_common.service import Runtime, run_service
from synaxis_discovery.job import Discovery
from synaxis_discovery.poll import Poller
from synaxis_discovery.settings import DiscoverySettings
from synaxis_discovery.targets import Targets


@asynccontextmanager
async def discovering(
    runtime: Runtime, settings: DiscoverySettings, environment: Mapping[str, str] = os.environ
) -> AsyncIterator[None]:
    """The running worker. `environment` holds the providers' keys."""
    bus, worker_id = runtime.bus, new_worker_id()
    targets = Targets(bus, runtime.clock, environment, worker_id, settings.discovery_targets_interval_s)
    poller = Poller(
        runtime.clock,
        environment,
        timeout_s=settings.discovery_timeout_s,
        connections=settings.discovery_concurrency,
        proxies=settings.proxies,
    )
    discovery = Discovery(
        bus,
        targets,
        poller,
        concurrency=settings.discovery_concurrency,
        spread_s=settings.discovery_spread_s,
    )
    job = Job(
        "provider-discovery",
        parse_schedule(settings.discovery_schedule),
        discovery.poll_all,
        jitter_s=settings.discovery_jitter_s,
    )
    worker = JobWorker(bus, runtime.clock, job, worker_id)
    requests = bus.broker.subscriber(
        subjects.DISCOVERY_POLL,
        queue=subjects.QUEUE_DISCOVERY,
        max_workers=settings.discovery_concurrency,
    )
    requests(discovery.poll_one)
    await bus.broker.start()
    runtime.tasks.start("targets", targets.run)
    runtime.tasks.start("provider_discovery", worker.run)
    try:
        yield
    finally:
        await requests.stop()
        await runtime.tasks.stop()
        await poller.close()


def main() -> None:
    """Run discovery until it is told to stop."""
    run_service("discovery", DiscoverySettings, discovering)
