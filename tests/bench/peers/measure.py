"""The same load through any gateway: closed loops of 1, 32 and 64 clients, and a stream."""

from __future__ import annotations

import time
from typing import Any

from tests.bench.figures import added
from tests.bench.length import Length
from tests.bench.peers.subject import Subject
from tests.bench.pinning import Busy
from tests.bench.stage import limited_by, load
from tests.bench.upstream import wish

CLIENTS = (1, 32, 64)
WARM_CLIENTS = 32
TEXT = "Hello " * 100
CHUNKS, GAP_MS = 20, 5
"""Of a stream: what holds chunks back, or sends them in packets that wait for one another, shows. It lasts
longer than a first chunk is held back, as one of the peers does for 25 ms."""


async def measure(subject: Subject, length: Length) -> dict[str, Any]:
    """Figures by name. Raises RuntimeError when the load generator fails."""
    body, stream = subject.body(TEXT), subject.body(wish(CHUNKS, GAP_MS), stream=True)
    # A just-in-time compiler, leases and pools of connections have to have seen traffic first.
    await _load(subject, subject.through, body, WARM_CLIENTS, length.direct_s)
    await _load(subject, subject.through, stream, 1, length.direct_s / 2)
    await subject.settle()
    found: dict[str, Any] = {}
    for clients in CLIENTS:
        found[f"clients_{clients}"] = await _closed(subject, body, clients, length)
    found["stream"] = await _stream(subject, stream, length)
    return found


async def _load(subject: Subject, url: str, body: bytes, clients: int, seconds: float) -> dict[str, Any]:
    arguments = ("--connections", str(clients), "--seconds", str(seconds), *subject.arguments)
    return await load(url, subject.key, body, *arguments)


async def _closed(subject: Subject, body: bytes, clients: int, length: Length) -> dict[str, Any]:
    direct = await _load(subject, subject.direct, body, clients, length.direct_s)
    cores = subject.cores
    cpu_s, books_s = subject.cpu_s(), subject.books_cpu_s()
    core, others, begun = Busy.now(cores.gateway), Busy.now(cores.others), time.perf_counter()
    through = await _load(subject, subject.through, body, clients, length.through_s)
    took = time.perf_counter() - begun
    busy, stolen = Busy.now(cores.gateway).share_since(core)
    others_busy, others_stolen = Busy.now(cores.others).share_since(others)
    cpu_s = subject.cpu_s() - cpu_s
    await subject.settle()
    books_s = subject.books_cpu_s() - books_s
    answered = max(through["requests"], 1)
    return {
        "requests_per_s": through["requests_per_s"],
        "cpu_us": round(cpu_s / answered * 1e6, 1),
        "books_cpu_us": round(books_s / answered * 1e6, 1),
        **{f"{place}_ms": value for place, value in through["ms"].items()},
        **added(through["ms"], direct["ms"]),
        "gateway_share": round(cpu_s / took, 2),
        "gateways_core_share": round(busy, 2),
        "other_cores_share": round(others_busy, 2),
        "stolen_share": round(max(stolen, others_stolen), 2),
        "limited_by": limited_by(cpu_s / took, busy, others_busy),
        "direct": {"requests_per_s": direct["requests_per_s"]}
        | {f"{place}_ms": value for place, value in direct["ms"].items()},
        "statuses": through["statuses"],
    }


async def _stream(subject: Subject, body: bytes, length: Length) -> dict[str, Any]:
    """One stream after another: a rate that the slowest can follow would be too low to count anything."""
    direct = await _load(subject, subject.direct, body, 1, length.direct_s)
    through = await _load(subject, subject.through, body, 1, length.through_s)
    await subject.settle()
    return {
        "first_token": {
            **added(through["first_byte_ms"], direct["first_byte_ms"]),
            **{f"{place}_ms": value for place, value in through["first_byte_ms"].items()},
        },
        "first_to_last_chunk": {
            **{f"{place}_ms": value for place, value in through["body_ms"].items()},
            "direct_p50_ms": direct["body_ms"]["p50"],
        },
        "last_chunk": added(through["ms"], direct["ms"]),
        "streams": through["requests"],
        "statuses": through["statuses"],
    }
