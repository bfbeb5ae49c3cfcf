"""The gateway, wired: clients come in over HTTP, plans over the bus, answers from providers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from synaxis_common.logging import get_logger
from synaxis_common.service import Runtime, run_service
from synaxis_gateway.dispatch.attempt import Attempts
from synaxis_gateway.dispatch.cooldown import Cooldowns
from synaxis_gateway.dispatch.failover import Failover
from synaxis_gateway.dispatch.reports import Reports
from synaxis_gateway.dispatch.retry_budget import RetryBudget
from synaxis_gateway.http.admin import AdminHandlers
from synaxis_gateway.http.models import ModelsHandlers
from synaxis_gateway.http.openai import OpenAIHandlers
from synaxis_gateway.http.server import HttpServer, build_app
from synaxis_gateway.routing import Registry
from synaxis_gateway.settings import GatewaySettings
from synaxis_gateway.upstream.client import UpstreamClient

log = get_logger(__name__)

FLUSH_RESERVE_S = 5.0
"""Of the grace period, for cutting what did not finish, storing reports and closing connections."""


@asynccontextmanager
async def serving(
    runtime: Runtime, settings: GatewaySettings, environment: Mapping[str, str] = os.environ
) -> AsyncIterator[HttpServer]:
    """The running gateway. `environment` holds the providers' keys."""
    client = UpstreamClient(settings.max_answer_bytes)
    registry = Registry(runtime.bus, runtime.clock, settings.route_timeout_s)
    reports = Reports(runtime.bus, settings.report_queue_size)
    failover = Failover(Attempts(client, environment), RetryBudget(), Cooldowns())
    openai = OpenAIHandlers(settings, runtime.clock, registry, failover, reports)
    routes = [
        *openai.routes(),
        *ModelsHandlers(registry).routes(),
        *AdminHandlers(settings, runtime.bus, runtime.clock).routes(),
    ]
    server = HttpServer(build_app(settings, runtime.clock, runtime.health, routes), settings)
    runtime.health.add("call_reports", reports.problem)
    runtime.tasks.start("call_reports", reports.run)
    try:
        await server.start()
        yield server
        if settings.drain_delay_s:
            await asyncio.sleep(settings.drain_delay_s)
        await server.stop_accepting()
        patience = settings.shutdown_grace_s - settings.drain_delay_s - FLUSH_RESERVE_S
        openai.abandoning = not await server.finish(max(patience, 0.0))
    finally:
        await server.cut()
        await client.close()
        await reports.flush(FLUSH_RESERVE_S / 2)


def main() -> None:
    """Run the gateway until it is told to stop."""
    run_service("gateway", GatewaySettings, serving, own_http=True)
