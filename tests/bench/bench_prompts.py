"""What large prompts cost: their bytes have to come in and go out again."""

from __future__ import annotations

from typing import Any

from tests.bench.length import Length
from tests.bench.stage import Stage, prompt

SIZES = {"of_32_kb": 32_000, "of_1_mb": 1_000_000}
CONNECTIONS = 4


async def measure(length: Length) -> dict[str, Any]:
    """A closed loop of few clients for each size."""
    async with Stage.ready() as stage:
        return {name: await _of_size(stage, length, size) for name, size in SIZES.items()}


async def _of_size(stage: Stage, length: Length, size: int) -> dict[str, Any]:
    body = prompt("Hello " * (size // 6))
    arguments = ("--connections", str(CONNECTIONS), "--seconds")
    direct = await stage.load(stage.direct, body, *arguments, str(length.direct_s))
    await stage.load(stage.through, body, *arguments, str(length.direct_s / 2))  # leases grow with traffic
    before = stage.meter()
    through = await stage.load(stage.through, body, *arguments, str(length.through_s))
    after = stage.meter()
    return {
        "requests_per_s": through["requests_per_s"],
        "direct_requests_per_s": direct["requests_per_s"],
        "p50_ms": through["ms"]["p50"],
        "direct_p50_ms": direct["ms"]["p50"],
        "statuses": through["statuses"],
        **before.cpu_us_each(after, through["requests"], ("gateway",)),
        **before.shares(after),
        "load_share": through["cpu_share"],
    }
