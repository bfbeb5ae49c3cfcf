"""Long work on the event loop in short slices, so that nobody who waits for a reply notices it.

A thread is no way out: it holds the interpreter for milliseconds at a time while the loop wants it, and what
it changes has to be guarded. Work in slices is ordinary code that says where it may be interrupted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

T = TypeVar("T")
A = TypeVar("A")

Steps = Generator[None, None, T]
"""Work that yields wherever it may be interrupted, and returns what it has made."""

SLICE_S = 0.001
"""How long a slice takes, in seconds; a step that was begun is finished."""


async def run(
    work: Steps[T], *, at_most_s: float = SLICE_S, monotonic: Callable[[], float] = time.monotonic
) -> T:
    """Do `work`, giving way to the loop whenever a slice of `at_most_s` seconds is over."""
    begun = monotonic()
    while True:
        try:
            next(work)
        except StopIteration as done:
            result: T = done.value
            return result
        if monotonic() - begun >= at_most_s:
            await asyncio.sleep(0)
            begun = monotonic()


def at_once(work: Steps[T]) -> T:
    """Do `work` without a pause: where nobody waits, or there is little of it."""
    while True:
        try:
            next(work)
        except StopIteration as done:
            result: T = done.value
            return result


async def each(
    function: Callable[[A], T],
    items: Iterable[A],
    *,
    at_most_s: float = SLICE_S,
    monotonic: Callable[[], float] = time.monotonic,
) -> list[T]:
    """`function` of every item, in order, in slices of `at_most_s` seconds."""

    def work() -> Steps[list[T]]:
        made: list[T] = []
        for item in items:
            made.append(function(item))
            yield
        return made

    return await run(work(), at_most_s=at_most_s, monotonic=monotonic)
