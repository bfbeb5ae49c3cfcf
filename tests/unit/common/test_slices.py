"""Long work gives way to whoever else waits for the loop."""

from __future__ import annotations

import asyncio
from itertools import pairwise

from synaxis_common import slices
from synaxis_common.slices import Steps


class Ticking:
    """A clock on which every look takes 0.4 ms."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        self.at += 0.0004
        return self.at


def counting(until: int, done: list[int]) -> Steps[int]:
    for number in range(until):
        done.append(number)
        yield
    return until


async def test_others_come_to_their_turn_whenever_a_slice_is_over() -> None:
    done: list[int] = []
    seen: list[int] = []

    async def others() -> None:
        while len(done) < 30:
            seen.append(len(done))
            await asyncio.sleep(0)

    waiting = asyncio.create_task(others())
    assert await slices.run(counting(30, done), at_most_s=0.001, monotonic=Ticking()) == 30
    await waiting
    assert max(later - sooner for sooner, later in pairwise(seen)) == 3


async def test_what_takes_less_than_a_slice_is_done_without_a_pause() -> None:
    done: list[int] = []
    loop = asyncio.get_running_loop()
    interrupted: list[int] = []
    loop.call_soon(lambda: interrupted.append(len(done)))
    await slices.run(counting(30, done), at_most_s=1.0, monotonic=Ticking())
    assert interrupted == []


async def test_an_error_of_the_work_comes_out_of_it() -> None:
    def failing() -> Steps[None]:
        yield
        raise LookupError

    try:
        await slices.run(failing())
    except LookupError:
        return
    raise AssertionError("the error was lost")


async def test_each_item_is_worked_on_in_order() -> None:
    assert await slices.each(str, range(5)) == ["0", "1", "2", "3", "4"]


def test_work_can_be_done_at_once() -> None:
    done: list[int] = []
    assert slices.at_once(counting(3, done)) == 3
    assert done == [0, 1, 2]
