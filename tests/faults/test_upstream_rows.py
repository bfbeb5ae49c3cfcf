"""Rows 22, 23 and 31: providers misbehave in every phase, and the client is answered by the next one."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.support.gateway import candidate, post, running_gateway
from tests.support.upstream import Behaviour, FakeProvider

Conversation = Callable[[asyncio.StreamWriter], Awaitable[None]]
ASK: dict[str, Any] = {"model": "test-model", "messages": [{"role": "user", "content": "hi"}]}
HELLO = "Hello from the provider"
BOMB_BYTES = 64 * 1024 * 1024
REQUESTS_WHEN_ALL_ARE_DOWN = 10
MOST_ATTEMPTS_EACH = 1.2
"""What each of the providers may see, for every request of a client."""
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


async def _hangs(_writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def _resets_in_the_headers(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-")
    await writer.drain()
    writer.transport.abort()


async def _trickles(writer: asyncio.StreamWriter) -> None:
    for byte in _HEAD:
        writer.write(bytes((byte,)))
        await writer.drain()
        await asyncio.sleep(1.0)


async def _sends_headers_without_end(writer: asyncio.StreamWriter) -> None:
    writer.write(_HEAD)
    while True:
        writer.write(b"X-More: " + b"x" * 1000 + b"\r\n")
        await writer.drain()


async def _says_an_error_with_200(writer: asyncio.StreamWriter) -> None:
    await _whole(writer, b'{"error": {"message": "overloaded"}}')


async def _says_html(writer: asyncio.StreamWriter) -> None:
    await _whole(writer, b"<html>nginx</html>")


async def _sends_a_bomb(writer: asyncio.StreamWriter) -> None:
    await _whole(writer, gzip.compress(b" " * BOMB_BYTES), b"Content-Encoding: gzip\r\n")


async def _sends_a_bad_chunk(writer: asyncio.StreamWriter) -> None:
    writer.write(_HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n")
    await writer.drain()


async def _closes_in_the_body(writer: asyncio.StreamWriter) -> None:
    writer.write(_HEAD + b'Content-Length: 500\r\n\r\n{"choices": [')
    await writer.drain()


async def _whole(writer: asyncio.StreamWriter, body: bytes, more: bytes = b"") -> None:
    writer.write(_HEAD + more + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    await writer.drain()


@asynccontextmanager
async def misbehaving(conversation: Conversation) -> AsyncIterator[FakeProvider]:
    """A provider that reads a request's headers and then has its `conversation`."""
    tasks: set[asyncio.Task[None]] = set()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await conversation(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            return  # the gateway has had enough of it
        finally:
            writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(converse(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield FakeProvider("bad", port=int(server.sockets[0].getsockname()[1]))
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize(
    "conversation",
    [
        _hangs,
        _resets_in_the_headers,
        _trickles,
        _sends_headers_without_end,
        _says_an_error_with_200,
        _says_html,
        _sends_a_bomb,
        _sends_a_bad_chunk,
        _closes_in_the_body,
    ],
    ids=lambda conversation: conversation.__name__.strip("_"),
)
async def test_the_next_provider_answers_when_one(nats_url: str, conversation: Conversation) -> None:
    async with (
        misbehaving(conversation) as bad,
        FakeProvider("good") as good,
        running_gateway(nats_url, candidate(bad), candidate(good)) as rig,
    ):
        status, headers, answer = await post(rig, ASK)
        report = await rig.report()
    assert status == 200, answer
    assert answer["choices"][0]["message"]["content"] == HELLO
    assert headers["x-synaxis-provider"] == "good"
    assert [attempt.provider_id for attempt in report.attempts] == ["bad", "good"]
    assert len(good.calls) == 1


@pytest.mark.parametrize("base_url", ["https://no-such-host.invalid/v1", "http://[100::1]/v1"])
async def test_a_provider_that_cannot_be_found_or_reached_is_passed_over(
    nats_url: str, base_url: str
) -> None:
    async with FakeProvider("good") as good:
        lost = candidate(FakeProvider("lost"), base_url=base_url)
        async with running_gateway(nats_url, lost, candidate(good)) as rig:
            status, headers, answer = await post(rig, ASK)
    assert status == 200, answer
    assert headers["x-synaxis-provider"] == "good"


async def test_a_provider_whose_tls_fails_is_passed_over(nats_url: str) -> None:
    async with misbehaving(_says_html) as plain, FakeProvider("good") as good:
        bad = candidate(plain, base_url=plain.base_url.replace("http:", "https:"))
        async with running_gateway(nats_url, bad, candidate(good)) as rig:
            status, headers, answer = await post(rig, ASK)
    assert status == 200, answer
    assert headers["x-synaxis-provider"] == "good"


async def test_when_all_providers_are_down_clients_are_told_and_there_is_no_storm(nats_url: str) -> None:
    async with FakeProvider("one") as one, FakeProvider("two") as two:
        one.behaviour = two.behaviour = Behaviour(status=503)
        async with running_gateway(nats_url, candidate(one), candidate(two)) as rig:
            answers = [await post(rig, ASK) for _ in range(REQUESTS_WHEN_ALL_ARE_DOWN)]
    assert {status for status, _, _ in answers} <= {502, 503}, json.dumps(answers[-1][2])
    for provider in (one, two):
        assert len(provider.calls) <= MOST_ATTEMPTS_EACH * REQUESTS_WHEN_ALL_ARE_DOWN
