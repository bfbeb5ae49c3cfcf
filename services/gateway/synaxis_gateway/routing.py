"""Asks the registries who can serve a request, and which models there are."""

from __future__ import annotations

import asyncio
from uuid import UUID

from synaxis_common import subjects
from synaxis_common.bus import Bus, BusUnavailable
from synaxis_common.clock import Clock
from synaxis_common.contracts.routing import (
    ModelsPage,
    ModelsRequest,
    RoutePlan,
    RouteRefusal,
    RouteReply,
    RouteRequest,
)
from synaxis_gateway.wire.openai_request import OpenAIRequest

ASK_AGAIN_AFTER_S = 0.3
"""A registry that has not answered by then may be gone: the question goes to the queue group once more."""


class Registry:
    """The registries, as the gateway sees them: whoever of them answers first."""

    def __init__(self, bus: Bus, clock: Clock, timeout_s: float) -> None:
        self._bus = bus
        self._clock = clock
        self._timeout_s = timeout_s

    async def route(self, ask: OpenAIRequest, key_hash: str, request_id: UUID) -> RoutePlan | RouteRefusal:
        """The plan for a request, or why there is none. Raises BusUnavailable when nobody answers.

        Both questions carry the same request id, so that a registry that hears both books once.
        """
        request = RouteRequest(
            request_id=request_id,
            key_hash=key_hash,
            model=ask.model,
            needs=ask.needs,
            preferences=ask.preferences,
            deadline_s=self._timeout_s,
            sent_at=self._clock.now().timestamp(),
        )
        payload = request.to_bytes()

        async def put(timeout: float) -> RouteReply:
            return await self._bus.request_bytes(subjects.ROUTE, payload, RouteReply, timeout)

        first = asyncio.create_task(put(self._timeout_s))
        tasks = [first]
        try:
            await asyncio.wait(tasks, timeout=ASK_AGAIN_AFTER_S)
            if first.done() and first.exception() is None:
                return first.result().answer
            if first.done():
                await asyncio.sleep(ASK_AGAIN_AFTER_S)  # nobody is listening: somebody may be starting
            tasks.append(
                asyncio.create_task(put(max(self._timeout_s - ASK_AGAIN_AFTER_S, ASK_AGAIN_AFTER_S)))
            )
            return (await _first_answer(tasks)).answer
        finally:
            for task in tasks:
                task.cancel()

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
