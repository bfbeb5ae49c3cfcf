"""Questions that are answered byte for byte, on a real bus."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from itertools import pairwise

import nats.errors
import pytest
from nats.aio.client import Client
from pydantic import SecretStr
from tests.support.registry import eventually

from synaxis_common import answers
from synaxis_common.bus import Bus
from synaxis_common.settings import ServiceSettings

SUBJECT = "synaxis.test.v1.ask"


class Answering:
    """What was asked, what has failed, and what lets those who wait go on."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.failed: list[tuple[str, str]] = []
        self.go_on = asyncio.Event()
        self.at_once = self.most_at_once = 0

    def handle(self, data: bytes) -> bytes | Awaitable[bytes | None] | None:
        self.asked.append(data)
        if data.startswith(b"wait"):
            return self.later(data)
        if data == b"fail":
            raise LookupError
        if data == b"busy":
            time.sleep(0.0005)
        return None if data == b"nothing" else b"at once: " + data

    async def later(self, data: bytes) -> bytes:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.go_on.wait()
        finally:
            self.at_once -= 1
        if data == b"wait and fail":
            raise LookupError
        return b"later: " + data

    def told(self, subject: str, error: Exception) -> None:
        self.failed.append((subject, type(error).__name__))


@asynccontextmanager
async def connected(url: str, *answering: Answering, workers: int = 4) -> AsyncIterator[list[Bus]]:
    """A bus for each, which answers, and one more to ask on."""
    buses: list[Bus] = []
    for number in range(len(answering) + 1):
        bus = Bus(ServiceSettings(nats_url=SecretStr(url)), f"bus-{number}")
        await bus.connect()
        buses.append(bus)
    for one, bus in zip(answering, buses, strict=False):
        bus.answer_bytes(SUBJECT, one.handle, failed=one.told, workers=workers)
        await bus.start_answering()
        await bus.client.flush()
    try:
        yield buses
    finally:
        for bus in buses:
            await bus.close()


async def ask(client: Client, data: bytes, timeout: float = 5.0) -> bytes:
    return bytes((await client.request(SUBJECT, data, timeout=timeout)).data)


async def test_a_question_is_answered_at_once_or_when_what_it_needs_is_there(nats_url: str) -> None:
    one = Answering()
    async with connected(nats_url, one) as (_, asking):
        waiting = asyncio.create_task(ask(asking.client, b"wait"))
        assert await ask(asking.client, b"now") == b"at once: now"
        one.go_on.set()
        assert await waiting == b"later: wait"


async def test_no_answer_is_none_rather_than_an_empty_one(nats_url: str) -> None:
    one = Answering()
    async with connected(nats_url, one) as (_, asking):
        with pytest.raises(nats.errors.TimeoutError):
            await ask(asking.client, b"nothing", timeout=0.2)
        assert one.failed == []


async def test_an_error_is_told_and_the_next_question_answered(nats_url: str) -> None:
    one = Answering()
    one.go_on.set()
    async with connected(nats_url, one) as (_, asking):
        for question in (b"fail", b"wait and fail"):
            with pytest.raises(nats.errors.TimeoutError):
                await ask(asking.client, question, timeout=0.2)
        assert one.failed == [(SUBJECT, "LookupError")] * 2
        assert await ask(asking.client, b"now") == b"at once: now"


async def test_what_takes_too_long_is_given_up(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "WITHIN_S", 0.05)
    one = Answering()
    async with connected(nats_url, one) as (_, asking):
        with pytest.raises(nats.errors.TimeoutError):
            await ask(asking.client, b"wait", timeout=0.3)
        assert (one.failed, one.at_once) == ([(SUBJECT, "TimeoutError")], 0)


async def test_only_so_many_wait_at_a_time_and_all_are_answered(nats_url: str) -> None:
    one = Answering()
    async with connected(nats_url, one, workers=3) as (_, asking):
        waiting = [asyncio.create_task(ask(asking.client, b"wait")) for _ in range(10)]

        async def are_in_hand() -> bool:
            return one.at_once == 3

        await eventually(are_in_hand, "three wait")
        one.go_on.set()
        assert set(await asyncio.gather(*waiting)) == {b"later: wait"}
        assert one.most_at_once == 3


async def test_replicas_share_the_questions(nats_url: str) -> None:
    one, other = Answering(), Answering()
    async with connected(nats_url, one, other) as (_, _, asking):
        await asyncio.gather(*(ask(asking.client, b"now") for _ in range(100)))
        assert len(one.asked) + len(other.asked) == 100
        assert one.asked
        assert other.asked


async def test_who_stops_answers_what_has_come_and_takes_no_more(nats_url: str) -> None:
    one = Answering()
    async with connected(nats_url, one) as (bus, asking):
        waiting = [asyncio.create_task(ask(asking.client, b"wait")) for _ in range(10)]

        async def are_in_hand() -> bool:
            return one.at_once == 4

        await eventually(are_in_hand, "four wait, and six are not looked at yet")
        await asking.client.flush()  # now all of them have come
        stopping = asyncio.create_task(bus.stop_answering())
        await asyncio.sleep(0.05)
        one.go_on.set()
        await stopping
        assert set(await asyncio.gather(*waiting)) == {b"later: wait"}
        with pytest.raises(nats.errors.NoRespondersError):
            await ask(asking.client, b"now")


async def test_whoever_asks_with_a_correlation_id_gets_it_back(nats_url: str) -> None:
    async with connected(nats_url, Answering()) as (_, asking):
        sent = {"correlation_id": "c-1", "other": "x"}
        reply = await asking.client.request(SUBJECT, b"now", headers=sent)
        assert reply.headers == {"correlation_id": "c-1"}


async def test_many_questions_at_once_leave_the_loop_to_others(nats_url: str) -> None:
    one = Answering()
    async with connected(nats_url, one) as (_, asking):
        seen: list[int] = []

        async def others() -> None:
            while True:
                seen.append(len(one.asked))
                await asyncio.sleep(0)

        other = asyncio.create_task(others())
        await asyncio.gather(*(ask(asking.client, b"busy") for _ in range(200)))
        other.cancel()
        assert max(later - sooner for sooner, later in pairwise(seen)) < 20
