"""Streams through the gateway: the first token, as many chunks as go, and many slow ones at once."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.bench.bench_gateway import prompt
from tests.bench.processes import resident_mb
from tests.bench.stage import Stage, told

CHUNKS = 100
STREAMS = 1000
PLATEAU_MS = 30.0
"""Nagle's algorithm against delayed acknowledgements shows as a last byte some 40 ms late."""


async def quick(stage: Stage, seconds: float = 4.0) -> dict[str, Any]:
    """Streams of 100 chunks of 200 bytes without a gap."""
    body = prompt(600, stream=True)
    direct = await stage.load(stage.direct, body, 1, seconds / 2)
    alone = await stage.load(stage.through, body, 1, seconds)
    before = stage.pids.spend()["gateway"]
    many = await stage.load(stage.through, body, 16, seconds)
    spent = stage.pids.spend()["gateway"] - before
    chunks = many["requests"] * CHUNKS
    last_added = alone["ms"]["p50"] - direct["ms"]["p50"]
    return {
        "first_token_added_ms": round(alone["first_byte_ms"]["p50"] - direct["first_byte_ms"]["p50"], 3),
        "first_token_added_p99_ms": round(alone["first_byte_ms"]["p99"] - direct["first_byte_ms"]["p99"], 3),
        "last_chunk_added_ms": round(last_added, 3),
        "nagle_plateau": last_added > PLATEAU_MS,
        "chunks_per_s": round(many["requests_per_s"] * CHUNKS),
        "gateway_cpu_us_a_chunk": round(spent / max(chunks, 1) * 1e6, 2),
    }


async def paced(stage: Stage, streams: int = STREAMS, seconds: float = 6.0) -> dict[str, Any]:
    """Many streams of 50 events a second each; the upstream has to be a paced one."""
    options = ("--streams", str(streams), "--seconds", str(seconds))
    direct = await told("tests.bench.stream_load", stage.direct, *options)
    (gateway,) = stage.pids.gateway
    empty_mb = resident_mb(gateway)
    running = asyncio.create_task(
        told("tests.bench.stream_load", stage.through, "--key", stage.key, *options)
    )
    await asyncio.sleep(streams / 20 * 0.01 + 3.5)
    before, full_mb = stage.pids.spend()["gateway"], resident_mb(gateway)
    await asyncio.sleep(2.0)
    share = (stage.pids.spend()["gateway"] - before) / 2.0
    through = await running
    return {
        "streams": streams,
        "events_per_s": through["events_per_s"],
        "direct_events_per_s": direct["events_per_s"],
        **{
            f"added_{name}_ms": round(through["late_ms"][name] - direct["late_ms"][name], 3)
            for name in ("p50", "p95", "p99")
        },
        "kb_a_stream": round((full_mb - empty_mb) * 1000 / streams, 1),
        "gateway_share_of_core": round(share, 3),
        "gateway_cpu_us_an_event": round(share / max(through["events_per_s"], 1) * 1e6, 2),
        "load_share_of_core": through["load_share_of_core"],
        "streams_lost": through["streams_lost"],
    }
