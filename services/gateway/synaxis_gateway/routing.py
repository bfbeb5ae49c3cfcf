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
    Preferences,
    RoutePlan,
    RouteRefusal,
    RouteReply,
    RouteRequest,
)
from synaxis_gateway.admission.shape import Shape

ASK_AGAIN_AFTER_S = (0.3, 0.7, 1.2)
"""A registry that has not answered by then may be gone: the question goes to the queue group again, and may
come to the same one. With one of two registries frozen one question in 16 stays without an answer."""
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
        """The plan for requests of a shape, or why there is none; and whether that was asked more than once.

        All questions carry the same lease id, so that registries that hear them book once. One of them may
        refuse what another grants. Raises BusUnavailable when nobody answers.
        """
        request = RouteRequest(
            request_id=ids.uuid7(),
            key_hash=shape.key_hash,
            model=shape.model,
            needs=shape.measures.needs(),
            preferences=shape.preferences or Preferences(),
            deadline_s=self._timeout_s,
            sent_at=self._clock.now().timestamp(),
            lease=lease,
        )
        payload = request.to_bytes()
        timeout_s = (
            self._timeout_s if self._bus.is_connected else min(self._timeout_s, DISCONNECTED_PATIENCE_S)
        )

        deadline = self._clock.monotonic() + timeout_s
        tasks: list[asyncio.Task[RouteReply]] = []
        try:
            for patience_s in (*ASK_AGAIN_AFTER_S, timeout_s):
                left_s = max(deadline - self._clock.monotonic(), ASK_AGAIN_AFTER_S[0])
                tasks.append(
                    asyncio.create_task(self._bus.request_bytes(subjects.ROUTE, payload, RouteReply, left_s))
                )
                if (reply := await _first_answer(tasks, patience_s)) is not None:
                    return reply.answer, len(tasks) > 1
                if len(tasks) > 1 and all(task.done() for task in tasks):
                    break
            raise BusUnavailable(f"{subjects.ROUTE}: no registry answers")
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


async def _first_answer(tasks: list[asyncio.Task[RouteReply]], patience_s: float) -> RouteReply | None:
    """The first of `tasks` to answer. None: none within `patience_s`, or all of several have failed."""
    loop = asyncio.get_running_loop()
    end = loop.time() + patience_s
    while True:
        for task in tasks:
            if task.done() and task.exception() is None:
                return task.result()
        pending = [task for task in tasks if not task.done()]
        left_s = end - loop.time()
        if left_s <= 0 or (not pending and len(tasks) > 1):
            return None
        if pending:
            await asyncio.wait(pending, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        else:
            await asyncio.sleep(left_s)  # nobody is listening: somebody may be starting
