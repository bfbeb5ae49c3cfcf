"""What one gateway core makes in a closed loop, what it adds at fixed rates, what a request costs."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.bench import pinning
from tests.bench.figures import added
from tests.bench.length import Length
from tests.bench.stage import Meter, Stage, prompt

CONNECTIONS = 64
OPEN_LOOP_CONNECTIONS = 128
"""More than are ever needed, so that what is due does not wait for one."""
LOADS = (10, 50, 80)
"""Percent of what the closed loop made."""
REST_S = 2.0
"""In which nobody asks for anything."""
BODY = prompt("Hello " * 100)
ACCOUNTING = ("nats-server", "registry", "postgres")


async def measure(length: Length) -> dict[str, Any]:
    """Closed loop first; its rate gives the others."""
    async with Stage.ready() as stage:
        begun = stage.meter()
        await asyncio.sleep(REST_S)
        rested = stage.meter()
        at_rest = pinning.rss_bytes(stage.gateway)
        await _load(stage, stage.through, length.direct_s)  # leases grow with traffic, caches fill
        await stage.ledger_lag(await _sent(stage))
        found = await _closed(stage, length)
        found["gateway_at_rest_mb"] = round(at_rest / 1e6, 1)
        found["gateway_at_rest_share"] = begun.shares(rested)["gateway_share"]
        for percent in LOADS:
            rate = round(found["requests_per_s"] * percent / 100)
            found[f"at_{percent}"] = await _open(stage, length, rate)
        found["gateway_after_load_mb"] = round(pinning.rss_bytes(stage.gateway) / 1e6, 1)
        return found


async def _load(stage: Stage, url: str, seconds: float, rate: float | None = None) -> dict[str, Any]:
    connections = CONNECTIONS if rate is None else OPEN_LOOP_CONNECTIONS
    arguments = ["--connections", str(connections), "--seconds", str(seconds)]
    return await stage.load(url, BODY, *arguments, *([] if rate is None else ["--rate", str(rate)]))


async def _sent(stage: Stage) -> int:
    """How many requests the gateway has admitted, each of which is to be in the ledger."""
    admitted = await stage.counters("synaxis_gateway_admissions_total", "how")
    return round(sum(count for how, count in admitted.items() if how != "refused"))


async def _closed(stage: Stage, length: Length) -> dict[str, Any]:
    direct = await _load(stage, stage.direct, length.direct_s)
    known, admitted = await stage.in_ledger(), await _admissions(stage)
    before = stage.meter()
    log_bytes = stage.system.log.stat().st_size
    through = await _load(stage, stage.through, length.through_s)
    after = stage.meter()
    log_bytes = stage.system.log.stat().st_size - log_bytes
    answered = through["statuses"].get("200", 0)
    waiting = known + answered - await stage.in_ledger()
    lag_s, missing = await stage.ledger_lag(known + answered)
    stored = stage.meter()
    admitted_then = await _admissions(stage)
    return {
        "requests_per_s": through["requests_per_s"],
        "direct_requests_per_s": direct["requests_per_s"],
        "closed_p50_ms": through["ms"]["p50"],
        "closed_p99_ms": through["ms"]["p99"],
        "statuses": through["statuses"],
        "admitted": {how: count - admitted.get(how, 0.0) for how, count in admitted_then.items()},
        "log_bytes_of_a_request": round(log_bytes / max(answered, 1)),
        **before.cpu_us_each(after, answered, ("gateway", "upstream")),
        # These go on after the load, with what it left them.
        **before.cpu_us_each(stored, answered, ACCOUNTING),
        **_shares(before, after, through),
        "ledger": {"waiting": max(waiting, 0), "lag_s": round(lag_s, 2), "missing": missing},
    }


async def _admissions(stage: Stage) -> dict[str, float]:
    return await stage.counters("synaxis_gateway_admissions_total", "how")


def _shares(before: Meter, after: Meter, through: dict[str, Any]) -> dict[str, Any]:
    return {**before.shares(after), "load_share": through["cpu_share"]}


async def _open(stage: Stage, length: Length, rate: int) -> dict[str, Any]:
    direct = await _load(stage, stage.direct, length.direct_s, rate)
    before = stage.meter()
    through = await _load(stage, stage.through, length.through_s, rate)
    after = stage.meter()
    shares = before.shares(after)
    return {
        "rate": rate,
        **added(through["ms"], direct["ms"]),
        "direct": {f"{place}_ms": took for place, took in direct["ms"].items()},
        "through": {f"{place}_ms": took for place, took in through["ms"].items()},
        "sent_late": {f"{place}_ms": late for place, late in through["late_ms"].items()},
        "waited_for_a_connection": through["waited_for_a_connection"],
        "statuses": through["statuses"],
        **before.cpu_us_each(after, through["requests"], ("gateway",)),
        **{name: shares[name] for name in ("gateway_share", "other_cores_share", "stolen_share")},
    }
