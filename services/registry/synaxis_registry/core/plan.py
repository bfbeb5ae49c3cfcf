"""Routing, step 4: the plan for a request, or why there is none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final
from uuid import UUID

from synaxis_common.contracts.leases import Permit
from synaxis_common.contracts.routing import (
    Candidate,
    ExclusionReason,
    Needs,
    Preferences,
    RateLimitView,
    RefusalCode,
    RoutePlan,
    RouteRefusal,
    RouteRequest,
)
from synaxis_common.pricing import booked_tokens, worst_case_cost
from synaxis_registry.core import limits
from synaxis_registry.core.catalog import Catalog, Endpoint, KeyLimit, Limit, Provider
from synaxis_registry.core.filter import Excluded, filter_endpoints
from synaxis_registry.core.lookup import Ambiguous, Found, Missing, lookup
from synaxis_registry.core.rank import Ranked, rank
from synaxis_registry.core.timeouts import timeouts

MAX_CANDIDATES: Final = 8
"""A plan holds this many at most: twice as many as a gateway tries."""

MAX_MODELS: Final = 8
"""Of a request's fallback models no more than these are looked at, so that its cost is bounded."""

_NAMED_IN_MESSAGE: Final = 5

_NOT_IN_SERVICE: Final = frozenset(
    {
        ExclusionReason.PROVIDER_OFF,
        ExclusionReason.DISABLED,
        ExclusionReason.UNAVAILABLE,
        ExclusionReason.RETIRED,
        ExclusionReason.KIND_UNSUPPORTED,
    }
)


@dataclass(frozen=True, slots=True)
class Asker:
    """Whose request it is."""

    tenant_id: str
    key_id: str
    hedge: bool = False


ANYBODY: Final = Asker("*", "*")
"""A tenant without limits, for plans that are only shown. No tenant can have this id."""


@dataclass(frozen=True, slots=True)
class Booking:
    """What a request counts for in its tenant's limits before it has been made."""

    requests: int
    tokens: int
    usd: Decimal
    """Its worst case at the dearest candidate; zero when no budget has to be kept."""


@dataclass(frozen=True, slots=True)
class Routed:
    """Who to try, in order, and what has to be booked before the plan goes out."""

    request_id: UUID
    asker: Asker
    needs: Needs
    candidates: tuple[Ranked, ...]
    """Everybody who may serve; a plan takes the first `MAX_CANDIDATES`. Never empty."""
    excluded: tuple[Excluded, ...]
    limits: tuple[Limit | KeyLimit, ...]
    """Those that the booking counts against; empty: nothing to be booked."""
    booking: Booking

    @property
    def tenant_id(self) -> str:
        return self.asker.tenant_id

    @property
    def key_id(self) -> str:
        return self.asker.key_id

    @property
    def global_model_id(self) -> str:
        """The model of the first candidate."""
        return self.candidates[0].endpoint.global_model_id


def route(catalog: Catalog, request: RouteRequest, now: datetime) -> Routed | RouteRefusal:
    """Decide on a request: who may serve it, in which order. Books nothing."""
    key = catalog.keys.get(request.key_hash)
    if key is None:
        return RouteRefusal(
            request_id=request.request_id,
            code=RefusalCode.INVALID_API_KEY,
            message="The API key is unknown or has been revoked.",
        )
    return decide(
        catalog,
        Asker(key.tenant_id, key.key_id, key.hedge),
        request.request_id,
        request.model,
        request.needs,
        request.preferences,
        now,
    )


def decide(
    catalog: Catalog,
    asker: Asker,
    request_id: UUID,
    model: str,
    needs: Needs,
    preferences: Preferences,
    now: datetime,
) -> Routed | RouteRefusal:
    """As `route`, for an asker who is known already.

    The candidates of fallback models follow those of the model asked for; endpoints that show signs of
    trouble come last of all. Without any candidate the refusal is the
    one of the model asked for.
    """
    candidates: list[Ranked] = []
    last_resort: list[Ranked] = []
    excluded: list[Excluded] = []
    refusal: RouteRefusal | None = None
    looked_at: set[tuple[str, Endpoint | None]] = set()
    for asked in _asked_models(model, preferences):
        found = lookup(catalog, asked)
        if not isinstance(found, Found):
            refusal = refusal or _not_found(request_id, asked, found)
            continue
        model_id = found.model.id
        if (model_id, found.pinned) in looked_at:
            continue
        looked_at.add((model_id, found.pinned))
        if not limits.is_allowed(catalog.limits, asker.tenant_id, model_id):
            refusal = refusal or RouteRefusal(
                request_id=request_id,
                code=RefusalCode.MODEL_NOT_ALLOWED,
                message=f"This key may not use the model '{model_id}'.",
            )
            continue
        served = _candidates_of(catalog, asker, found, needs, preferences, now)
        candidates += served.in_order
        last_resort += served.last_resort
        excluded += served.excluded
        if not (served.in_order or served.last_resort):
            refusal = refusal or _nobody(request_id, model_id, served.excluded)
    candidates += last_resort
    if candidates:
        return _routed(catalog, asker, request_id, needs, candidates, excluded)
    if refusal is None:
        raise AssertionError("every model that gives no candidate gives a refusal")
    return refusal


def to_plan(
    routed: Routed,
    permit: Permit | None = None,
    rate_limits: RateLimitView | None = None,
    *,
    explain: bool = False,
) -> RoutePlan:
    """The plan as it goes to the gateway. `explain`: with everybody who is out, which a gateway can't use."""
    return RoutePlan(
        request_id=routed.request_id,
        tenant_id=routed.asker.tenant_id,
        key_id=routed.asker.key_id,
        global_model_id=routed.global_model_id,
        candidates=tuple(to_candidate(ranked, routed.needs) for ranked in routed.candidates[:MAX_CANDIDATES]),
        excluded=tuple(out.to_message() for out in routed.excluded) if explain else (),
        permit=permit,
        rate_limits=rate_limits or RateLimitView(),
        hedge=routed.asker.hedge,
    )


def to_candidate(ranked: Ranked, needs: Needs) -> Candidate:
    """A candidate as the gateway needs it."""
    endpoint, provider = ranked.endpoint, ranked.provider
    return Candidate(
        provider_id=endpoint.provider_id,
        provider_model_id=endpoint.provider_model_id,
        global_model_id=endpoint.global_model_id,
        base_url=endpoint.base_url or provider.base_url,
        kind=endpoint.kind or provider.kind,
        api_key_envs=provider.api_key_envs,
        headers=dict(provider.headers),
        allow_private=provider.allow_private,
        prices=endpoint.prices,
        context_window=endpoint.context_window,
        max_output=endpoint.max_output,
        expected_cost_usd=ranked.expected_cost_usd,
        timeouts=timeouts(endpoint, provider.timeouts, needs),
        begins_within_s=_begins_within_s(endpoint, needs),
        is_rate_limited=_is_rate_limited(endpoint, provider),
    )


def _begins_within_s(endpoint: Endpoint, needs: Needs) -> float | None:
    if not endpoint.health.is_measured:
        return None
    return endpoint.health.ttft_p95_s if needs.stream else endpoint.health.latency_p95_s


@dataclass(frozen=True, slots=True)
class _Served:
    in_order: tuple[Ranked, ...]
    last_resort: tuple[Ranked, ...]
    excluded: tuple[Excluded, ...]


def _asked_models(model: str, preferences: Preferences) -> Iterator[str]:
    yield model
    yield from preferences.models[: MAX_MODELS - 1]


def _candidates_of(
    catalog: Catalog, asker: Asker, found: Found, needs: Needs, preferences: Preferences, now: datetime
) -> _Served:
    model_id = found.model.id
    endpoints = catalog.endpoints_of(model_id) if found.pinned is None else (found.pinned,)
    bounded = _bounded(catalog, asker, (model_id,))
    filtered = filter_endpoints(
        catalog,
        endpoints,
        needs,
        preferences,
        now,
        must_be_priced=any(limit.monthly_budget_usd is not None for limit in bounded),
    )
    in_order = rank(filtered.eligible, needs, preferences)
    last_resort = _soonest_back_first(rank(filtered.troubled, needs, preferences))
    excluded = filtered.excluded
    if not preferences.allow_fallbacks and not preferences.order:
        rest = (*in_order, *last_resort)[1:]
        excluded += tuple(Excluded(one.endpoint, ExclusionReason.NO_FALLBACKS) for one in rest)
        in_order, last_resort = in_order[:1], () if in_order else last_resort[:1]
    return _Served(in_order, last_resort, excluded)


def _soonest_back_first(troubled: tuple[Ranked, ...]) -> tuple[Ranked, ...]:
    """Who is to be left alone for the shortest time is the likeliest to have recovered."""

    def back_at(ranked: Ranked) -> float:
        health = ranked.endpoint.health
        moments = (health.open_until, health.limited_until, ranked.provider.suspended_until)
        return max(moment.timestamp() for moment in moments if moment is not None)

    return tuple(sorted(troubled, key=back_at))


def _routed(
    catalog: Catalog,
    asker: Asker,
    request_id: UUID,
    needs: Needs,
    candidates: list[Ranked],
    excluded: list[Excluded],
) -> Routed:
    planned = candidates[:MAX_CANDIDATES]
    bounded = _bounded(catalog, asker, {ranked.endpoint.global_model_id for ranked in planned})
    usd = Decimal(0)
    if any(limit.monthly_budget_usd is not None for limit in bounded):
        usd = max(_worst_case(ranked.endpoint, needs) for ranked in planned)
    return Routed(
        request_id=request_id,
        asker=asker,
        needs=needs,
        candidates=tuple(candidates),
        excluded=tuple(excluded),
        limits=bounded,
        booking=Booking(requests=1, tokens=booked_tokens(needs) if bounded else 0, usd=usd),
    )


def _bounded(catalog: Catalog, asker: Asker, model_ids: Iterable[str]) -> tuple[Limit | KeyLimit, ...]:
    """The limits that a request counts against: its tenant's, and its key's own."""
    of_tenant = limits.applicable(catalog.limits, asker.tenant_id, model_ids)
    of_key = catalog.key_limits.get(asker.key_id)
    return of_tenant if of_key is None or not of_key.is_bounded else (*of_tenant, of_key)


def _is_rate_limited(endpoint: Endpoint, provider: Provider) -> bool:
    bounds = (
        endpoint.rate_limit_rpm,
        endpoint.rate_limit_tpm,
        provider.rate_limit_rpm,
        provider.rate_limit_tpm,
    )
    return any(bound is not None for bound in bounds)


def _worst_case(endpoint: Endpoint, needs: Needs) -> Decimal:
    worst = worst_case_cost(
        endpoint.prices, needs, context_window=endpoint.context_window, max_output=endpoint.max_output
    )
    return Decimal(0) if worst is None else worst


def _not_found(request_id: UUID, asked: str, found: Missing | Ambiguous) -> RouteRefusal:
    if isinstance(found, Ambiguous):
        names, hint = found.candidates, "The name fits several models; use one of: "
    else:
        names, hint = found.nearest, "Did you mean: "
    return RouteRefusal(
        request_id=request_id,
        code=RefusalCode.MODEL_NOT_FOUND,
        message=f"The model '{asked[:200]}' does not exist."
        + (f" {hint}{', '.join(names)}?" if names else ""),
        nearest=names,
    )


def _nobody(request_id: UUID, model_id: str, excluded: tuple[Excluded, ...]) -> RouteRefusal:
    in_service = [out for out in excluded if out.reason not in _NOT_IN_SERVICE]
    too_long = bool(in_service) and all(out.reason is ExclusionReason.CONTEXT_TOO_SMALL for out in in_service)
    told = in_service or excluded
    reasons = "; ".join(
        f"{out.endpoint.provider_id}: {out.reason}{f' ({out.detail})' if out.detail else ''}"
        for out in told[:_NAMED_IN_MESSAGE]
    )
    more = f"; {len(told) - _NAMED_IN_MESSAGE} more" if len(told) > _NAMED_IN_MESSAGE else ""
    what = "The request is too long for" if too_long else "Nobody can serve this request for"
    return RouteRefusal(
        request_id=request_id,
        code=RefusalCode.CONTEXT_LENGTH_EXCEEDED if too_long else RefusalCode.NO_PROVIDER_AVAILABLE,
        message=f"{what} the model '{model_id}' now"
        + (f": {reasons}{more}." if reasons else ": no provider offers it."),
        excluded=tuple(out.to_message() for out in excluded),
    )
