"""Load from a process of its own: closed loop, or open loop at a fixed rate.

`python -m tests.bench.load URL --key KEY --connections 64 --seconds 5 [--rate 500] --body FILE` prints JSON.
Latency in an open loop counts from when a request was due, so that a server that stalls cannot hide it.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import uvloop
from tests.bench.answers import Reader
from tests.bench.figures import percentiles
from tests.bench.pace import Pace
from tests.bench.pinning import be_prompt

LAST_ANSWERS_WITHIN_S = 10.0
ProtocolT = TypeVar("ProtocolT", bound=asyncio.Protocol)


@dataclass
class Run:
    """What one run measured. Times are in seconds."""

    took: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    """From a request to the first byte of its body."""
    body_lasted: list[float] = field(default_factory=list)
    """From the first byte of a body to its last."""
    late: list[float] = field(default_factory=list)
    """Open loop: how late this process looked after it was due."""
    waited: int = 0
    """Open loop: requests for which no connection was free when they were due."""
    statuses: Counter[int] = field(default_factory=Counter)
    """0: the connection ended without a whole answer."""
    events: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0

    def summary(self) -> dict[str, Any]:
        """Rates and percentiles in milliseconds."""
        return {
            "requests": len(self.took),
            "requests_per_s": round(len(self.took) / self.seconds, 1),
            "events_per_s": round(self.events / self.seconds, 1),
            "ms": percentiles(self.took),
            "first_byte_ms": percentiles(self.first),
            "body_ms": percentiles(self.body_lasted),
            "late_ms": percentiles(self.late),
            "waited_for_a_connection": self.waited,
            "statuses": {str(status): count for status, count in self.statuses.items()},
            "cpu_share": round(self.cpu_s / self.seconds, 3),
        }


class Client(asyncio.Protocol):
    """One kept-alive connection with one request at a time."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._reader = Reader()
        self._due = 0.0
        self._first = 0.0
        self._is_asking = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by descent

    def connection_lost(self, exc: Exception | None) -> None:
        if self._is_asking:
            self._load.lost()

    def send(self, due: float) -> None:
        """Send the request, which was due at `due`."""
        self._due, self._is_asking = due, True
        self._reader.begin()
        self._transport.write(self._load.request)

    def close(self) -> None:
        """Nothing more is wanted of it."""
        self._is_asking = False
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        had_body = self._reader.has_body
        is_complete = self._reader.feed(data)
        now = time.perf_counter()
        run = self._load.run
        if self._load.counts_events:
            run.events += data.count(b"data: ")
        if not had_body and self._reader.has_body:
            self._first = now
        if is_complete:
            run.first.append(self._first - self._due)
            run.body_lasted.append(now - self._first)
            run.took.append(now - self._due)
            run.statuses[self._reader.status] += 1
            self._is_asking = False
            self._load.answered(self)


class Load:
    """All connections of a run."""

    def __init__(self, request: bytes, run: Run, rate: float | None, *, counts_events: bool) -> None:
        self.request, self.run, self.counts_events = request, run, counts_events
        self._rate = rate
        self._idle: deque[Client] = deque()
        self._due: deque[float] = deque()
        self._under_way = 0
        self._is_over = False
        self._all_answered = asyncio.Event()

    async def make(self, clients: list[Client], seconds: float) -> None:
        """Ask for so long, and wait for the answers under way, but not for ever."""
        self._idle.extend(clients)
        begun, cpu = time.perf_counter(), time.process_time()
        if self._rate is None:
            while self._idle:
                self._ask(time.perf_counter())
            await asyncio.sleep(seconds)
        else:
            pace = Pace(self._rate, self._is_due)
            await asyncio.sleep(seconds)
            pace.close()
        self.run.seconds, self.run.cpu_s = time.perf_counter() - begun, time.process_time() - cpu
        self._is_over = True
        if self._under_way:
            with suppress(TimeoutError):
                async with asyncio.timeout(LAST_ANSWERS_WITHIN_S):
                    await self._all_answered.wait()
            if self._under_way:
                self.run.statuses[0] += self._under_way + len(self._due)

    def _ask(self, due: float) -> None:
        self._under_way += 1
        self._idle.popleft().send(due)

    def _is_due(self, due: float) -> None:
        self.run.late.append(time.perf_counter() - due)
        if self._idle:
            self._ask(due)
        else:
            self.run.waited += 1
            self._due.append(due)

    def answered(self, client: Client) -> None:
        """A connection has nothing to do."""
        self._idle.append(client)
        self._less_under_way()
        if self._due:
            self._ask(self._due.popleft())
        elif self._rate is None and not self._is_over:
            self._ask(time.perf_counter())

    def lost(self) -> None:
        """A connection was closed by the server before its answer was complete."""
        self.run.statuses[0] += 1
        self._less_under_way()

    def _less_under_way(self) -> None:
        self._under_way -= 1
        if self._is_over and not self._under_way and not self._due:
            self._all_answered.set()


async def connected(url: str, count: int, make: Callable[[], ProtocolT]) -> list[ProtocolT]:
    """So many connections."""
    parts = urlsplit(url)
    loop = asyncio.get_running_loop()
    made = []
    for _ in range(count):
        _, protocol = await loop.create_connection(make, parts.hostname or "", parts.port or 80)
        made.append(protocol)
    return made


async def load(
    url: str, request: bytes, connections: int, seconds: float, rate: float | None, *, counts_events: bool
) -> Run:
    """Make the load."""
    run = Run()
    made = Load(request, run, rate, counts_events=counts_events)
    clients = await connected(url, connections, lambda: Client(made))
    await made.make(clients, seconds)
    for client in clients:
        client.close()
    return run


def post(url: str, key: str, body: bytes, headers: Sequence[str] = ()) -> bytes:
    """The request as it goes over the wire; headers are lines such as `name: value`."""
    parts = urlsplit(url)
    more = "".join(f"{line}\r\n" for line in headers)
    return (
        f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer {key}\r\n{more}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def never_collect() -> None:
    """Keep this process's garbage collector from pausing what it measures; hardly any cycles are made."""
    gc.collect()
    gc.freeze()
    gc.disable()


def main() -> None:
    """Run it by hand or from the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--key", default="none")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rate", type=float, default=None, help="requests a second; unset: a closed loop")
    parser.add_argument("--body", type=Path, required=True)
    parser.add_argument("--events", action="store_true", help="count the events of streams")
    parser.add_argument("--header", action="append", default=[], help="one more line of the request's head")
    said = parser.parse_args()
    request = post(said.url, said.key, said.body.read_bytes(), said.header)
    never_collect()
    be_prompt()
    run = uvloop.run(
        load(said.url, request, said.connections, said.seconds, said.rate, counts_events=said.events)
    )
    json.dump(run.summary(), sys.stdout)
    print()


if __name__ == "__main__":
    main()
