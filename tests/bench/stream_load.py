"""Many streams at once from a process of its own, whose events say when the upstream wrote them.

`python -m tests.bench.stream_load URL --key KEY --body FILE --streams 1000 --ramp 2 --seconds 4` prints a
line when all streams are there and it begins to count, another when it ends to, and what it counted as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import uvloop
from tests.bench.answers import Reader
from tests.bench.figures import percentiles
from tests.bench.load import LAST_ANSWERS_WITHIN_S, connected, never_collect, post
from tests.bench.pace import Pace
from tests.bench.pinning import be_prompt
from tests.bench.upstream import STAMP, STAMP_DIGITS

SETTLE_S = 0.5
"""Between the last stream's begin and the first event that counts."""
_AFTER_STAMP = len(STAMP) + STAMP_DIGITS


@dataclass
class Run:
    """What is counted: how long events took that were written from `first_ns` to `last_ns`, by the monotonic
    clock; and how many came, whenever they were written."""

    request: bytes
    first_ns: int = 0
    last_ns: int = 0
    took_ns: list[int] = field(default_factory=list)
    events: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    """0: the connection ended without a whole answer."""
    open: int = 0
    all_ended: asyncio.Event = field(default_factory=asyncio.Event)

    def ended(self, status: int) -> None:
        """One stream is at its end."""
        self.statuses[status] += 1
        self.open -= 1
        if not self.open:
            self.all_ended.set()


class Client(asyncio.Protocol):
    """One connection with one stream."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._reader = Reader()
        self._rest = b""
        self._is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by descent

    def connection_lost(self, exc: Exception | None) -> None:
        if self._is_open:
            self._is_open = False
            self._run.ended(0)

    def send(self, _due: float) -> None:
        """Ask for the stream."""
        self._is_open = True
        self._run.open += 1
        self._transport.write(self._run.request)

    def close(self) -> None:
        """Nothing more is wanted of it."""
        self._is_open = False
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        now, run = time.monotonic_ns(), self._run
        is_complete = self._reader.feed(data)
        text = self._rest + data
        place = 0
        while (found := text.find(STAMP, place)) >= 0 and found + _AFTER_STAMP <= len(text):
            place = found + _AFTER_STAMP
            written = int(text[place - STAMP_DIGITS : place])
            run.events += 1
            if run.first_ns <= written < run.last_ns:
                run.took_ns.append(now - written)
        # What an event has been cut in is looked at again with the rest of it.
        self._rest = b"" if data.endswith(b"\n") else text[place:]
        if is_complete:
            self._is_open = False
            run.ended(self._reader.status)


async def load(url: str, request: bytes, streams: int, ramp_s: float, seconds: float) -> dict[str, Any]:
    """Open the streams, count for so long, and wait for their ends, but not for ever."""
    run = Run(request)
    clients = await connected(url, streams, lambda: Client(run))
    waiting = list(clients)
    pace = Pace(streams / ramp_s, lambda due: waiting.pop().send(due) if waiting else None)
    await asyncio.sleep(ramp_s + SETTLE_S)
    pace.close()
    run.first_ns = time.monotonic_ns()
    run.last_ns = run.first_ns + round(seconds * 1e9)
    print("counting", flush=True)
    cpu, events = time.process_time(), run.events
    await asyncio.sleep(seconds)
    cpu_s, came = time.process_time() - cpu, run.events - events
    print("counted", flush=True)
    if run.open:
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_ANSWERS_WITHIN_S):
                await run.all_ended.wait()
        if run.open:
            run.statuses[0] += run.open
    for client in clients:
        client.close()
    return {
        "came": came,
        "events_per_s": came / seconds,
        "ms": percentiles([each / 1e9 for each in run.took_ns]),
        "statuses": {str(status): count for status, count in run.statuses.items()},
        "cpu_share": round(cpu_s / seconds, 3),
    }


def main() -> None:
    """Run it by hand or from the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--key", default="none")
    parser.add_argument("--body", type=Path, required=True)
    parser.add_argument("--streams", type=int, default=1_000)
    parser.add_argument("--ramp", type=float, default=2.0)
    parser.add_argument("--seconds", type=float, default=4.0)
    said = parser.parse_args()
    request = post(said.url, said.key, said.body.read_bytes())
    never_collect()
    be_prompt()
    found = uvloop.run(load(said.url, request, said.streams, said.ramp, said.seconds))
    json.dump(found, sys.stdout)
    print()


if __name__ == "__main__":
    main()
