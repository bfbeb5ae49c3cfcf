"""Hedging: who has not begun to answer by its own p95 gets company, and the first to answer wins.

Dean and Barroso, "The Tail at Scale" (2013): a second request after the 95th percentile shortens the tail by
more than it adds load. Off unless a request asks for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from synaxis_common.contracts.routing import Candidate
from synaxis_gateway import metrics
from synaxis_gateway.dispatch.attempt import Begun, Failed, Result
from synaxis_gateway.dispatch.call import Call

SHARE: Final = 0.05
"""Second requests that a request earns: hedging never adds more load than this."""
CAP: Final = 5.0
"""Second requests that can be saved up."""

Make = Callable[[Candidate], Awaitable[Result]]


class HedgeBudget:
    """How many second requests may be made, over all models of a gateway."""

    def __init__(self) -> None:
        self._tokens = 1.0

    def earn(self) -> None:
        """A request is made."""
        if self._tokens < CAP:
            self._tokens = min(CAP, self._tokens + SHARE)

    def spend(self) -> bool:
        """Whether a second one may be made beside it."""
        if self._tokens < 1.0:
            metrics.HEDGES.labels("not_allowed").inc()
            return False
        self._tokens -= 1.0
        return True


async def race(
    call: Call,
    first: Candidate,
    make: Make,
    backup: Callable[[], Awaitable[Candidate | None]],
) -> list[tuple[Candidate, Result]]:
    """Try `first`; when it has not begun by its p95, also whom `backup` gives. What failed comes first.

    The last of what is returned is the answer, if there is one; whoever was slower has been cancelled.
    """
    tasks = [(first, asyncio.ensure_future(make(first)))]
    results: list[tuple[Candidate, Result]] = []
    try:
        await asyncio.wait([tasks[0][1]], timeout=first.begins_within_s)
        if not tasks[0][1].done() and (second := await backup()) is not None:
            metrics.HEDGES.labels("made").inc()
            tasks.append((second, asyncio.ensure_future(make(second))))
        while tasks:
            await asyncio.wait([task for _, task in tasks], return_when=asyncio.FIRST_COMPLETED)
            place = next(place for place, (_, task) in enumerate(tasks) if task.done())
            candidate, task = tasks.pop(place)
            results.append((candidate, task.result()))
            if not isinstance(results[-1][1], Failed):
                call.put_last(candidate)
                if candidate is not first:
                    metrics.HEDGES.labels("won").inc()
                break
        for candidate, task in tasks:
            await _cancel(task)
            call.give_up(candidate, "another candidate answered first")
        return results
    except BaseException:
        for _, task in tasks:
            await _cancel(task)
        raise


async def _cancel(task: asyncio.Future[Result]) -> None:
    task.cancel()
    (result,) = await asyncio.gather(task, return_exceptions=True)
    if isinstance(result, Begun):
        result.stream.answer.close()
