"""Load from a process of its own: closed loop, or open loop at a fixed rate.

`python -m tests.bench.load URL --key KEY --connections 32 --seconds 5 [--rate 500] --body FILE` prints JSON.
Latency in an open loop counts from when a request was due, so that a server that stalls cannot hide it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import httptools
import uvloop


@dataclass
class Run:
    """What one run measured."""

    seconds: float
    took: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    """From a request to the first byte of its body."""
    late: list[float] = field(default_factory=list)
    """From when a request was due until it was sent: the generator's own lateness."""
    statuses: Counter[int] = field(default_factory=Counter)
    bytes_in: int = 0

    def summary(self) -> dict[str, Any]:
        """Rates and percentiles in milliseconds."""
        return {
            "requests": len(self.took),
            "requests_per_s": round(len(self.took) / self.seconds, 1),
            "ms": percentiles(self.took),
            "first_byte_ms": percentiles(self.first),
            "late_ms": percentiles(self.late),
            "statuses": dict(self.statuses),
            "mbytes_in": round(self.bytes_in / 1e6, 2),
        }


def percentiles(seconds: list[float]) -> dict[str, float]:
    """p50, p95, p99 and the largest, in milliseconds."""
    if not seconds:
        return {}
    ordered = sorted(seconds)
    last = len(ordered) - 1
    places = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
    return {name: round(ordered[round(last * place)] * 1e3, 3) for name, place in places.items()}


class Client(asyncio.Protocol):
    """One kept-alive connection with one request at a time."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._parser = httptools.HttpResponseParser(self)
        self._due = 0.0
        self._has_body = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by descent
        self._load.idle(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._load.is_over:
            self._load.lost()

    def send(self, due: float) -> None:
        """Send the request, which was due at `due`."""
        self._due = due
        self._has_body = False
        self._load.run.late.append(time.perf_counter() - due)
        self._transport.write(self._load.request)

    def data_received(self, data: bytes) -> None:
        self._load.run.bytes_in += len(data)
        self._parser.feed_data(data)

    def on_body(self, _body: bytes) -> None:
        if not self._has_body:
            self._has_body = True
            self._load.run.first.append(time.perf_counter() - self._due)

    def on_message_complete(self) -> None:
        self._load.run.took.append(time.perf_counter() - self._due)
        self._load.run.statuses[self._parser.get_status_code()] += 1
        self._parser = httptools.HttpResponseParser(self)
        self._load.idle(self)


class Load:
    """All connections of a run."""

    def __init__(self, request: bytes, run: Run, rate: float | None) -> None:
        self.request, self.run, self._rate = request, run, rate
        self._idle: deque[Client] = deque()
        self._due: deque[float] = deque()
        self._end = 0.0
        self._is_begun = False
        self.is_over = False

    def begin(self) -> None:
        """All connections are there."""
        self._is_begun = True
        now = time.perf_counter()
        self._end = now + self.run.seconds
        if self._rate is None:
            for client in list(self._idle):
                client.send(now)
            self._idle.clear()

    def idle(self, client: Client) -> None:
        """A connection has nothing to do."""
        now = time.perf_counter()
        if not self._is_begun:
            self._idle.append(client)
        elif self._rate is None:
            if now < self._end:
                client.send(now)
        elif self._due:
            client.send(self._due.popleft())
        else:
            self._idle.append(client)

    def lost(self) -> None:
        """A connection was closed by the server."""
        self.run.statuses[0] += 1

    async def pace(self) -> None:
        """Open loop: let requests become due at the rate, whatever the server does."""
        assert self._rate is not None
        begun = time.perf_counter()
        sent = 0
        while (now := time.perf_counter()) < self._end:
            while sent < (now - begun) * self._rate:
                due = begun + sent / self._rate
                sent += 1
                if self._idle:
                    self._idle.popleft().send(due)
                else:
                    self._due.append(due)
            await asyncio.sleep(0.0005)


async def load(url: str, request: bytes, connections: int, seconds: float, rate: float | None) -> Run:
    """Make the load, and wait for the answers under way."""
    parts = urlsplit(url)
    run = Run(seconds)
    made = Load(request, run, rate)
    loop = asyncio.get_running_loop()
    transports = []
    for _ in range(connections):
        transport, _ = await loop.create_connection(
            lambda: Client(made), parts.hostname or "", parts.port or 80
        )
        transports.append(transport)
    made.begin()
    if rate is None:
        await asyncio.sleep(seconds)
    else:
        await made.pace()
    await asyncio.sleep(0.2)
    made.is_over = True
    for transport in transports:
        transport.abort()
    return run


def post(url: str, key: str, body: bytes) -> bytes:
    """The request as it goes over the wire."""
    parts = urlsplit(url)
    return (
        f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def main() -> None:
    """Run it by hand or from the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--key", default="none")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rate", type=float, default=None)
    parser.add_argument("--body", type=Path, required=True)
    said = parser.parse_args()
    request = post(said.url, said.key, said.body.read_bytes())
    run = uvloop.run(load(said.url, request, said.connections, said.seconds, said.rate))
    json.dump(run.summary(), sys.stdout)
    print()


if __name__ == "__main__":
    main()
