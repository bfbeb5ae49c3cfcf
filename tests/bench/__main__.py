"""`make bench`: what a routing decision costs, and what the whole path adds to a request.

Numbers depend on the machine, so they are printed and never asserted. Load goes to loopback only.
"""

from __future__ import annotations

import asyncio
import json
import platform
import statistics
import time
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import aiohttp
from tests.support.models_dev import ModelsDevServer
from tests.support.registry import eventually
from tests.support.system import System
from tests.support.upstream import FakeProvider

from synaxis_common.contracts.catalog import Prices
from synaxis_common.contracts.routing import Needs, RouteRequest
from synaxis_registry.core.catalog import ApiKey, Catalog, Endpoint, GlobalModel, Provider
from synaxis_registry.core.plan import Routed, route, to_plan

ROUNDS = 2_000
SECONDS = 5.0
CONCURRENCY = 32
ENDPOINTS_OF_A_MODEL = 40
MODEL = "talker-2-mini"
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


async def load(url: str, key: str, concurrency: int) -> list[float]:
    """Closed loop for `SECONDS`; the latency of each request."""
    took: list[float] = []
    end = time.perf_counter() + SECONDS
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    async def one_client(session: aiohttp.ClientSession) -> None:
        while (begun := time.perf_counter()) < end:
            async with session.post(url, data=BODY, headers=headers) as response:
                text = await response.read()
                if response.status != 200:
                    raise RuntimeError(f"{response.status}: {text[:200]!r}")
            took.append(time.perf_counter() - begun)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(one_client(session) for _ in range(concurrency)))
    return took


def show(what: str, took: list[float]) -> None:
    """One line of the table."""
    ordered = sorted(took)
    p50, p95, p99 = (ordered[len(ordered) * part // 100] * 1e3 for part in (50, 95, 99))
    rate = len(took) / SECONDS
    print(f"  {what:32} {rate:7.0f} requests/s  p50 {p50:6.2f}  p95 {p95:6.2f}  p99 {p99:6.2f} ms")


async def bench_whole_path() -> None:
    """A request through gateway, bus and registry, beside the same request made directly."""
    with ModelsDevServer.of_small_world() as models_dev:
        async with (
            FakeProvider("alpha", models=["acme/talker-2-mini"]) as upstream,
            System.started({"SYNAXIS_MODELS_DEV_URL": models_dev.url}) as system,
        ):
            body = {"base_url": upstream.base_url, "kind": "openai", "api_key_env": None}
            await system.admin("PUT", "/providers/alpha", body)

            async def serves() -> bool:
                rows = await system.admin("GET", f"/provider-models?model={MODEL}&available=true")
                return rows.status == 200 and len(rows.body["data"]) == 1

            await eventually(serves, "the upstream is found")
            print("\nwhole path, one gateway, one registry; load and upstream share the machine with them")
            key = str(system.info["tenant_key"])
            for concurrency in (1, CONCURRENCY):
                direct = await load(f"{upstream.base_url}/chat/completions", key, concurrency)
                through = await load(f"{system.url}/v1/chat/completions", key, concurrency)
                show(f"direct, {concurrency} at once", direct)
                show(f"through Synaxis, {concurrency} at once", through)


def main() -> None:
    """Run all of it."""
    print(f"Python {platform.python_version()}, {platform.machine()}, {platform.system()}")
    bench_routing()
    asyncio.run(bench_whole_path())


if __name__ == "__main__":
    main()
