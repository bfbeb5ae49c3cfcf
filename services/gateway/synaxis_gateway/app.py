"""The gateway, wired: clients come in over HTTP, plans over the bus, answers from providers."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from nats.aio.msg import Msg
from pydantic import ValidationError

from synaxis_common import subjects
from synaxis_common.bus import BusUnavailable
from synaxis_common.contracts.leases import ALIVE_EVERY_S, PlansStale
from synaxis_common.logging import get_logger
from synaxis_common.service import Runtime, run_service
from synaxis_gateway.admission.admission import Admission
from synaxis_gateway.admission.provider_limits import ProviderLimits
from synaxis_gateway.admission.returns import Returns
from synaxis_gateway.dispatch.attempt import Attempts
from synaxis_gateway.dispatch.cover import Cover
from synaxis_gateway.dispatch.failover import Failover
from synaxis_gateway.dispatch.reports import Reports
from synaxis_gateway.dispatch.retry_budget import RetryBudget
from synaxis_gateway.dispatch.sharing import Sharing
from synaxis_gateway.events.hub import Hub
from synaxis_gateway.events.stream import EventStream
from synaxis_gateway.events.tenants import by_registry
from synaxis_gateway.http.admin import AdminHandlers
from synaxis_gateway.http.asyncapi import AsyncApiHandlers
from synaxis_gateway.http.auth import TenantKeys
from synaxis_gateway.http.events import EventsHandlers
from synaxis_gateway.http.journal import Journal
from synaxis_gateway.http.models import ModelsHandlers
from synaxis_gateway.http.openai import OpenAIHandlers
from synaxis_gateway.http.server import HttpServer, build_app
from synaxis_gateway.routing import Registry
from synaxis_gateway.settings import GatewaySettings
from synaxis_gateway.spool import Spool
from synaxis_gateway.upstream.client import UpstreamClient

log = get_logger(__name__)

SWEEP_EVERY_S = 0.25
"""How soon after its end a lease is given back."""
FLUSH_RESERVE_S = 5.0
"""Of the grace period, for cutting what did not finish, storing reports and closing connections."""


@asynccontextmanager
async def serving(
    runtime: Runtime, settings: GatewaySettings, environment: Mapping[str, str] = os.environ
) -> AsyncIterator[HttpServer]:
    """The running gateway. `environment` holds the providers' keys."""
    clock, tasks = runtime.clock, runtime.tasks
    gateway_id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
    client = UpstreamClient(settings.max_answer_bytes)
    registry = Registry(runtime.bus, clock, settings.route_timeout_s)
    stream = EventStream(runtime.bus)
    hub = Hub(stream)
    returns = Returns(runtime.bus, clock)
    admission = Admission(registry, clock, returns, gateway_id, settings.plan_hard_age_s)
    provider_limits = ProviderLimits(registry, clock, returns, gateway_id)
    spool = None if settings.spool_dir is None else Spool(settings.spool_dir, gateway_id)
    reports = Reports(runtime.bus, clock, settings.report_queue_size, spool)
    sharing = Sharing(runtime.bus, clock, gateway_id)
    failover = Failover(
        Attempts(client, environment, settings.proxies),
        RetryBudget(),
        sharing.cooldowns,
        Cover(admission, provider_limits),
    )
    openai = OpenAIHandlers(settings, clock, admission, failover, reports, gateway_id)
    routes = [
        *openai.routes(),
        *ModelsHandlers(registry).routes(),
        *EventsHandlers(stream, hub, by_registry(registry)).routes(),
        *AdminHandlers(settings, runtime.bus, runtime.clock).routes(),
        *AsyncApiHandlers().routes(),
    ]
    keys, journal = TenantKeys(settings.key_pepper.get_secret_value()), Journal(clock)
    app = build_app(settings, clock, runtime.health, routes, keys, journal)
    server = HttpServer(app, settings, openai.hot(), keys, journal, clock)
    runtime.health.add("call_reports", reports.problem)
    runtime.bus.on_reconnect(reports.send_again)
    tasks.start("call_reports", reports.run)
    tasks.start("spool_adoption", reports.adopt)
    if spool is not None:
        tasks.start("spool_sync", spool.sync)
    tasks.start("journal", journal.run)
    tasks.start("events", hub.run)
    tasks.start("lease_returns", returns.run)
    tasks.start("lease_sweep", lambda: _sweep(admission, provider_limits))
    tasks.start("alive", lambda: _tell_alive(admission))
    tasks.start("sightings", sharing.run)
    await sharing.listen()
    await _listen(runtime, admission)
    try:
        await server.start()
        yield server
        server.let_go()
        if settings.drain_delay_s:
            await asyncio.sleep(settings.drain_delay_s)
        await server.stop_accepting()
        hub.close()  # streams of events have no end of their own
        patience = settings.shutdown_grace_s - settings.drain_delay_s - FLUSH_RESERVE_S
        openai.abandoning = not await server.finish(max(patience, 0.0))
    finally:
        await server.cut()
        await client.close()
        await admission.close()
        provider_limits.close()
        await reports.flush(FLUSH_RESERVE_S / 2)
        await returns.flush(FLUSH_RESERVE_S / 4)
        if spool is not None:
            spool.close()
        journal.flush()


async def _listen(runtime: Runtime, admission: Admission) -> None:
    """Hear from the registries what makes plans wrong."""

    async def told(message: Msg) -> None:
        try:
            admission.stale(PlansStale.model_validate_json(message.data))
        except ValidationError:
            log.warning("hint_not_understood", subject=message.subject)
            admission.missed_hints()

    async def back() -> None:
        admission.missed_hints()

    await runtime.bus.client.subscribe(subjects.PLANS_STALE, cb=told)
    runtime.bus.on_reconnect(back)


async def _sweep(admission: Admission, provider_limits: ProviderLimits) -> None:
    while True:
        await asyncio.sleep(SWEEP_EVERY_S)
        admission.sweep()
        provider_limits.sweep()


async def _tell_alive(admission: Admission) -> None:
    while True:
        try:
            await admission.tell_alive()
        except BusUnavailable as error:
            log.debug("alive_not_heard", error=str(error))
        await asyncio.sleep(ALIVE_EVERY_S)


def main() -> None:
    """Run the gateway until it is told to stop."""
    run_service("gateway", GatewaySettings, serving, own_http=True)
