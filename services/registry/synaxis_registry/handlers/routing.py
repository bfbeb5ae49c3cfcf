"""Answers `synaxis.route.v1` and `synaxis.models.v1`."""

from __future__ import annotations

from collections.abc import Awaitable
from time import perf_counter

from prometheus_client import Counter, Histogram

from synaxis_common.clock import Clock
from synaxis_common.contracts.leases import LeaseAsk, Permit
from synaxis_common.contracts.routing import (
    ModelsPage,
    ModelsRequest,
    RateLimitView,
    RefusalCode,
    RouteRefusal,
    RouteReply,
    RouteRequest,
)
from synaxis_common.logging import get_logger
from synaxis_registry.booking import Bookings
from synaxis_registry.core import plan, views
from synaxis_registry.core.admission import permit, rate_limit_view, refusal
from synaxis_registry.core.leasing import Ask
from synaxis_registry.core.message_age import MessageAges
from synaxis_registry.core.written_plans import WrittenPlans
from synaxis_registry.snapshot import Snapshot
from synaxis_registry.store.database import DatabaseUnavailable

log = get_logger(__name__)

NO_GATEWAY = "unknown"
"""Who asks without saying so: somebody with one request."""
RETRY_AFTER_S = 2.0
MAX_PAGE_BYTES = 900_000
"""NATS carries 1 MiB by default."""

ROUTES = Counter("synaxis_routes_total", "Routing requests by their outcome", ["outcome"])
PLANNED = ROUTES.labels("plan")
LEASES = Counter("synaxis_leases_total", "Leases asked for, by what came of it", ["outcome"])
PERMITS = Counter("synaxis_permits_granted_total", "Requests that gateways may admit by themselves")
RESERVED = Counter("synaxis_reserved_usd_total", "Money reserved for leases, in USD")
ROUTE_SECONDS = Histogram(
    "synaxis_route_seconds",
    "Time to decide on a routing request",
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
)

_MAYBE_STALE = frozenset(
    {
        RefusalCode.INVALID_API_KEY,
        RefusalCode.MODEL_NOT_FOUND,
        RefusalCode.MODEL_NOT_ALLOWED,
        RefusalCode.NO_PROVIDER_AVAILABLE,
    }
)
"""What another registry may have changed an instant ago, so that a fresh look is worth its while."""


class RoutingHandlers:
    """Decides on the snapshot; books in Postgres only for tenants that have limits."""

    def __init__(self, bookings: Bookings, snapshot: Snapshot, clock: Clock) -> None:
        self._bookings, self._snapshot, self._clock = bookings, snapshot, clock
        self._ages = MessageAges()
        self._plans = WrittenPlans()

    def route(self, data: bytes) -> bytes | Awaitable[bytes] | None:
        """Answer a `RouteRequest`: at once, or when Postgres has been asked. Raises pydantic.ValidationError.

        None: the asker has gone, so nothing is booked for it.
        """
        begun = perf_counter()
        request = RouteRequest.model_validate_json(data)
        if self._age_s(request) > request.deadline_s:
            ROUTES.labels("too_late").inc()
            return None
        routed = plan.route(self._snapshot.catalog, request, self._clock.now())
        if isinstance(routed, RouteRefusal):
            if routed.code in _MAYBE_STALE:
                return self._decide_anew(request, routed, begun)
            return _refused(routed, begun)
        if not routed.limits:
            return self._planned(routed, begun)
        return self._booked(routed, request, begun)

    def _age_s(self, request: RouteRequest) -> float:
        if not request.sent_at:
            return 0.0
        sender = NO_GATEWAY if request.lease is None else request.lease.gateway_id
        return self._ages.age_s(sender, request.sent_at, self._clock.now().timestamp())

    async def _decide_anew(self, request: RouteRequest, refused: RouteRefusal, begun: float) -> bytes:
        try:
            await self._snapshot.refresh()
        except DatabaseUnavailable:
            return _refused(refused, begun)
        routed = plan.route(self._snapshot.catalog, request, self._clock.now())
        if isinstance(routed, RouteRefusal):
            return _refused(routed, begun)
        if not routed.limits:
            return self._planned(routed, begun)
        return await self._booked(routed, request, begun)

    async def _booked(self, routed: plan.Routed, request: RouteRequest, begun: float) -> bytes:
        ask = request.lease or LeaseAsk(lease_id=request.request_id, gateway_id=NO_GATEWAY)
        try:
            granted = await self._bookings.book(_asked(routed, ask))
        except DatabaseUnavailable:
            LEASES.labels("unavailable").inc()
            unavailable = RouteRefusal(
                request_id=request.request_id,
                code=RefusalCode.UNAVAILABLE,
                message="The limits of this key cannot be checked at the moment.",
                retry_after_s=RETRY_AFTER_S,
            )
            return _refused(unavailable, begun)
        if granted is None:
            return self._planned(routed, begun)
        refused = refusal(routed, granted)
        if refused is not None:
            verdicts = {use.verdict for use in granted.uses if use.verdict is not None}
            LEASES.labels("+".join(sorted(verdicts))).inc()
            return _refused(refused, begun)
        LEASES.labels("granted").inc()
        PERMITS.inc(granted.permits)
        RESERVED.inc(float(granted.usd))
        return self._planned(routed, begun, permit(ask, routed.booking, granted), rate_limit_view(granted))

    def _planned(
        self,
        routed: plan.Routed,
        begun: float,
        granted: Permit | None = None,
        limits: RateLimitView | None = None,
    ) -> bytes:
        answer = self._plans.reply(routed, granted, limits)
        PLANNED.inc()
        ROUTE_SECONDS.observe(perf_counter() - begun)
        return answer

    async def models(self, request: ModelsRequest) -> ModelsPage:
        """A page of the models that the holder of a key may use."""
        page = await self._page(request)
        key = self._snapshot.catalog.keys.get(request.key_hash)
        return page if key is None else page.model_copy(update={"tenant_id": key.tenant_id})

    async def _page(self, request: ModelsRequest) -> ModelsPage:
        if request.key_hash not in self._snapshot.catalog.keys:
            try:
                await self._snapshot.refresh()
            except DatabaseUnavailable as error:
                log.warning("snapshot_not_refreshed", error=str(error))
        catalog = self._snapshot.catalog
        key = catalog.keys.get(request.key_hash)
        if key is None:
            return ModelsPage(refusal=RefusalCode.INVALID_API_KEY)
        if request.model is not None:
            return views.one_model(catalog, key.tenant_id, request.model)
        limit = request.limit
        while True:
            page = views.models_page(catalog, key.tenant_id, request.after, limit)
            if limit == 1 or len(page.to_bytes()) <= MAX_PAGE_BYTES:
                return page
            limit = max(limit // 2, 1)


def _asked(routed: plan.Routed, ask: LeaseAsk) -> Ask:
    """What `ask` comes to for this request."""
    return Ask(
        lease_id=ask.lease_id,
        gateway_id=ask.gateway_id,
        tenant_id=routed.tenant_id,
        scopes=tuple(limit.scope for limit in routed.limits),
        permits=ask.permits,
        tokens_each=routed.booking.tokens,
        usd_each=routed.booking.usd,
        usd_extra=ask.usd,
        slots=ask.slots,
        slots_seq=ask.slots_seq,
    )


def _refused(answer: RouteRefusal, begun: float) -> bytes:
    ROUTES.labels(answer.code.value).inc()
    ROUTE_SECONDS.observe(perf_counter() - begun)
    return RouteReply(answer=answer).to_bytes()
