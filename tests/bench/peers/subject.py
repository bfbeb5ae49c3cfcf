"""A gateway that is up and ready to be measured: ours as `synaxis up` starts it, or a peer."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from tests.bench import pinning
from tests.bench.peers.children import child, end_of
from tests.bench.peers.peer import LISTENING, Launch, Peer
from tests.bench.pinning import Cores
from tests.bench.stage import Stage, prompt, running_upstream
from tests.bench.upstream import MODEL, wish

from synaxis_cli.embedded.process import machine_environment

START_WITHIN_S = 120.0
ANSWER_WITHIN_S = 10.0
LOOK_S = 0.2
_LOG = "server.log"


class NotStarted(Exception):
    """A peer does not answer as it should."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured."""

    through: str
    """Where it takes completions."""
    direct: str
    """Where the upstream does."""
    model: str
    key: str
    headers: tuple[str, ...]
    cores: Cores
    cpu_s: Callable[[], float]
    """What the gateway has taken so far, with all of its processes."""
    books_cpu_s: Callable[[], float]
    """What keeps its books has taken so far: nothing at one that keeps none."""
    settle: Callable[[], Awaitable[None]]
    """Wait until what comes after the answers is done, so that it does not disturb the next measurement."""

    def body(self, text: str, *, stream: bool = False) -> bytes:
        """A request's body with its name of the model."""
        asked: dict[str, Any] = json.loads(prompt(text, stream=stream))
        return json.dumps(asked | {"model": self.model}).encode()

    @property
    def arguments(self) -> tuple[str, ...]:
        """What the load generator has to know."""
        return tuple(word for line in self.headers for word in ("--header", line))


@asynccontextmanager
async def ours() -> AsyncIterator[Subject]:
    """The whole system, as every other benchmark of ours has it."""
    async with Stage.ready() as stage:

        def books_cpu_s() -> float:
            seconds = stage.meter().cpu_s
            return sum(seconds[name] for name in ("nats-server", "registry", "postgres"))

        async def settle() -> None:
            admitted = await stage.counters("synaxis_gateway_admissions_total", "how")
            sent = round(sum(count for how, count in admitted.items() if how != "refused"))
            await stage.ledger_lag(sent)

        yield Subject(
            through=stage.through,
            direct=stage.direct,
            model=MODEL,
            key=stage.key,
            headers=(),
            cores=stage.cores,
            cpu_s=lambda: pinning.cpu_of_family_s(stage.gateway),
            books_cpu_s=books_cpu_s,
            settle=settle,
        )


@asynccontextmanager
async def theirs(peer: Peer, folder: Path) -> AsyncIterator[Subject]:
    """A peer that is installed in `folder`, alone on the gateway's core. Raises NotStarted."""
    cores = Cores.of_this_machine()
    with pinning.staying_off_the_gateways_core(cores):
        async with running_upstream() as (_, upstream):
            launch = peer.launch(folder, upstream, _free_port())
            log = folder / _LOG
            environment = machine_environment() | {"HOME": str(folder)} | dict(launch.environment)
            async with child(
                launch.command, log, environment, directory=folder, cores=cores.gateway
            ) as process:
                subject = Subject(
                    through=await _listening(launch, process, log),
                    direct=f"{upstream}/chat/completions",
                    model=peer.model,
                    key=peer.key,
                    headers=peer.headers(upstream),
                    cores=cores,
                    cpu_s=lambda: pinning.cpu_of_family_s(process.pid),
                    books_cpu_s=lambda: 0.0,
                    settle=_nothing_to_settle,
                )
                await _answers(subject, process, log)
                yield subject


async def _nothing_to_settle() -> None:
    """What a peer does after an answer cannot be seen from here."""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def told_in(log: str) -> str | None:
    """Where a peer says that it listens; None: it has not said so yet."""
    found = (line.removeprefix(LISTENING).strip() for line in log.splitlines() if line.startswith(LISTENING))
    return next(found, None)


async def _listening(launch: Launch, process: asyncio.subprocess.Process, log: Path) -> str:
    """Where it is to be asked."""
    if launch.completions is not None:
        return launch.completions
    give_up = time.monotonic() + START_WITHIN_S
    while (told := told_in(log.read_text(errors="replace"))) is None:
        _still_there(process, log, give_up, "it never said where it listens")
        await asyncio.sleep(LOOK_S)
    return told


async def _answers(subject: Subject, process: asyncio.subprocess.Process, log: Path) -> None:
    """Wait until it answers a request; then it has to answer a stream, too."""
    give_up = time.monotonic() + START_WITHIN_S
    async with aiohttp.ClientSession() as session:
        while (status := (await _asked(session, subject, subject.body("Hello")))[0]) != 200:
            _still_there(process, log, give_up, f"it answers {status}" if status else "it does not answer")
            await asyncio.sleep(LOOK_S)
        status, text = await _asked(session, subject, subject.body(wish(2, 1), stream=True))
        if status != 200 or b"[DONE]" not in text:
            raise NotStarted(f"it answers a stream with {status} and {text[-200:]!r}")


async def _asked(session: aiohttp.ClientSession, subject: Subject, body: bytes) -> tuple[int, bytes]:
    """The status, which is 0 without an answer, and the body."""
    headers = {"Authorization": f"Bearer {subject.key}", "Content-Type": "application/json"}
    headers |= dict(line.split(": ", 1) for line in subject.headers)
    limit = aiohttp.ClientTimeout(total=ANSWER_WITHIN_S)
    try:
        async with session.post(subject.through, data=body, headers=headers, timeout=limit) as answer:
            return answer.status, await answer.read()
    except (aiohttp.ClientError, TimeoutError):
        return 0, b""


def _still_there(process: asyncio.subprocess.Process, log: Path, give_up: float, otherwise: str) -> None:
    """Raises NotStarted when there is nothing more to wait for."""
    if process.returncode is not None:
        raise NotStarted(f"it ended with {process.returncode}: {end_of(log)}")
    if time.monotonic() > give_up:
        raise NotStarted(f"{otherwise} after {START_WITHIN_S:.0f} s: {end_of(log)}")
