"""A plan as requests read it, a dozen times each: a message takes twice as long to give a field as this."""

from __future__ import annotations

import msgspec

from synaxis_common.contracts.routing import Candidate, RateLimitView, RoutePlan


class HeldPlan(msgspec.Struct, frozen=True, eq=False):
    """Of a `RoutePlan`, what is needed after its lease has been taken."""

    tenant_id: str
    key_id: str
    global_model_id: str
    candidates: tuple[Candidate, ...]
    rate_limits: RateLimitView
    hedge: bool
    expires_in_s: float

    @classmethod
    def of(cls, plan: RoutePlan) -> HeldPlan:
        """The plan that a registry has sent. With fallback models a candidate may be in it twice; nobody is
        tried twice."""
        candidates = {(one.provider_id, one.provider_model_id): one for one in plan.candidates}
        return cls(
            plan.tenant_id,
            plan.key_id,
            plan.global_model_id,
            tuple(candidates.values()),
            plan.rate_limits,
            plan.hedge,
            plan.expires_in_s,
        )
