"""The life of a service: start, serve until told to stop, drain, stop. The same for all four."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import uvloop

from synaxis_common.bus import Bus
from synaxis_common.clock import Clock, SystemClock
from synaxis_common.health import Health, HealthServer
from synaxis_common.logging import configure_logging, get_logger
from synaxis_common.settings import ServiceSettings
from synaxis_common.tasks import TaskSupervisor

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Runtime:
    """What a service is given to work with."""

    bus: Bus
    tasks: TaskSupervisor
    health: Health
    clock: Clock


Application = Callable[[Runtime], AbstractAsyncContextManager[None]]
"""Entered: the service works. Left: it has drained."""


def run_service(
    name: str, settings: ServiceSettings, application: Application, *, own_http: bool = False
) -> None:
    """Run a service until SIGTERM or SIGINT. `own_http`: it serves the health endpoints itself."""
    configure_logging(name, settings.log_level)
    uvloop.run(_serve(name, settings, application, own_http))


async def _serve(name: str, settings: ServiceSettings, application: Application, own_http: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    bus = Bus(settings, name)
    health = Health()
    runtime = Runtime(bus=bus, tasks=TaskSupervisor(), health=health, clock=SystemClock())
    server = None if own_http else HealthServer(health, settings.health_host, settings.health_port)
    serving = asyncio.create_task(_live(settings, application, runtime, server, stop), name=name)
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    health.stopping = True
    if not serving.done():
        try:
            async with asyncio.timeout(settings.shutdown_grace_s):
                await serving
        except TimeoutError:
            log.error("stopped_with_work_left", grace_s=settings.shutdown_grace_s)
    stopping.cancel()
    if serving.done() and not serving.cancelled():
        serving.result()


class _Starting:
    """Not ready before the application has been entered, whatever its own checks say."""

    is_over = False

    def problem(self) -> str | None:
        return None if self.is_over else "starting"


async def _live(
    settings: ServiceSettings,
    application: Application,
    runtime: Runtime,
    server: HealthServer | None,
    stop: asyncio.Event,
) -> None:
    starting = _Starting()
    runtime.health.add("bus", runtime.bus.problem)
    runtime.health.add("application", starting.problem)
    if server is not None:
        await server.start()
    try:
        connecting = asyncio.create_task(runtime.bus.connect())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({connecting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not connecting.done():
            connecting.cancel()
            return
        connecting.result()
        async with application(runtime):
            starting.is_over = True
            log.info("started")
            await stop.wait()
            log.info("stopping")
        await runtime.tasks.stop()
        await runtime.bus.close()
        log.info("stopped")
    finally:
        if server is not None:
            await server.stop()
