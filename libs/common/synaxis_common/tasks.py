"""Background tasks that cannot die unnoticed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from prometheus_client import Counter

from synaxis_common.logging import get_logger

log = get_logger(__name__)

RESTARTS = Counter("synaxis_task_restarts_total", "Background tasks that failed and were restarted", ["task"])
FIRST_DELAY_S = 0.5
MAX_DELAY_S = 30.0
CANCEL_AGAIN_S = 2.0
"""Longer than a consumer takes to give back what it was fetching."""


class TaskSupervisor:
    """Runs background tasks for ever: one that fails is logged, counted and started again with back-off."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Run `work` until `stop`; when it returns it has ended, when it raises it is run again."""
        if name in self._tasks:
            raise ValueError(f"a task named {name!r} is running already")
        self._tasks[name] = asyncio.create_task(self._keep_running(name, work), name=name)

    async def stop(self, timeout: float = 5.0) -> None:
        """Cancel all tasks and wait for their clean-up, at most `timeout` seconds."""
        tasks = list(self._tasks.values())
        self._tasks.clear()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        pending = set(tasks)
        while pending and loop.time() < deadline:
            for task in pending:
                task.cancel()
            # Again and again: Python 3.11's wait_for loses a cancellation that comes together with a result.
            _, pending = await asyncio.wait(pending, timeout=CANCEL_AGAIN_S)
        for task in pending:
            log.error("task_did_not_stop", task=task.get_name())

    async def _keep_running(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        delay = FIRST_DELAY_S
        loop = asyncio.get_running_loop()
        while True:
            begun = loop.time()
            try:
                await work()
            except Exception:
                RESTARTS.labels(task=name).inc()
                log.exception("task_failed", task=name, restart_in_s=delay)
            else:
                return
            if loop.time() - begun > MAX_DELAY_S:
                delay = FIRST_DELAY_S
            await asyncio.sleep(delay)
            delay = min(delay * 2, MAX_DELAY_S)
