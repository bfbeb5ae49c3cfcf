"""A timer wheel: one timer that ticks every millisecond, for any number of streams."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

TICK_S = 0.001
MOST_TICKS = 10
"""In one turn. Who cannot follow would have more to do in each than in the last, and be deaf to all else."""
SLOTS = 1024
"""The longest gap, in ticks."""

Step = Callable[[], bool]
"""Does what is due; answers whether there is more to come."""


class Wheel:
    """Calls each of its steps once in its gap."""

    def __init__(self) -> None:
        self._slots: list[list[tuple[int, Step]]] = [[] for _ in range(SLOTS)]
        self._count = 0
        self._added = 0
        self._tick = 0
        self._begun = 0.0

    def add(self, gap: int, step: Step) -> None:
        """From now on call `step` every `gap` ticks. Steps with the same gap are spread over it."""
        if not 0 < gap < SLOTS:
            raise ValueError(f"a gap is from 1 to {SLOTS - 1} ticks, not {gap}")
        if not self._count:
            self._begun, self._tick = time.perf_counter(), 0
            asyncio.get_running_loop().call_later(TICK_S, self._turn)
        self._added += 1
        self._count += 1
        first = self._tick + 1 + self._added % gap
        self._slots[first % SLOTS].append((gap, step))

    def _turn(self) -> None:
        now = int((time.perf_counter() - self._begun) / TICK_S)
        until = min(now, self._tick + MOST_TICKS)
        while self._tick < until and self._count:
            self._tick += 1
            place = self._tick % SLOTS
            due, self._slots[place] = self._slots[place], []
            for gap, step in due:
                if step():
                    self._slots[(self._tick + gap) % SLOTS].append((gap, step))
                else:
                    self._count -= 1
        if self._count:
            asyncio.get_running_loop().call_later(TICK_S if until == now else 0.0, self._turn)
