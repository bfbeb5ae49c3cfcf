"""Many streams at once, from a process of its own: how late each event comes, and how many come.

`python -m tests.bench.stream_load URL --key KEY --streams 1000 --seconds 6` prints JSON. The upstream writes
the time into each event (`@<nanoseconds> `); the clock is the machine's, and so the same in both processes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from typing import cast
from urllib.parse import urlsplit

import uvloop
from tests.bench.load import percentiles, post
from tests.bench.upstream import MODEL

BODY = json.dumps(
    {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "stream": True},
    separators=(",", ":"),
).encode()
SAMPLE = 16
"""Of so many events one is timed: reading every stamp would cost more than the stream."""


class Stream(asyncio.Protocol):
    """One stream; begins at once, and is cut at the end."""

    def __init__(self, request: bytes, seen: Seen) -> None:
        self._request, self._seen = request, seen
        self._count = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        seen = self._seen
        if not seen.is_counting:
            return
        events = data.count(b"@")
        seen.events += events
        self._count += events
        if self._count >= SAMPLE:
            self._count = 0
            at = data.rfind(b"@")
            if at >= 0:
                stamp, end, _ = data[at + 1 :].partition(b" ")
                if end:
                    seen.late.append((time.monotonic_ns() - int(stamp)) / 1e9)

    def connection_lost(self, exc: Exception | None) -> None:
        self._seen.lost += 1


class Seen:
    """What all streams saw."""

    def __init__(self) -> None:
        self.events = 0
        self.lost = 0
        self.late: list[float] = []
        self.is_counting = False


async def run(url: str, key: str, streams: int, seconds: float, settle_s: float) -> dict[str, object]:
    """Begin all, wait until they are there, count, cut."""
    parts = urlsplit(url)
    request, seen = post(url, key, BODY), Seen()
    loop = asyncio.get_running_loop()
    made = []
    for number in range(streams):
        _, stream = await loop.create_connection(
            lambda: Stream(request, seen), parts.hostname or "", parts.port or 80
        )
        made.append(stream)
        if number % 20 == 19:
            await asyncio.sleep(0.01)
    await asyncio.sleep(settle_s)
    cpu, begun = time.process_time(), time.monotonic()
    seen.is_counting = True
    print("counting", file=sys.stderr, flush=True)
    await asyncio.sleep(seconds)
    seen.is_counting = False
    took = time.monotonic() - begun
    lost = seen.lost
    result = {
        "events_per_s": round(seen.events / took),
        "late_ms": percentiles(seen.late),
        "streams_lost": lost,
        "load_share_of_core": round((time.process_time() - cpu) / took, 3),
    }
    for stream in made:
        stream.transport.abort()
    return result


def main() -> None:
    """Run it by hand or from the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--key", default="none")
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--settle", type=float, default=2.0)
    said = parser.parse_args()
    print(json.dumps(uvloop.run(run(said.url, said.key, said.streams, said.seconds, said.settle))))


if __name__ == "__main__":
    main()
