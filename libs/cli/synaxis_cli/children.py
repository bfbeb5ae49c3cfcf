"""Child processes that are kept alive: one that ends is said so and started again, with back-off."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Callable, Mapping

from synaxis_cli.embedded.process import dies_with_parent

FIRST_DELAY_S = 0.5
MAX_DELAY_S = 30.0
HEALTHY_AFTER_S = 60.0
"""A child that lived so long is no longer taken to be crashing in a loop."""
GRACE_S = 30.0

Say = Callable[[str], None]


class Child:
    """One process of a service."""

    def __init__(
        self, name: str, module: str, environment: Mapping[str, str], say: Say, *arguments: str
    ) -> None:
        self.name = name
        self.arguments = arguments
        self._command = (sys.executable, "-m", module, *arguments)
        self._environment = dict(environment)
        self._say = say
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def pid(self) -> int | None:
        """Of the process that runs now."""
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """Start, and keep it running from now on."""
        await self._spawn()
        self._keeper = asyncio.create_task(self._keep(), name=self.name)

    async def stop(self) -> None:
        """Ask it to stop, and end it when it has not after the grace time."""
        self._stopping = True
        process = self._process
        if process is not None and process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(GRACE_S):
                    await process.wait()
            except TimeoutError:
                self._say(f"{self.name} did not stop within {GRACE_S:.0f} s and is killed")
                self.kill()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)

    def kill(self) -> None:
        """End it at once."""
        self._stopping = True
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def _spawn(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=sys.stderr.fileno(),
            start_new_session=True,
            preexec_fn=dies_with_parent(),
        )

    async def _keep(self) -> None:
        delay = FIRST_DELAY_S
        while True:
            assert self._process is not None
            begun = time.monotonic()
            status = await self._process.wait()
            if self._stopping:
                return
            if time.monotonic() - begun > HEALTHY_AFTER_S:
                delay = FIRST_DELAY_S
            self._say(f"{self.name} ended ({_why(status)}); started again in {delay:g} s")
            await asyncio.sleep(delay)
            delay = min(delay * 2, MAX_DELAY_S)
            await self._spawn()


def _why(status: int) -> str:
    return f"exit status {status}" if status >= 0 else f"signal {signal.Signals(-status).name}"
