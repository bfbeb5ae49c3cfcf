"""The verb `route`: the plan for a request, without making it."""

from __future__ import annotations

from typing import Any

from synaxis_common.contracts.admin import AdminReply, RouteAsk
from synaxis_common.contracts.routing import RouteRefusal
from synaxis_common.ids import uuid7
from synaxis_common.money import plain
from synaxis_registry.core import plan
from synaxis_registry.core.plan import Asker
from synaxis_registry.core.rank import Ranked
from synaxis_registry.handlers.admin.tenants import SQL
from synaxis_registry.handlers.admin.verb import Ask, Surroundings, not_found, ok


async def route(around: Surroundings, ask: Ask) -> AdminReply:
    """Every candidate with its rank and cost, every excluded one with its reason. Books nothing."""
    body = ask.body
    assert isinstance(body, RouteAsk)
    asker = plan.ANYBODY
    if body.tenant_id is not None:
        tenant = await around.database.run(
            lambda connection: connection.fetchrow(SQL["tenant"], body.tenant_id)
        )
        if tenant is None:
            raise not_found(f"no tenant '{body.tenant_id}'")
        asker = Asker(body.tenant_id, plan.ANYBODY.key_id)
    decided = plan.decide(
        around.snapshot.catalog, asker, uuid7(), body.model, body.needs, body.preferences, around.clock.now()
    )
    if isinstance(decided, RouteRefusal):
        excluded: list[Any] = [out.model_dump(mode="json") for out in decided.excluded]
        refusal: dict[str, Any] = {
            "code": decided.code,
            "message": decided.message,
            "nearest": list(decided.nearest),
        }
        return ok({"model": None, "refusal": refusal, "candidates": [], "excluded": excluded})
    return ok(
        {
            "model": decided.global_model_id,
            "refusal": None,
            "candidates": [
                {
                    "rank": place,
                    **_shown(ranked),
                    **plan.to_candidate(ranked, body.needs).model_dump(mode="json"),
                }
                | {"headers": dict.fromkeys(ranked.provider.headers, "***")}
                for place, ranked in enumerate(decided.candidates, start=1)
            ],
            "excluded": [out.to_message().model_dump(mode="json") for out in decided.excluded],
            "limits": [limit.global_model_id for limit in decided.limits],
            "reserved_usd": plain(decided.booking.usd),
        }
    )


def _shown(ranked: Ranked) -> dict[str, Any]:
    health = ranked.endpoint.health
    return {
        "cost_known": ranked.knowledge.name.lower(),
        "tier": ranked.provider.tier,
        "samples": health.samples,
        "ttft_p95_s": health.ttft_p95_s,
        "error_rate": health.error_rate,
    }
