"""A routing decision is to cost the same however large the catalog is."""

from __future__ import annotations

import statistics
import time
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from synaxis_common.contracts.catalog import Prices
from synaxis_common.contracts.routing import Needs, RouteRequest
from synaxis_registry.core.catalog import ApiKey, Catalog, Endpoint, GlobalModel, Provider
from synaxis_registry.core.plan import Routed, route, to_plan

ROUNDS = 1_000
MODELS = (1, 25, 250)
ENDPOINTS_OF_A_MODEL = 40


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


async def measure(rounds: int) -> dict[str, Any]:
    """By the size of the catalog: a decision, and its plan as bytes."""
    return {f"of_{models * ENDPOINTS_OF_A_MODEL}": _decisions(models, rounds * ROUNDS) for models in MODELS}


def _decisions(models: int, count: int) -> dict[str, Any]:
    catalog = world(models)
    request = RouteRequest(
        request_id=UUID(int=1), key_hash="hash", model=f"m{models // 2}", needs=Needs(input_tokens=500)
    )
    now = datetime.now(UTC)
    took = []
    for _ in range(count):
        begun = time.perf_counter()
        decided = route(catalog, request, now)
        took.append(time.perf_counter() - begun)
    if not isinstance(decided, Routed):
        raise TypeError(f"no plan: {decided}")
    begun = time.perf_counter()
    for _ in range(count):
        to_plan(decided).to_bytes()
    written = (time.perf_counter() - begun) / count
    return {
        "p50_us": round(statistics.median(took) * 1e6, 1),
        "p99_us": round(sorted(took)[-count // 100] * 1e6, 1),
        "plan_as_bytes_us": round(written * 1e6, 1),
    }
