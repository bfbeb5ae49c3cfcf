"""What a stream waits for its first token, how fast chunks go through, and many slow streams at once."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from typing import Any, TypeVar

from tests.bench import pinning
from tests.bench.figures import added
from tests.bench.length import Length
from tests.bench.stage import LOAD_WITHIN_S, Stage, generator, prompt, told
from tests.bench.stream_load import SETTLE_S
from tests.bench.upstream import wish

M = TypeVar("M")

SMALL_CHUNKS, SMALL_GAP_MS, SMALL_RATE = 5, 5, 100
"""A sender that waits until its last packet is acknowledged, and a receiver that takes 40 ms for that, show
in small packets that come one after another: the last of these would come 40 ms late."""
FAST_CHUNKS, FAST_CONNECTIONS = 100, 32
STREAMS, GAP_MS = 1_000, 20
RAMP_S = 2.0
SPARE_S = 1.0
"""Streams go on for so much longer than is counted."""
LOOK_S = 0.25
DIGITS = 3
"""Of a rate: a stream more or less in the last tick is no news."""


async def measure(length: Length) -> dict[str, Any]:
    """One after another on the same system."""
    async with Stage.ready() as stage:
        await _small(stage, stage.through, length.direct_s)  # leases grow with traffic, caches fill
        return {
            **await _first_and_last(stage, length),
            "fast": await _fast(stage, length),
            "paced": await _paced(stage, length),
        }


async def _small(stage: Stage, url: str, seconds: float) -> dict[str, Any]:
    body = prompt(wish(SMALL_CHUNKS, SMALL_GAP_MS), stream=True)
    return await stage.load(url, body, "--seconds", str(seconds), "--rate", str(SMALL_RATE))


async def _first_and_last(stage: Stage, length: Length) -> dict[str, Any]:
    direct = await _small(stage, stage.direct, length.direct_s)
    through = await _small(stage, stage.through, length.through_s)
    return {
        "first_token": {
            **added(through["first_byte_ms"], direct["first_byte_ms"]),
            "direct_p50_ms": direct["first_byte_ms"]["p50"],
            "through_p50_ms": through["first_byte_ms"]["p50"],
            "sent_late_p99_ms": through["late_ms"]["p99"],
            "statuses": through["statuses"],
        },
        "first_to_last_chunk": {
            "direct_p50_ms": direct["body_ms"]["p50"],
            "through_p50_ms": through["body_ms"]["p50"],
            "through_p99_ms": through["body_ms"]["p99"],
        },
    }


async def _fast(stage: Stage, length: Length) -> dict[str, Any]:
    body = prompt(wish(FAST_CHUNKS, 0), stream=True)
    arguments = ("--connections", str(FAST_CONNECTIONS), "--events", "--seconds")
    direct = await stage.load(stage.direct, body, *arguments, str(length.direct_s))
    before = stage.meter()
    through = await stage.load(stage.through, body, *arguments, str(length.through_s))
    after = stage.meter()
    return {
        "chunks_per_s": round(through["requests_per_s"] * FAST_CHUNKS),
        "events_per_s": round(through["events_per_s"]),
        "streams_per_s": through["requests_per_s"],
        "direct_chunks_per_s": round(direct["requests_per_s"] * FAST_CHUNKS),
        "statuses": through["statuses"],
        **before.cpu_us_each(after, through["requests"], ("gateway",)),
        **before.shares(after),
        "load_share": through["cpu_share"],
    }


async def _paced(stage: Stage, length: Length) -> dict[str, Any]:
    direct, _ = await _many(stage, stage.direct, length.direct_s)
    before = pinning.rss_bytes(stage.gateway)
    through, (meters, largest) = await _many(stage, stage.through, length.through_s)
    begun, ended = meters
    return {
        "events_per_s": _rounded(through["events_per_s"]),
        "direct_events_per_s": _rounded(direct["events_per_s"]),
        **added(through["ms"], direct["ms"]),
        "direct": {f"{place}_ms": took for place, took in direct["ms"].items()},
        "through": {f"{place}_ms": took for place, took in through["ms"].items()},
        "gateway_per_stream_kb": round((largest - before) / STREAMS / 1e3, 1),
        "statuses": through["statuses"],
        **begun.cpu_us_each(ended, through["came"], ("gateway", "upstream")),
        **begun.shares(ended),
        "load_share": through["cpu_share"],
        "direct_load_share": direct["cpu_share"],
    }


async def _many(stage: Stage, url: str, seconds: float) -> tuple[dict[str, Any], tuple[Any, int]]:
    """What was counted; the meters when that began and ended, and the gateway's largest size."""
    largest = 0

    def look() -> None:
        nonlocal largest
        largest = max(largest, pinning.rss_bytes(stage.gateway))

    found, begun, ended = await paced(url, stage.key, seconds, stage.meter, look)
    return found, ((begun, ended), largest)


async def paced(
    url: str,
    key: str,
    seconds: float,
    measured: Callable[[], M],
    meanwhile: Callable[[], None] = lambda: None,
) -> tuple[dict[str, Any], M, M]:
    """What was counted of many slow streams; what is `measured` when that begins, and when it ends.

    `meanwhile` is called from time to time.
    """
    chunks = round((RAMP_S + SETTLE_S + seconds + SPARE_S) * 1_000 / GAP_MS)
    arguments = ("--streams", str(STREAMS), "--ramp", str(RAMP_S), "--seconds", str(seconds))
    body = prompt(wish(chunks, GAP_MS), stream=True)
    async with generator("stream_load", url, key, body, *arguments) as out, asyncio.timeout(LOAD_WITHIN_S):
        await told(out)
        begun = measured()
        counted = asyncio.create_task(told(out))
        while not counted.done():
            meanwhile()
            await asyncio.wait({counted}, timeout=LOOK_S)
        ended = measured()
        found: dict[str, Any] = json.loads(await told(out))
    return found, begun, ended


def _rounded(value: float) -> float:
    return round(value, DIGITS - 1 - math.floor(math.log10(value))) if value else 0.0
