"""`make bench`: what a routing decision costs, and what the whole path adds to a request.

Numbers depend on the machine, so they are printed and never asserted. Load goes to loopback only.
"""

from __future__ import annotations

import asyncio
import json
import platform
import re
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import aiohttp
from tests.bench.bench_events import bench_events
from tests.bench.bench_failover import bench_failover
from tests.bench.bench_sharing import bench_sharing
from tests.bench.upstream import MODEL
from tests.support.registry import eventually
from tests.support.system import System

from synaxis_common.contracts.catalog import Prices
from synaxis_common.contracts.routing import Needs, RouteRequest
from synaxis_registry.core.catalog import ApiKey, Catalog, Endpoint, GlobalModel, Provider
from synaxis_registry.core.plan import Routed, route, to_plan

ROUNDS = 2_000
SECONDS = 5.0
CONCURRENCY = 32
ENDPOINTS_OF_A_MODEL = 40
BODY = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "Hello " * 100}]}).encode()


def world(models: int) -> Catalog:
    """`models` models, each at `ENDPOINTS_OF_A_MODEL` providers at different prices."""
    providers = [
        Provider(f"p{number}", f"P{number}", "https://api.example/v1", "openai")
        for number in range(ENDPOINTS_OF_A_MODEL)
    ]
    return Catalog.build(
        providers=providers,
        models=[GlobalModel(f"m{number}", f"M{number}") for number in range(models)],
        endpoints=[
            Endpoint(
                provider.provider_id,
                f"vendor/m{number}",
                f"m{number}",
                prices=Prices(input=Decimal(place + 1) / 100, output=Decimal(place + 1) / 50),
                context_window=128_000,
            )
            for number in range(models)
            for place, provider in enumerate(providers)
        ],
        keys=[ApiKey("k", "hash", "t")],
    )


def bench_routing() -> None:
    """A decision is to cost the same however large the catalog is."""
    print(f"\nrouting core: one decision among {ENDPOINTS_OF_A_MODEL} endpoints, {ROUNDS} rounds")
    for models in (1, 25, 250):
        catalog = world(models)
        request = RouteRequest(
            request_id=UUID(int=1), key_hash="hash", model=f"m{models // 2}", needs=Needs(input_tokens=500)
        )
        now = datetime.now(UTC)
        took = []
        for _ in range(ROUNDS):
            begun = time.perf_counter()
            decided = route(catalog, request, now)
            took.append(time.perf_counter() - begun)
        if not isinstance(decided, Routed):
            raise TypeError(f"no plan: {decided}")
        begun = time.perf_counter()
        for _ in range(ROUNDS):
            to_plan(decided).to_bytes()
        written = (time.perf_counter() - begun) / ROUNDS
        p50, p99 = statistics.median(took) * 1e6, sorted(took)[-ROUNDS // 100] * 1e6
        print(
            f"  {models * ENDPOINTS_OF_A_MODEL:6} provider models: p50 {p50:6.0f} µs, p99 {p99:6.0f} µs; "
            f"plan as bytes {written * 1e6:5.0f} µs"
        )


async def load(url: str, key: str, connections: int) -> dict[str, Any]:
    """Closed loop for `SECONDS`, from a process of its own."""
    with tempfile.NamedTemporaryFile() as body:
        body.write(BODY)
        body.flush()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.bench.load", url, "--key", key, "--body", body.name),
            *("--connections", str(connections), "--seconds", str(SECONDS)),
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate()
    found: dict[str, Any] = json.loads(out)
    if set(found["statuses"]) - {"200", "0"}:
        raise RuntimeError(f"not all were answered: {found['statuses']}")
    return found


def show(what: str, found: dict[str, Any]) -> None:
    """One line of the table."""
    took = found["ms"]
    print(
        f"  {what:32} {found['requests_per_s']:8.0f} requests/s  "
        f"p50 {took['p50']:7.2f}  p95 {took['p95']:7.2f}  p99 {took['p99']:7.2f} ms"
    )


async def admissions(url: str) -> dict[str, float]:
    """How the gateway admitted requests so far."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as answer:
        text = await answer.text()
    found = re.findall(r'synaxis_gateway_admissions_total\{how="(\w+)"\} ([0-9.e+]+)', text)
    return {how: float(number) for how, number in found}


async def bench_whole_path() -> None:
    """A request through gateway, bus and registry, of a tenant with every kind of limit."""
    upstream = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.upstream", stdout=asyncio.subprocess.PIPE
    )
    assert upstream.stdout is not None
    port = int(await upstream.stdout.readline())
    try:
        async with System.started({"SYNAXIS_MODELS_DEV_URL": "http://127.0.0.1:9/api.json"}) as system:
            await measure(system, f"http://127.0.0.1:{port}/v1")
    finally:
        upstream.kill()
        await upstream.wait()


async def measure(system: System, upstream_url: str) -> None:
    """Load on a system whose only provider is at `upstream_url`."""
    body = {"base_url": upstream_url, "kind": "openai", "api_key_env": None}
    await system.admin("PUT", "/providers/alpha", body)

    async def serves() -> bool:
        rows = await system.admin("GET", "/provider-models?provider=alpha&available=true")
        return rows.status == 200 and len(rows.body["data"]) == 1

    await eventually(serves, "the upstream is found")
    price = {"input_price": "0.1", "output_price": "0.4"}
    await system.admin("PATCH", f"/provider-models/alpha/{MODEL}", price)
    await system.admin("POST", "/tenants", {"id": "busy", "name": "Busy"})
    limit = {"allowed_rpm": 1_000_000, "allowed_tpm": 2**40, "monthly_budget_usd": "1000000"}
    await system.admin("PUT", "/tenants/busy/limits/*", limit)
    key = (await system.admin("POST", "/tenants/busy/keys", {"name": "bench"})).body["key"]
    print("\nwhole path, one gateway, one registry, limits and budget on; all share the machine's cores")
    for connections in (1, CONCURRENCY):
        direct = await load(f"{upstream_url}/chat/completions", key, connections)
        before = await admissions(system.url)
        through = await load(f"{system.url}/v1/chat/completions", key, connections)
        after = await admissions(system.url)
        show(f"direct, {connections} at once", direct)
        show(f"through Synaxis, {connections} at once", through)
        told = {how: after[how] - before.get(how, 0.0) for how in after}
        asked, total = told.get("asked", 0.0), sum(told.values())
        print(f"  {'waited for a registry':32} {asked:8.0f} of {total:.0f} requests: {asked / total:.2%}")


def main() -> None:
    """Run all of it."""
    print(f"Python {platform.python_version()}, {platform.machine()}, {platform.system()}")
    bench_routing()
    asyncio.run(bench_whole_path())
    asyncio.run(bench_sharing())
    asyncio.run(bench_failover())
    asyncio.run(bench_events())


if __name__ == "__main__":
    main()
