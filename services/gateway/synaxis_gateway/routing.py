"""Asks the registries: who can serve a request, what may be admitted, which models there are."""

from __future__ import annotations

import asyncio

from synaxis_common import ids, subjects
from synaxis_common.bus import Bus, BusUnavailable
from synaxis_common.clock import Clock
from synaxis_common.contracts.leases import (
    ALIVE_EVERY_S,
    GatewayAlive,
    GatewayAliveReply,
    LeaseAsk,
    ProviderLease,
    ProviderLeaseAsk,
    SlotGrant,
)
from synaxis_common.contracts.routing import (
    ModelsPage,
    ModelsRequest,
    RoutePlan,
    RouteRefusal,
    RouteReply,
    RouteRequest,
)
from synaxis_gateway.admission.shape import Shape

ASK_AGAIN_AFTER_S = 0.3
"""A registry that has not answered by then may be gone: the question goes to the queue group once more."""
PROVIDER_LEASE_TIMEOUT_S = 1.0
DISCONNECTED_PATIENCE_S = 1.0
"""How long a question waits for a bus that is away: it is back at once, or for longer than a client waits."""


class Registry:
    """The registries, as the gateway sees them: whoever of them answers first."""

    def __init__(self, bus: Bus, clock: Clock, timeout_s: float) -> None:
        self._bus = bus
        self._clock = clock
        self._timeout_s = timeout_s

    async def route(self, shape: Shape, lease: LeaseAsk) -> tuple[RoutePlan | RouteRefusal, bool]:
        """The plan for requests of a shape, or why there is none; and whether the question was asked twice.

        Both questions carry the same lease id, so that registries that hear both book once. One of them may
        refuse what the other grants. Raises BusUnavailable when nobody answers.
        """
        request = RouteRequest(
            request_id=ids.uuid7(),
            key_hash=shape.key_hash,
            model=shape.model,
            needs=shape.needs,
            preferences=shape.preferences,
            deadline_s=self._timeout_s,
            sent_at=self._clock.now().timestamp(),
            lease=lease,
        )
        payload = request.to_bytes()
        timeout_s = (
            self._timeout_s if self._bus.is_connected else min(self._timeout_s, DISCONNECTED_PATIENCE_S)
        )

        async def put(timeout: float) -> RouteReply:
            return await self._bus.request_bytes(subjects.ROUTE, payload, RouteReply, timeout)

        first = asyncio.create_task(put(timeout_s))
        tasks = [first]
        try:
            await asyncio.wait(tasks, timeout=ASK_AGAIN_AFTER_S)
            if first.done() and first.exception() is None:
                return first.result().answer, False
            if first.done():
                await asyncio.sleep(ASK_AGAIN_AFTER_S)  # nobody is listening: somebody may be starting
            tasks.append(asyncio.create_task(put(max(timeout_s - ASK_AGAIN_AFTER_S, ASK_AGAIN_AFTER_S))))
            return (await _first_answer(tasks)).answer, True
        finally:
            for task in tasks:
                task.cancel()

    async def provider_lease(self, ask: ProviderLeaseAsk) -> ProviderLease:
        """Permits within a provider's own limits. Raises BusUnavailable."""
        return await self._bus.request(subjects.LEASE_PROVIDER, ask, ProviderLease, PROVIDER_LEASE_TIMEOUT_S)

    async def alive(self, gateway_id: str, slots: dict[str, int], seq: int) -> tuple[SlotGrant, ...]:
        """Say that this gateway is there; answers the slots that it has. Raises BusUnavailable."""
        said = GatewayAlive(gateway_id=gateway_id, slots=slots, slots_seq=seq)
        reply = await self._bus.request(subjects.LEASE_ALIVE, said, GatewayAliveReply, ALIVE_EVERY_S)
        return reply.slots

    async def models(self, request: ModelsRequest) -> ModelsPage:
        """A page of models. Raises BusUnavailable."""
        return await self._bus.request(subjects.MODELS, request, ModelsPage, self._timeout_s)


async def _first_answer(tasks: list[asyncio.Task[RouteReply]]) -> RouteReply:
    problem: BusUnavailable | None = None
    for earliest in asyncio.as_completed(tasks):
        try:
            return await earliest
        except BusUnavailable as error:
            problem = error
    raise problem or BusUnavailable(subjects.ROUTE)
