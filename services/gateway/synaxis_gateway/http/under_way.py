"""The requests that are being answered: to wait for when a gateway stops, and to cut in the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from synaxis_common.logging import get_logger

log = get_logger(__name__)


class UnderWay:
    """The tasks of requests."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self.add: Callable[[asyncio.Task[Any]], None] = self._tasks.add
        """A request is being answered by this task. A set's own method: every request comes by."""
        self._none = asyncio.Event()

    def discard(self, task: asyncio.Task[Any]) -> None:
        """It is answered."""
        self._tasks.discard(task)
        if not self._tasks:
            self._none.set()

    async def finished(self, timeout: float) -> bool:
        """Wait for all of them, at most `timeout` seconds; whether all are done."""
        if not self._tasks:
            return True
        self._none.clear()
        try:
            async with asyncio.timeout(timeout):
                await self._none.wait()
        except TimeoutError:
            log.warning("requests_not_finished", count=len(self._tasks))
            return False
        return True

    async def cut(self, timeout: float) -> None:
        """Cancel all of them, and wait at most `timeout` seconds for their clean-up."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=timeout)
