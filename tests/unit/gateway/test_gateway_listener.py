"""How many connections a gateway takes."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import Iterator
from typing import cast

import pytest
import uvloop

from synaxis_gateway.http import listener
from synaxis_gateway.http.listener import Listener, claim_descriptors, room


@pytest.fixture
def hard() -> Iterator[int]:
    """As many descriptors as this process could have."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_there_is_room_for_half_as_many_connections_as_descriptors_and_some_are_kept_back(hard: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (1_024, hard))
    assert room() == 480


def test_a_gateway_takes_what_the_system_lets_it_have(hard: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    claim_descriptors()
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(hard, 65_536)


class _Greeter(asyncio.Protocol):
    def __init__(self, greeted: list[asyncio.Transport]) -> None:
        self._greeted = greeted

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        greeting = cast(asyncio.Transport, transport)
        self._greeted.append(greeting)
        greeting.write(b"welcome")


async def answers_to(clients: list[socket.socket]) -> list[bytes]:
    """The beginning of what each is told."""

    async def ask(client: socket.socket) -> bytes:
        reader, writer = await asyncio.open_connection(sock=client)
        writer.write(b"GET /v1/models HTTP/1.1\r\n\r\n")
        answer = await reader.read(12)
        writer.close()
        return answer

    async with asyncio.timeout(10):
        return await asyncio.gather(*map(ask, clients))


def test_many_connections_are_taken_in_a_few_rounds_of_the_loop() -> None:
    greeted: list[asyncio.Transport] = []

    async def rounds() -> int:
        there = Listener(lambda: _Greeter(greeted), lambda: len(greeted))
        await there.start("127.0.0.1", 0, reuse_port=False)
        address = ("127.0.0.1", there.port)
        clients = [socket.create_connection(address) for _ in range(200)]
        count = 0
        while len(greeted) < len(clients) and count < 1_000:
            await asyncio.sleep(0)
            count += 1
        there.close()
        assert [client.recv(7) for client in clients] == [b"welcome"] * len(clients)
        for transport in greeted:
            taken = transport.get_extra_info("socket")
            assert taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        for client in clients:
            client.close()
        return count

    # 200 in portions of 17, and some rounds until the last of them is told.
    assert uvloop.run(rounds()) < 40


def test_who_comes_beyond_the_room_is_told_so_however_many_come_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listener, "room", lambda: 50)
    served: list[asyncio.Transport] = []

    async def said() -> list[bytes]:
        there = Listener(lambda: _Greeter(served), lambda: len(served))
        await there.start("127.0.0.1", 0, reuse_port=False)
        clients = [socket.create_connection(("127.0.0.1", there.port)) for _ in range(150)]
        answers = await answers_to(clients)
        there.close()
        return answers

    answers = uvloop.run(said())
    # Those that come in one round are counted in the next: that is what some descriptors are kept back for.
    assert 50 <= answers.count(b"welcome") == len(served) <= 50 + 2 * (listener.AT_ONCE + 1)
    assert answers.count(b"HTTP/1.1 503") == len(answers) - len(served)


def test_who_has_been_queued_when_the_port_is_closed_is_served() -> None:
    greeted: list[asyncio.Transport] = []

    async def said() -> tuple[bool, list[bytes], bool]:
        there = Listener(lambda: _Greeter(greeted), lambda: len(greeted))
        await there.start("127.0.0.1", 0, reuse_port=False)
        clients = [socket.create_connection(("127.0.0.1", there.port)) for _ in range(60)]
        return there.close(), await answers_to(clients), there.close()

    assert uvloop.run(said()) == (True, [b"welcome"] * 60, False)
