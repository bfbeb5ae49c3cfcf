"""Discovery, wired: the hourly job, single polls on request, and the word which keys are here."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from pydantic import ValidationError

from synaxis_common import subjects
from synaxis_common.jobs import Job, JobWorker, new_worker_id
from synaxis_common.schedule import parse_schedule
from synaxis_common.service import Runtime, run_service
from synaxis_discovery.job import Discovery
from synaxis_discovery.poll import Poller
from synaxis_discovery.settings import DiscoverySettings
from synaxis_discovery.targets import Targets

EXIT_CONFIG = 78
"""`EX_CONFIG` of sysexits.h."""


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
    try:
        settings = DiscoverySettings()
    except ValidationError as error:
        for problem in error.errors(include_url=False, include_input=False, include_context=False):
            name = "_".join(str(part) for part in problem["loc"]).upper()
            said = problem["msg"].removeprefix("Value error, ")
            sys.stderr.write(f"synaxis-discovery: SYNAXIS_{name}: {said}\n")
        sys.exit(EXIT_CONFIG)

    @asynccontextmanager
    async def application(runtime: Runtime) -> AsyncIterator[None]:
        async with discovering(runtime, settings):
            yield

    run_service("discovery", settings, application)
