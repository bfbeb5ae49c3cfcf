"""What more of everything costs: provider models, tenants, keys, gateways. A request is to cost as before."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import statistics
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from tests.bench.registry_alone import Alone, registry_alone, run
from tests.support.registry import MODEL, Rig

from synaxis_common import cycles, ids, slices
from synaxis_common.contracts.catalog import Prices
from synaxis_common.contracts.leases import LeaseAsk
from synaxis_common.contracts.routing import Needs, RoutePlan, RouteRequest
from synaxis_common.service import look_for_cycles_seldom
from synaxis_registry.core.catalog import ApiKey, Catalog, Changes, Endpoint, GlobalModel, Gone, Provider
from synaxis_registry.core.plan import Routed, route
from synaxis_registry.core.stale import stale

SIZES = (10, 100, 1_000, 10_000)
"""Provider models."""
SERVED_BY = 10
DECISIONS = 2_000
CHANGED = 200
"""Provider models with other prices; beside them some models are new, renamed and gone."""
KEYS = (10, 1_000, 100_000)
LEASES = 400
GATEWAYS = (1, 16, 64)
BUSY_TENANTS = 64
SECONDS = 1.5
FAMILIES = ("gpt", "claude", "qwen", "llama", "gemma", "mistral", "phi", "yi")


async def measure(rounds: int) -> dict[str, Any]:
    """The routing core in this process; keys and leases at a registry of its own, with a real Postgres."""
    look_for_cycles_seldom()  # as services do
    found: dict[str, Any] = {"decision": _decisions(rounds), "index": await _index(rounds)}
    async with registry_alone() as alone:
        found["keys"] = await _keys(alone, rounds)
        found["gateways"] = await _gateways(alone, rounds)
    return found


def model(number: int, *, renamed: bool = False) -> GlobalModel:
    """One of many that are called alike, as they are."""
    name = f"{FAMILIES[number % len(FAMILIES)]}-{number // 16}.{number % 16}-{number % 97}b-instruct"
    aliases = {f"vendor/{name}", f"{name}-2025-{number % 12 + 1:02}-01"}
    return GlobalModel(
        f"{name}-{number}",
        name,
        "vendor",
        aliases=frozenset(aliases | {f"new-{name}"} if renamed else aliases),
    )


def endpoint(number: int, place: int, price: int) -> Endpoint:
    """Where one of those runs."""
    return Endpoint(
        f"p{place}",
        f"vendor/{model(number).name}",
        model(number).id,
        prices=Prices(input=Decimal(price + place) / 100, output=Decimal(price + place) / 50),
        context_window=128_000,
    )


def world(size: int) -> Changes:
    """So many provider models, `SERVED_BY` of each model, as rows."""
    models = size // SERVED_BY
    return Changes(
        providers=[
            Provider(f"p{place}", "P", "https://api.example/v1", "openai") for place in range(SERVED_BY)
        ],
        models=[model(number) for number in range(models)],
        endpoints=[endpoint(number, place, 1) for number in range(models) for place in range(SERVED_BY)],
        keys=[ApiKey("k", "hash", "t")],
    )


def _decisions(rounds: int) -> dict[str, float]:
    """Microseconds a decision, whichever model is asked for; sizes take turns, so that noise is shared."""
    catalogs = {size: slices.at_once(Catalog().changing(world(size))) for size in SIZES}
    now, took = datetime.now(UTC), {size: list[float]() for size in SIZES}
    for number in range(rounds * DECISIONS):
        for size, catalog in catalogs.items():
            request = RouteRequest(
                request_id=ids.uuid7(),
                key_hash="hash",
                model=model(number * 7919 % (size // SERVED_BY)).id,
                needs=Needs(input_tokens=500),
            )
            begun = time.perf_counter()
            decided = route(catalog, request, now)
            took[size].append(time.perf_counter() - begun)
            assert isinstance(decided, Routed), decided
    found = {f"of_{size}_us": round(statistics.median(each) * 1e6, 1) for size, each in took.items()}
    return found | {"of_10000_to_of_10_times": round(found["of_10000_us"] / found["of_10_us"], 2)}


class Stalls:
    """How long the loop let a task wait that was ready all the time, as a reply is."""

    def __init__(self) -> None:
        self.worst_s = 0.0

    async def watch(self) -> None:
        """For ever."""
        seen = time.perf_counter()
        while True:
            await asyncio.sleep(0)
            self.worst_s, seen = max(self.worst_s, (now := time.perf_counter()) - seen), now


@asynccontextmanager
async def watched() -> AsyncIterator[Stalls]:
    """The stalls meanwhile."""
    stalls = Stalls()
    watching = asyncio.create_task(stalls.watch())
    await asyncio.sleep(0.005)
    stalls.worst_s = 0.0
    try:
        yield stalls
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching


async def _index(rounds: int) -> dict[str, float]:
    """An index of 10,000 provider models of 5,000 models, made anew and changed."""
    size = SIZES[-1]
    rows = world(size)
    rows = replace(rows, models=[model(number) for number in range(size // 2)])
    async with watched() as stalls:
        begun = time.perf_counter()
        with cycles.kept():
            catalog = await slices.run(Catalog().changing(rows))
        first_s, first_stall_s = time.perf_counter() - begun, stalls.worst_s
    took, worst_s = list[float](), 0.0
    for turn in range(rounds * 10):
        changes = _changes(turn)
        async with watched() as stalls:
            begun = time.perf_counter()
            after = await slices.run(catalog.changing(changes))
            await slices.run(stale(catalog, after, ()))
            took.append(time.perf_counter() - begun)
        catalog, worst_s = after, max(worst_s, stalls.worst_s)
    return {
        "first_ms": round(first_s * 1e3, 1),
        "first_worst_stall_ms": round(first_stall_s * 1e3, 2),
        "changed_ms": round(statistics.median(took) * 1e3, 1),
        "changed_worst_ms": round(max(took) * 1e3, 1),
        "changed_worst_stall_ms": round(worst_s * 1e3, 2),
    }


def _changes(turn: int) -> Changes:
    """New prices of `CHANGED` provider models, 10 models renamed, 10 new ones with endpoints, 10 gone."""
    repriced = range(turn * 20, turn * 20 + CHANGED // SERVED_BY)
    new = range(1_000_000 + turn * 10, 1_000_010 + turn * 10)
    return Changes(
        models=[*(model(number, renamed=True) for number in repriced[:10]), *map(model, new)],
        endpoints=[
            *(endpoint(number, place, turn + 2) for number in repriced for place in range(SERVED_BY)),
            *(endpoint(number, 0, 1) for number in new),
        ],
        gone=Gone(models=frozenset(model(4_000 + turn * 10 + one).id for one in range(10))),
    )


async def _keys(alone: Alone, rounds: int) -> dict[str, float]:
    """A request with a lease, asked for one after another, by how many tenants with a key and limits are."""
    found: dict[str, float] = {}
    before = 0
    for count in KEYS:
        worst_s = await _add_keys(alone, before, count)
        if before:
            found[f"loading_{count}_worst_ms"] = round(worst_s * 1e3, 1)
        step = max(1, count // LEASES)
        asked = list(itertools.islice(itertools.cycle(range(0, count, step)), rounds * LEASES))
        for number in asked[:20]:
            await _lease(alone.rig, number, "warming")
        cpu, took = alone.cpu(), list[float]()
        for number in asked:
            begun = time.perf_counter()
            await _lease(alone.rig, number, "bench")
            took.append(time.perf_counter() - begun)
        used = alone.cpu().since(cpu)
        found |= {
            f"of_{count}_p50_us": round(statistics.median(took) * 1e6),
            f"of_{count}_registry_us": round(used.registry / len(asked) * 1e6),
            f"of_{count}_postgres_us": round(used.postgres / len(asked) * 1e6),
        }
        before = count
    first, last = (
        found[f"of_{count}_registry_us"] + found[f"of_{count}_postgres_us"] for count in (KEYS[0], KEYS[-1])
    )
    return found | {f"of_{KEYS[-1]}_to_of_{KEYS[0]}_times": round(last / first, 2)}


async def _add_keys(alone: Alone, begin: int, end: int) -> float:
    """Tenants, each with a key and limits; the longest that a reply took until the registry had them all.

    They are written while the registry stands still, since it shares its core with Postgres.
    """
    rig, numbers = alone.rig, f"generate_series({begin}, {end - 1}) AS n"
    key_hash = await rig.new_key("plain")
    with alone.held_up():
        await rig.database.execute(f"INSERT INTO tenant (id, name) SELECT 'g' || n, 'g' FROM {numbers}")
        await rig.database.execute(
            "INSERT INTO tenant_model_limit (tenant_id, global_model_id, allowed_rpm, monthly_budget_usd)"
            f" SELECT 'g' || n, '*', 100000000, 1000000 FROM {numbers}"
        )
        await rig.database.execute(
            "INSERT INTO api_key (key_id, tenant_id, name, key_hash)"
            f" SELECT 'gk' || n, 'g' || n, '', 'gh' || n FROM {numbers}"
        )
        await rig.database.execute("VACUUM ANALYZE")
    await rig.route(key_hash, MODEL)  # it goes on
    loading = asyncio.create_task(_lease(rig, end - 1, "loading"))
    worst_s = 0.0
    while not loading.done():
        begun = time.perf_counter()
        plan = await rig.route(key_hash, MODEL)
        worst_s = max(worst_s, time.perf_counter() - begun)
        assert isinstance(plan, RoutePlan), plan
        await asyncio.sleep(0.001)
    await loading
    return worst_s


async def _lease(rig: Rig, number: int, gateway_id: str) -> None:
    ask = LeaseAsk(lease_id=ids.uuid7(), gateway_id=gateway_id, permits=10)
    plan = await rig.route(f"gh{number}", MODEL, lease=ask, input_tokens=500, max_output_tokens=100)
    assert isinstance(plan, RoutePlan), plan


async def _gateways(alone: Alone, rounds: int) -> dict[str, float]:
    """Leases a second of so many gateways, each of which always waits for one, and what one costs."""
    found: dict[str, float] = {}
    for count in GATEWAYS:
        until = time.perf_counter() + rounds * SECONDS
        cpu, begun = alone.cpu(), time.perf_counter()
        done = await asyncio.gather(*(_asking(alone.rig, number, until) for number in range(count)))
        took, used = time.perf_counter() - begun, alone.cpu().since(cpu)
        leases, waited = sum(map(len, done)), sorted(itertools.chain.from_iterable(done))
        found |= {
            f"of_{count}_leases_per_s": round(leases / took),
            f"of_{count}_p99_ms": round(waited[int(len(waited) * 0.99)] * 1e3, 1),
            f"of_{count}_registry_us": round(used.registry / leases * 1e6),
            f"of_{count}_postgres_us": round(used.postgres / leases * 1e6),
        }
    costs = [found[f"of_{count}_registry_us"] + found[f"of_{count}_postgres_us"] for count in GATEWAYS]
    return found | {"of_64_to_of_1_times": round(costs[-1] / costs[0], 2)}


async def _asking(rig: Rig, gateway: int, until: float) -> list[float]:
    """One gateway: it serves the same busy tenants as all others do, and asks for one's lease at a time."""
    took: list[float] = []
    tenants: Iterable[int] = itertools.cycle(range(BUSY_TENANTS))
    for tenant in itertools.islice(tenants, gateway, None):
        begun = time.perf_counter()
        if begun >= until:
            break
        await _lease(rig, tenant, f"gateway-{gateway}")
        took.append(time.perf_counter() - begun)
    return took


if __name__ == "__main__":
    run(lambda: measure(1))
