"""The verb `route`: the plan for a request, without making it."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Any

from synaxis_common.contracts.admin import AdminReply, RouteAsk
from synaxis_common.contracts.routing import RouteRefusal
from synaxis_common.ids import uuid7
from synaxis_common.money import plain
from synaxis_registry.core import plan
from synaxis_registry.core.plan import Asker, Routed
from synaxis_registry.core.rank import Ranked
from synaxis_registry.handlers.admin.paging import fitting
from synaxis_registry.handlers.admin.tenants import tenant_row
from synaxis_registry.handlers.admin.verb import Ask, Surroundings, ok


async def route(around: Surroundings, ask: Ask) -> AdminReply:
    """Every candidate with its rank and cost, every excluded one with its reason. Books nothing."""
    body = ask.body
    assert isinstance(body, RouteAsk)
    asker = plan.ANYBODY
    if body.tenant_id is not None:
        tenant = await around.database.run(partial(tenant_row, tenant_id=body.tenant_id))
        asker = Asker(tenant["id"], plan.ANYBODY.key_id)
    decided = _decided(around, asker, body)
    if isinstance(decided, RouteRefusal):
        # What makes the difference may have come through another registry a moment ago.
        await around.snapshot.refresh()
        decided = _decided(around, asker, body)
    return ok(_refused(decided) if isinstance(decided, RouteRefusal) else _planned(decided))


def _decided(around: Surroundings, asker: Asker, body: RouteAsk) -> Routed | RouteRefusal:
    catalog, now = around.snapshot.catalog, around.clock.now()
    return plan.decide(catalog, asker, uuid7(), body.model, body.needs, body.preferences, now)


def _refused(refusal: RouteRefusal) -> dict[str, Any]:
    return {
        "model": None,
        "refusal": {
            "code": refusal.code,
            "message": refusal.message,
            "nearest": list(refusal.nearest),
        },
        "candidates": [],
        "excluded": [out.model_dump(mode="json") for out in refusal.excluded],
        "booking": None,
    }


def _planned(routed: Routed) -> dict[str, Any]:
    candidates = [
        {"rank": place, **plan.to_candidate(ranked, routed.needs).model_dump(mode="json"), **_shown(ranked)}
        for place, ranked in enumerate(routed.candidates, start=1)
    ]
    return {
        "model": routed.global_model_id,
        "refusal": None,
        "candidates": candidates[: fitting(candidates, len(candidates))],
        "excluded": [out.to_message().model_dump(mode="json") for out in routed.excluded],
        "booking": {
            "limits": [limit.scope for limit in routed.limits],
            "requests": routed.booking.requests,
            "tokens": routed.booking.tokens,
            "usd": plain(routed.booking.usd),
        },
    }


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _shown(ranked: Ranked) -> dict[str, Any]:
    """What the plan that a gateway gets does not have, and no secret that it does have."""
    health = ranked.endpoint.health
    return {
        "headers": dict.fromkeys(ranked.provider.headers, "***"),
        "cost_known": ranked.knowledge.name.lower(),
        "tier": ranked.provider.tier,
        "samples": health.samples,
        "ttft_p95_s": health.ttft_p95_s,
        "error_rate": health.error_rate,
        "circuit_open_until": _iso(health.open_until),
        "rate_limited_until": _iso(health.limited_until),
    }
