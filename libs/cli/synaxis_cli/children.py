"""Child processes that are kept alive: one that ends is said so and started again, with back-off."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from synaxis_cli.embedded.process import EmbeddedServer, ServerFailed, dies_with_parent
from synaxis_cli.ports import free_port

FIRST_DELAY_S = 0.5
MAX_DELAY_S = 30.0
HEALTHY_AFTER_S = 60.0
"""A child that lived so long is no longer taken to be crashing in a loop."""
GRACE_S = 30.0
"""More than the 25 s that a service by default takes at most to finish what it has begun."""
SERVER_LOOK_S = 0.2
"""How often an embedded server is looked at."""
EXIT_CONFIG = 78
"""`EX_CONFIG` of sysexits.h: what our services end with when their settings are wrong."""

Say = Callable[[str], None]


@dataclass
class Backoff:
    """How long to wait before a child is started again: longer each time, until one lives long enough."""

    delay_s: float = field(default=FIRST_DELAY_S, init=False)

    def after(self, lived_s: float) -> float:
        """The wait after a life of `lived_s`, in seconds."""
        if lived_s >= HEALTHY_AFTER_S:
            self.delay_s = FIRST_DELAY_S
        wait, self.delay_s = self.delay_s, min(self.delay_s * 2, MAX_DELAY_S)
        return wait


class Child:
    """One process of ours, run by its module."""

    def __init__(
        self,
        name: str,
        module: str,
        environment: Mapping[str, str],
        say: Say,
        *arguments: str,
        is_worker: bool = False,
    ) -> None:
        self.name = name
        self.health_url: str | None = None
        """Of a worker that runs: where it says how it is."""
        self.is_misconfigured = False
        """Whether it ended by saying that its settings are wrong, which no new start will mend."""
        self._command = (sys.executable, "-m", module, *arguments)
        self._environment = dict(environment)
        self._say, self._is_worker = say, is_worker
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def pid(self) -> int | None:
        """Of the process that runs now."""
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """Start, and keep it running from now on. Raises OSError when the machine cannot."""
        self._process = await self._spawn()
        self._keeper = asyncio.create_task(self._keep(self._process), name=self.name)

    async def stop(self, grace_s: float = GRACE_S) -> None:
        """Ask it to stop, and end it when it has not after the grace time."""
        self._stopping = True
        if self._keeper is None:
            return
        process = self._process
        if process is not None and process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(grace_s):
                    await process.wait()
            except TimeoutError:
                self._say(f"{self.name} did not stop within {grace_s:g} s and is killed")
                process.kill()
                await process.wait()
        self._keeper.cancel()
        await asyncio.gather(self._keeper, return_exceptions=True)

    def kill(self) -> None:
        """End it at once, and for good."""
        self._stopping = True
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def _spawn(self) -> asyncio.subprocess.Process:
        if self._is_worker:
            # A new one each time: were its port taken meanwhile, it would never come back.
            port = free_port()
            self._environment["SYNAXIS_HEALTH_PORT"] = str(port)
            self.health_url = f"http://127.0.0.1:{port}"
        return await asyncio.create_subprocess_exec(
            *self._command,
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=sys.stderr.fileno(),  # standard output is for what `up` itself has to say
            start_new_session=True,
            preexec_fn=dies_with_parent(),
        )

    async def _keep(self, process: asyncio.subprocess.Process) -> None:
        backoff = Backoff()
        while True:
            begun = time.monotonic()
            status = await process.wait()
            if self._stopping:
                return
            self.is_misconfigured = status == EXIT_CONFIG
            process = await self._again(f"{self.name} ended ({_why(status)})", backoff, begun)

    async def _again(self, said: str, backoff: Backoff, begun: float) -> asyncio.subprocess.Process:
        while True:
            delay = backoff.after(time.monotonic() - begun)
            self._say(f"{said}; started again in {delay:g} s")
            await asyncio.sleep(delay)
            begun = time.monotonic()
            try:
                self._process = await self._spawn()
            except OSError as error:  # no memory or no process to be had, which may pass
                said = f"{self.name} could not be started ({error.strerror})"
                continue
            return self._process


class KeptServer:
    """An embedded server that is started again, on the same port, when it ends."""

    def __init__(self, server: EmbeddedServer, say: Say) -> None:
        self._server, self._say = server, say
        self._keeper: asyncio.Task[None] | None = None
        self._stopping = False

    async def start(self, attempts: int = 3) -> None:
        """Start, and keep it running from now on. Raises ServerFailed.

        A port that it cannot have is given up for another; a predecessor's last process may still be going.
        """
        await asyncio.to_thread(self._server.prepare)
        for left in reversed(range(attempts)):
            try:
                await self._launch()
                break
            except ServerFailed:
                if not left:
                    raise
                self._server.forget_port()
                await asyncio.sleep(FIRST_DELAY_S)
        self._keeper = asyncio.create_task(self._keep(), name=self._server.name)

    async def stop(self) -> None:
        """Stop it cleanly."""
        self._stopping = True
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        await asyncio.to_thread(self._server.stop)

    def kill(self) -> None:
        """End it at once, and for good."""
        self._stopping = True
        self._server.kill()

    async def _launch(self) -> None:
        # On this thread, which lives as long as the process: the server is to die with it, not with a worker.
        self._server.launch()
        await asyncio.to_thread(self._server.await_ready)

    async def _keep(self) -> None:
        backoff = Backoff()
        begun = time.monotonic()
        while True:
            await asyncio.sleep(SERVER_LOOK_S)
            if self._server.is_running or self._stopping:
                continue
            delay = backoff.after(time.monotonic() - begun)
            self._say(f"{self._server.name} ended; started again in {delay:g} s")
            await asyncio.sleep(delay)
            begun = time.monotonic()
            try:
                await self._launch()
            except (ServerFailed, OSError) as error:
                self._say(str(error))


def _why(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:
        return f"signal {-status}"
