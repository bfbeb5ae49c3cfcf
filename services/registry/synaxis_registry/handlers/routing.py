"""Answers `synaxis.route.v1`, `synaxis.models.v1` and `synaxis.lease.v1.return`."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

from synaxis_common.clock import Clock
from synaxis_common.contracts.routing import (
    LeaseReturn,
    ModelsPage,
    ModelsRequest,
    Permit,
    RefusalCode,
    RoutePlan,
    RouteRefusal,
    RouteReply,
    RouteRequest,
)
from synaxis_common.logging import get_logger
from synaxis_registry.core import plan, views
from synaxis_registry.core.admission import rate_limit_view, refusal
from synaxis_registry.snapshot import Snapshot
from synaxis_registry.store import ledger
from synaxis_registry.store.database import Database, DatabaseUnavailable

log = get_logger(__name__)

PERMIT_TTL_S = 900
"""How long a permit is held without a report: longer than the longest request (600 s) and its report."""
RETRY_AFTER_S = 2.0
MAX_PAGE_BYTES = 900_000
"""NATS carries 1 MiB by default."""

ROUTES = Counter("synaxis_routes_total", "Routing requests by their outcome", ["outcome"])
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

    def __init__(self, database: Database, snapshot: Snapshot, clock: Clock) -> None:
        self._database, self._snapshot, self._clock = database, snapshot, clock

    async def route(self, request: RouteRequest) -> RouteReply | None:
        """The plan, or why there is none. None: the asker has gone, so nothing is booked for it."""
        now = self._clock.now()
        if request.sent_at and now.timestamp() - request.sent_at > request.deadline_s:
            ROUTES.labels("too_late").inc()
            return None
        with ROUTE_SECONDS.time():
            answer = await self._decide(request)
        ROUTES.labels(answer.code.value if isinstance(answer, RouteRefusal) else "plan").inc()
        return RouteReply(answer=answer)

    async def _decide(self, request: RouteRequest) -> RoutePlan | RouteRefusal:
        routed = plan.route(self._snapshot.catalog, request, self._clock.now())
        if isinstance(routed, RouteRefusal) and routed.code in _MAYBE_STALE:
            try:
                await self._snapshot.refresh()
            except DatabaseUnavailable:
                return routed
            routed = plan.route(self._snapshot.catalog, request, self._clock.now())
        if isinstance(routed, RouteRefusal):
            return routed
        if not routed.limits:
            return plan.to_plan(routed)
        try:
            uses = await self._database.run(lambda connection: ledger.grant(connection, routed, PERMIT_TTL_S))
        except DatabaseUnavailable:
            return RouteRefusal(
                request_id=request.request_id,
                code=RefusalCode.UNAVAILABLE,
                message="The limits of this key cannot be checked at the moment.",
                retry_after_s=RETRY_AFTER_S,
            )
        refused = refusal(routed, uses)
        if refused is not None:
            return refused
        permit = Permit(
            lease_id=request.request_id, permits=1, expires_in_s=PERMIT_TTL_S, reserved_usd=routed.booking.usd
        )
        return plan.to_plan(routed, permit, rate_limit_view(uses, routed.booking))

    async def models(self, request: ModelsRequest) -> ModelsPage:
        """A page of the models that the holder of a key may use."""
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

    async def give_back(self, message: LeaseReturn) -> None:
        """A permit that was not used. If Postgres is away it lapses by itself."""
        try:
            await self._database.run(lambda connection: ledger.give_back(connection, message.lease_id))
        except DatabaseUnavailable as error:
            log.warning("permit_not_returned", error=str(error))
