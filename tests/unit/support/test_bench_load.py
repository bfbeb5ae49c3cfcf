"""The benchmark's load generators and upstream: they count what is there, and pacing is the kernel's."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.bench import stream_load
from tests.bench.answers import NotHttp, Reader
from tests.bench.load import load, post
from tests.bench.stage import prompt
from tests.bench.upstream import ANSWER_BYTES, CHUNK_BYTES, Connection, completion, content_event, wish
from tests.bench.wheel import MOST_TICKS, SLOTS, TICK_S, Wheel

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the pace comes from a timer that Linux has")

WITH_LENGTH = b"HTTP/1.1 200 OK\r\nContent-length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 429 No\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"


@asynccontextmanager
async def upstream() -> AsyncIterator[str]:
    """The benchmark's upstream in this process; answers where it serves completions."""
    wheel = Wheel()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(wheel), "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/chat/completions"
        await asyncio.sleep(0.02)  # until it has seen that its clients are gone


@pytest.mark.parametrize(("answer", "status"), [(WITH_LENGTH, 200), (CHUNKED, 429)])
def test_an_answer_ends_where_it_ends_however_it_is_cut(answer: bytes, status: int) -> None:
    for cut in range(1, len(answer)):
        reader = Reader()
        assert not reader.feed(answer[:cut]), cut
        assert reader.feed(answer[cut:]), cut
        assert reader.status == status
    reader = Reader()
    assert [reader.feed(answer[place : place + 1]) for place in range(len(answer))].index(True) == len(
        answer
    ) - 1


def test_a_reader_takes_one_answer_after_another() -> None:
    reader = Reader()
    for answer, status in ((WITH_LENGTH, 200), (CHUNKED, 429), (WITH_LENGTH, 200)):
        reader.begin()
        assert reader.feed(answer)
        assert reader.status == status


def test_what_is_not_http_is_no_answer() -> None:
    with pytest.raises(NotHttp):
        Reader().feed(b"SSH-2.0-OpenSSH\r\n\r\n")


def test_answers_and_chunks_have_the_sizes_that_are_told() -> None:
    assert len(completion()) == ANSWER_BYTES
    assert len(content_event()) == CHUNK_BYTES


async def test_a_closed_loop_counts_every_answer() -> None:
    async with upstream() as url:
        run = await load(url, post(url, "k", prompt("Hello")), 4, 0.1, None, counts_events=False)
    assert run.statuses[200] == len(run.took) >= 4
    assert set(run.statuses) == {200}


async def test_an_open_loop_sends_what_is_due() -> None:
    async with upstream() as url:
        run = await load(url, post(url, "k", prompt("Hello")), 8, 0.3, 200.0, counts_events=False)
    assert len(run.took) == len(run.late) == run.statuses[200]
    assert run.statuses[200] >= 50


async def test_requests_that_are_due_wait_for_a_connection_and_are_sent_all_the_same() -> None:
    async with upstream() as url:
        request = post(url, "k", prompt(wish(3, 30), stream=True))
        run = await load(url, request, 1, 0.2, 100.0, counts_events=False)
    assert run.waited > 0
    assert run.statuses == {200: len(run.late)}


async def test_a_stream_has_as_many_chunks_as_were_wished_for() -> None:
    async with upstream() as url:
        request = post(url, "k", prompt(wish(7, 0), stream=True))
        run = await load(url, request, 1, 0.05, 20.0, counts_events=True)
    framing = 4  # the role before, and the reason, the usage and the end after the content
    assert run.events == run.statuses[200] * (7 + framing)


async def test_events_of_paced_streams_say_when_they_were_written() -> None:
    async with upstream() as url:
        request = post(url, "k", prompt(wish(80, 20), stream=True))
        found = await stream_load.load(url, request, 10, 0.1, 0.3)
    assert found["statuses"] == {"200": 10}
    assert found["came"] > 0
    assert 0 <= found["ms"]["p50"] <= found["ms"]["max"]


async def test_a_wheel_calls_each_step_until_it_has_no_more() -> None:
    wheel, left, done = Wheel(), {"a": 3, "b": 1}, asyncio.Event()

    def step(name: str) -> bool:
        left[name] -= 1
        if not any(left.values()):
            done.set()
        return left[name] > 0

    wheel.add(5, lambda: step("a"))
    wheel.add(1, lambda: step("b"))
    async with asyncio.timeout(5):
        await done.wait()
    await asyncio.sleep(0.02)
    assert left == {"a": 0, "b": 0}


async def test_a_wheel_that_cannot_follow_lets_others_run() -> None:
    wheel, loop = Wheel(), asyncio.get_running_loop()
    in_a_row, most, left = 0, 0, 60

    def step() -> bool:
        nonlocal in_a_row, most, left
        time.sleep(2 * TICK_S)  # as of a core that has too much to do
        in_a_row, left = in_a_row + 1, left - 1
        most = max(most, in_a_row)
        return left > 0

    def other() -> None:
        nonlocal in_a_row
        in_a_row = 0
        if left:
            loop.call_soon(other)

    wheel.add(1, step)
    loop.call_soon(other)
    async with asyncio.timeout(10):
        while left:
            await asyncio.sleep(0.01)
    assert most <= MOST_TICKS


def test_a_wheel_refuses_gaps_that_it_cannot_count() -> None:
    for gap in (0, SLOTS):
        with pytest.raises(ValueError, match="a gap is from 1"):
            Wheel().add(gap, lambda: False)
