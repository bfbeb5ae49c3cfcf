"""The gateway on one core, everything else on the others: what it takes, what it costs, what it adds."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from tests.bench.processes import resident_mb
from tests.bench.stage import Stage
from tests.bench.upstream import MODEL

CONNECTIONS = 64
SECONDS = 6.0
WARM_UP_S = 2.0
SHARES = (10, 50, 80)
"""Per cent of the rate that the closed loop reached."""
LEDGER_WAIT_S = 60.0


def prompt(size: int, **more: Any) -> bytes:
    """A request with a prompt of `size` bytes, as OpenAI's clients write it."""
    messages = [{"role": "user", "content": ("Hello " * (size // 6 + 1))[:size]}]
    return json.dumps({"model": MODEL, "messages": messages, **more}, separators=(",", ":")).encode()


async def rest(stage: Stage) -> dict[str, Any]:
    """Memory before anything was asked."""
    return {"gateway_mb": round(max(map(resident_mb, stage.pids.gateway)), 1)}


async def throughput(stage: Stage, seconds: float = SECONDS) -> dict[str, Any]:
    """As many requests as one core of the gateway takes."""
    body = prompt(600)
    await stage.load(stage.through, body, CONNECTIONS, WARM_UP_S)
    waited = await _ledger_catches_up(stage)
    before, rows_before, begun = stage.pids.spend(), await stage.ledger_rows(), time.monotonic()
    found = await stage.load(stage.through, body, CONNECTIONS, seconds)
    took = time.monotonic() - begun
    spent = {name: now - before[name] for name, now in stage.pids.spend().items()}
    answered = found["requests"]
    share = spent["gateway"] / took
    lag_s = await _ledger_catches_up(stage, rows_before + answered)
    return {
        "requests_per_s": found["requests_per_s"],
        "gateway_share_of_core": round(share, 3),
        "requests_per_s_and_core": round(answered / max(spent["gateway"], 1e-9), 1),
        "gateway_cpu_us": round(spent["gateway"] / answered * 1e6, 1),
        "registry_cpu_us": round(spent["registry"] / answered * 1e6, 1),
        "nats_cpu_us": round(spent["nats"] / answered * 1e6, 1),
        "postgres_cpu_us": round(spent["postgres"] / answered * 1e6, 1),
        **found["ms"],
        "statuses": json.dumps(found["statuses"]),
        "ledger_had_all_after_s": lag_s,
        "ledger_waited_before_s": waited,
    }


async def latency(stage: Stage, rate_of_core: float, seconds: float = SECONDS) -> dict[str, Any]:
    """What is added at fixed rates, counted from when a request was due."""
    body = prompt(600)
    found: dict[str, Any] = {}
    for share in SHARES:
        rate = rate_of_core * share / 100
        more = ("--rate", f"{rate:.0f}")
        direct = await stage.load(stage.direct, body, CONNECTIONS, seconds / 2, *more)
        through = await stage.load(stage.through, body, CONNECTIONS, seconds, *more)
        found[f"{share}%"] = {
            "rate": round(rate),
            **{
                f"added_{name}_ms": round(through["ms"][name] - direct["ms"][name], 3)
                for name in ("p50", "p95", "p99")
            },
            "sent_late_p99_ms": through["late_ms"]["p99"],
            "statuses": json.dumps(through["statuses"]),
        }
    return found


async def one_at_a_time(stage: Stage, seconds: float = SECONDS) -> dict[str, Any]:
    """Without any other load."""
    body = prompt(600)
    direct = await stage.load(stage.direct, body, 1, seconds / 2)
    through = await stage.load(stage.through, body, 1, seconds)
    return {
        "requests_per_s": through["requests_per_s"],
        "added_p50_ms": round(through["ms"]["p50"] - direct["ms"]["p50"], 3),
        "added_p99_ms": round(through["ms"]["p99"] - direct["ms"]["p99"], 3),
    }


async def prompts(stage: Stage, seconds: float = SECONDS) -> dict[str, Any]:
    """Larger requests."""
    found: dict[str, Any] = {}
    for name, size, connections in (("32KB", 32 * 1024, 16), ("1MB", 1024 * 1024, 4)):
        before = stage.pids.spend()["gateway"]
        through = await stage.load(stage.through, prompt(size), connections, seconds / 2)
        spent = stage.pids.spend()["gateway"] - before
        found[name] = {
            "requests_per_s": through["requests_per_s"],
            "gateway_cpu_us": round(spent / max(through["requests"], 1) * 1e6, 1),
            "p50_ms": through["ms"].get("p50"),
            "statuses": json.dumps(through["statuses"]),
        }
    return found


async def _ledger_catches_up(stage: Stage, rows: int | None = None) -> float:
    """Seconds until the ledger has `rows`, or no more come; at most `LEDGER_WAIT_S`."""
    begun = time.monotonic()
    last = -1
    while time.monotonic() - begun < LEDGER_WAIT_S:
        now = await stage.ledger_rows()
        if (rows is not None and now >= rows) or (rows is None and now == last):
            break
        last = now
        await asyncio.sleep(0.5)
    return round(time.monotonic() - begun, 1)
