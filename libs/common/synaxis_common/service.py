"""The life of a service: start, serve until told to stop, drain, stop. The same for all four."""

from __future__ import annotations

import asyncio
import errno
import gc
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TypeVar

import uvloop
from pydantic import ValidationError

from synaxis_common.bus import Bus
from synaxis_common.clock import Clock, SystemClock
from synaxis_common.health import Health, HealthServer
from synaxis_common.logging import configure_logging, get_logger
from synaxis_common.settings import ServiceSettings
from synaxis_common.tasks import TaskSupervisor

log = get_logger(__name__)


CYCLES_AFTER = 50_000, 20, 20
"""Allocations between two looks for garbage in cycles, of which we make next to none; with CPython's 700 all
rows of a catalog are walked again and again. 5,000 changes are told of in 3 s, not in 4.8 (`make bench`)."""


def look_for_cycles_seldom() -> None:
    """What is there stays there, and what comes is seldom looked through."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*CYCLES_AFTER)


@dataclass(frozen=True, slots=True)
class Runtime:
    """What a service is given to work with."""

    bus: Bus
    tasks: TaskSupervisor
    health: Health
    clock: Clock


S = TypeVar("S", bound=ServiceSettings)

Application = Callable[[Runtime, S], AbstractAsyncContextManager[object]]
"""Entered: the service works. Left: it has drained."""

_Entered = Callable[[Runtime], AbstractAsyncContextManager[object]]

EXIT_CONFIG = 78
"""Exit status when a setting is missing or wrong; `EX_CONFIG` of sysexits.h."""

EXIT_OS = 71
"""Exit status when the service cannot listen where it should; `EX_OSERR` of sysexits.h."""
_NOT_OURS = frozenset({errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES})
"""The address is somebody else's."""


def run_service(name: str, kind: type[S], application: Application[S], *, own_http: bool = False) -> None:
    """Read the settings and run a service until SIGTERM or SIGINT.

    `own_http`: it serves the health endpoints itself. A wrong setting is told by name, never by its value.
    """
    try:
        settings = kind()
    except ValidationError as error:
        for problem in error.errors(include_url=False, include_input=False, include_context=False):
            variable = "_".join(str(part) for part in problem["loc"]).upper()
            said = problem["msg"].removeprefix("Value error, ")
            sys.stderr.write(f"synaxis-{name}: SYNAXIS_{variable}: {said}\n")
        sys.exit(EXIT_CONFIG)
    configure_logging(name, settings.log_level)
    look_for_cycles_seldom()
    try:
        uvloop.run(_serve(name, settings, lambda runtime: application(runtime, settings), own_http))
    except OSError as error:
        if error.errno not in _NOT_OURS:
            raise
        log.error("cannot_listen", error=str(error))
        sys.exit(EXIT_OS)


async def _serve(name: str, settings: ServiceSettings, application: _Entered, own_http: bool) -> None:
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
    application: _Entered,
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
