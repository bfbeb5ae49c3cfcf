"""The registry, wired: questions and facts come in over the bus, decisions go out, Postgres keeps it all."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import asyncpg
from faststream.nats import NatsMessage
from pydantic import ValidationError

from synaxis_common import subjects
from synaxis_common.bus import BusUnavailable
from synaxis_common.clock import Clock
from synaxis_common.consumer import (
    BatchConsumer,
    ConsumerSpec,
    Delivery,
    DurableConsumer,
    Poison,
    TryLater,
)
from synaxis_common.contracts.admin import ADMIN_ROUTES, PROOF_HEADER, AdminReply
from synaxis_common.contracts.leases import GatewayAlive, LeaseReturn, PlansStale, ProviderLeaseAsk
from synaxis_common.contracts.usage import split_reports
from synaxis_common.logging import get_logger
from synaxis_common.service import Runtime, run_service
from synaxis_registry.answering import Answering, by_bytes, failed
from synaxis_registry.booking import Bookings
from synaxis_registry.chores import Chores
from synaxis_registry.delivering import Delivering
from synaxis_registry.handlers.admin import AdminVerbs
from synaxis_registry.handlers.catalog import CatalogHandlers
from synaxis_registry.handlers.discovery import DiscoveryHandlers
from synaxis_registry.handlers.jobs import JobHandlers
from synaxis_registry.handlers.leases import LeaseHandlers
from synaxis_registry.handlers.reports import ReportHandlers
from synaxis_registry.handlers.routing import RoutingHandlers
from synaxis_registry.outbox import Outbox
from synaxis_registry.resolving import Resolving
from synaxis_registry.settings import RegistrySettings
from synaxis_registry.snapshot import Snapshot
from synaxis_registry.store import catalog
from synaxis_registry.store.database import Connection, Database, DatabaseUnavailable
from synaxis_registry.store.migrate import migrate

log = get_logger(__name__)

T = TypeVar("T")

CATALOG = ConsumerSpec(subjects.STREAM_CATALOG, "registry-catalog", max_ack_pending=1, ack_wait_s=60)
OBSERVATION = ConsumerSpec(subjects.STREAM_OBSERVATION, "registry-observation", max_ack_pending=64, batch=4)
USAGE = ConsumerSpec(subjects.STREAM_USAGE, "registry-usage", max_ack_pending=4096, batch=64, ack_wait_s=30)

TENANTS_NOTICE, OUTBOX_NOTICE = "synaxis_tenants", "synaxis_outbox"
NOTICES = ("synaxis_changed", TENANTS_NOTICE, OUTBOX_NOTICE)
"""What Postgres tells of commits, by the triggers of the first migration."""

SWITCH_S = 0.001
"""How long a thread that decides on a whole provider keeps the loop waiting; CPython's 5 ms are felt."""

ROUTE_WORKERS = 64
LEASE_WORKERS = 16
ADMIN_WORKERS = 8


@asynccontextmanager
async def serving(runtime: Runtime, settings: RegistrySettings) -> AsyncIterator[None]:
    """The running registry."""
    bus, clock, tasks, health = runtime.bus, runtime.clock, runtime.tasks, runtime.health
    database = Database(settings.database_url.get_secret_value(), settings.database_pool)
    health.add("database", database.problem)
    await database.connect()
    await migrate(database)

    async def tell(hint: PlansStale) -> None:
        try:
            await bus.publish(subjects.PLANS_STALE, hint)
        except BusUnavailable as error:
            log.warning("hint_not_sent", error=str(error))  # plans end by their own expiry

    snapshot = Snapshot(database, clock, tell)
    health.add("snapshot", snapshot.problem)
    await snapshot.refresh()
    resolving = Resolving()
    delivering = _delivering(database, clock, settings)
    outbox = Outbox(database, bus, lambda: None if delivering is None else delivering.wake.set())
    chores = Chores(database, bus, snapshot, clock)
    bookings = Bookings(database)
    routing = RoutingHandlers(bookings, snapshot, clock)
    leases = LeaseHandlers(database, bookings)
    discovery = DiscoveryHandlers(database, snapshot, clock)
    jobs = JobHandlers(database)
    catalogs = CatalogHandlers(database, resolving, clock)
    reports = ReportHandlers(database, resolving, clock, settings.discovery_confirm_after)
    admin = AdminVerbs(database, snapshot, resolving, settings, clock, bus)

    async def dead_letter(delivery: Delivery, reason: str) -> None:
        await _set_aside(database, delivery, reason)

    consumers = [
        DurableConsumer(bus, CATALOG, _guarded(catalogs.handle), dead_letter),
        DurableConsumer(bus, OBSERVATION, _guarded(reports.poll), dead_letter),
        BatchConsumer(bus, USAGE, _guarded(reports.calls), dead_letter, split_reports),
    ]
    for spec, consumer in zip((CATALOG, OBSERVATION, USAGE), consumers, strict=True):
        health.add(spec.durable, consumer.problem)
        tasks.start(spec.durable, consumer.run)

    def on_notice(channel: str) -> None:
        if channel == OUTBOX_NOTICE:
            outbox.wake.set()
        else:
            snapshot.wake(urgent=channel == TENANTS_NOTICE)

    tasks.start("snapshot", snapshot.run)
    tasks.start("notices", lambda: database.listen(NOTICES, on_notice))
    tasks.start("outbox", outbox.run)
    if delivering is not None:
        tasks.start("webhooks", delivering.run)
    tasks.start("polls", chores.ask_for_polls)
    tasks.start("lapse", chores.lapse)
    tasks.start("tidy", chores.tidy)
    tasks.start("health", chores.settle_health)
    tasks.start("measuring", reports.keep_health)
    tasks.start("feedback", chores.judge_providers)
    tasks.start("partitions", chores.make_partitions)
    tasks.start("forgive", chores.forgive)

    bus.broker.add_middleware(Answering)
    bus.answer_bytes(subjects.ROUTE, routing.route, failed=failed, workers=ROUTE_WORKERS)
    for subject, answer in (
        (subjects.LEASE_RETURN, by_bytes(LeaseReturn, leases.give_back)),
        (subjects.LEASE_PROVIDER, by_bytes(ProviderLeaseAsk, leases.provider)),
        (subjects.LEASE_ALIVE, by_bytes(GatewayAlive, leases.alive)),
    ):
        bus.answer_bytes(subject, answer, failed=failed, workers=LEASE_WORKERS)
    bus.answer(subjects.MODELS, routing.models, workers=ADMIN_WORKERS)
    bus.answer(subjects.DISCOVERY_TARGETS, discovery.targets)
    bus.answer(subjects.JOB_CLAIM, jobs.claim)
    bus.answer(subjects.JOB_HEARTBEAT, jobs.heartbeat)
    bus.answer(subjects.JOB_FINISH, jobs.finish)
    for route in ADMIN_ROUTES:
        bus.answer(subjects.admin(route.verb), _verb(admin, route.verb), workers=ADMIN_WORKERS)
    await bus.start_answering()
    try:
        yield
    finally:
        await bus.stop_answering()
        await tasks.stop()
        await reports.note_health()
        await database.close()


def _delivering(database: Database, clock: Clock, settings: RegistrySettings) -> Delivering | None:
    if settings.webhook_secret is None:
        return None
    root = settings.webhook_secret.get_secret_value()
    return Delivering(database, clock, root, allow_private=settings.webhook_allow_private)


def _verb(admin: AdminVerbs, name: str) -> Callable[[NatsMessage], Awaitable[AdminReply]]:
    """The handler of one admin verb: it takes the bytes as they came, since the proof is over just those."""

    async def verb(message: NatsMessage) -> AdminReply:
        return await admin.answer(name, message.body, str(message.headers.get(PROOF_HEADER, "")))

    return verb


def _guarded(handler: Callable[[T], Awaitable[None]]) -> Callable[[T], Awaitable[None]]:
    """What a failure of a handler means to a consumer."""

    async def guarded(delivered: T) -> None:
        try:
            await handler(delivered)
        except ValidationError as error:
            problems = error.errors(include_url=False, include_input=False, include_context=False)
            raise Poison(f"not a valid message: {problems[:3]}") from error
        except (asyncpg.DataError, asyncpg.CheckViolationError) as error:
            raise Poison(f"cannot be stored: {error}") from error
        except DatabaseUnavailable as error:
            raise TryLater(f"Postgres: {error}") from error

    return guarded


async def _set_aside(database: Database, delivery: Delivery, reason: str) -> None:
    async def add(connection: Connection) -> None:
        await connection.execute(
            catalog.SQL["add_dead_letter"],
            delivery.stream,
            delivery.stream_sequence,
            delivery.subject,
            delivery.data,
            reason[:2000].replace("\x00", ""),
        )

    try:
        await database.run(add)
    except DatabaseUnavailable as error:
        raise TryLater(str(error)) from error


def main() -> None:
    """Run the registry until it is told to stop."""
    sys.setswitchinterval(SWITCH_S)
    run_service("registry", RegistrySettings, serving)
