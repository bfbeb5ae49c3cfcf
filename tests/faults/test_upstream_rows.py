"""Rows 22, 23 and 31: providers misbehave in every phase, and the client is answered by the next one."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from tests.support.gateway import Rig, candidate, post, running_gateway
from tests.support.upstream import Behaviour, FakeProvider

from synaxis_common.contracts.usage import AttemptOutcome

Conversation = Callable[[asyncio.StreamWriter], Awaitable[None]]
ASK: dict[str, Any] = {"model": "test-model", "messages": [{"role": "user", "content": "hi"}]}
HELLO = "Hello from the provider"
BOMB_BYTES = 64 * 1024 * 1024
REQUESTS_WHEN_ALL_ARE_DOWN = 10
MOST_ATTEMPTS_EACH = 1.2
"""What each of the providers may see, for every request of a client."""
READ_ALONE_S = 0.3
"""After so long what was sent has been read without what comes next, which would spoil it."""
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


async def _hangs(_writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def _closes_without_a_word(_writer: asyncio.StreamWriter) -> None:
    """What `misbehaving` does at the end of every conversation is all of it."""


async def _closes_in_the_headers(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-Mo")
    await writer.drain()


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


# Streams that end in every phase


def _event(**choice: Any) -> bytes:
    frame = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "test-model"}
    return b"data: " + json.dumps({**frame, "choices": [{"index": 0, **choice}]}).encode() + b"\n\n"


_ROLE = _event(delta={"role": "assistant", "content": ""}, finish_reason=None)
_WORD = _event(delta={"content": "Half"}, finish_reason=None)
_CALL = _event(
    delta={"tool_calls": [{"index": 0, "id": "x", "function": {"name": "f", "arguments": '{"a'}}]},
    finish_reason=None,
)
_FINISH = _event(delta={}, finish_reason="stop")
_USAGE = (
    b'data: {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8}}\n\n'
)
_ERROR = b'data: {"error": {"message": "overloaded", "code": 503}}\n\n'
_DONE = b"data: [DONE]\n\n"
_BAD_CHUNK = b"zz\r\nzz"
_END = b""
"""A chunk without bytes: the body is over."""


def streaming(*pieces: bytes, then: str = "close") -> Conversation:
    """A provider that sends `pieces` of a stream, each a chunk, and then does what `then` says."""

    async def conversation(writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for piece in pieces:
            if piece is _BAD_CHUNK:
                await asyncio.sleep(READ_ALONE_S)
            writer.write(piece if piece is _BAD_CHUNK else b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
        if then == "reset":
            await asyncio.sleep(READ_ALONE_S)
            writer.transport.abort()
        elif then == "hold":
            await asyncio.Event().wait()

    return conversation


async def streamed(rig: Rig) -> tuple[dict[str, str], list[str]]:
    """The headers and the data of the events that a client gets."""
    async with (
        asyncio.timeout(10),
        aiohttp.ClientSession(headers=rig.headers) as session,
        session.post(f"{rig.url}/v1/chat/completions", json={**ASK, "stream": True}) as answer,
    ):
        assert answer.status == 200, await answer.text()
        lines = (await answer.text()).splitlines()
        return dict(answer.headers), [
            line.removeprefix("data: ") for line in lines if line.startswith("data: ")
        ]


def text_of(events: list[str]) -> str:
    choices = [
        choice for event in events if event != "[DONE]" for choice in json.loads(event).get("choices", ())
    ]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


BEFORE_CONTENT = {
    "before the status line": _closes_without_a_word,
    "in the headers": _closes_in_the_headers,
    "in the headers, by a reset": _resets_in_the_headers,
    "after the headers": streaming(),
    "after the headers, by a reset": streaming(then="reset"),
    "in the first event": streaming(b'data: {"id": "c", "cho'),
    "after the role": streaming(_ROLE),
    "with a bad chunk": streaming(_ROLE, _BAD_CHUNK),
    "with an error first": streaming(_ERROR, _DONE, _END),
    "with an error after the role": streaming(_ROLE, _ERROR),
    "with nothing but the end": streaming(_DONE, _END),
}
AFTER_CONTENT = {
    "after a word": streaming(_ROLE, _WORD),
    "after a word, by a reset": streaming(_ROLE, _WORD, then="reset"),
    "in an event": streaming(_ROLE, _WORD, _WORD[:20]),
    "in a tool call": streaming(_ROLE, _CALL),
    "with a bad chunk": streaming(_ROLE, _WORD, _BAD_CHUNK),
    "with an error": streaming(_ROLE, _WORD, _ERROR, _DONE, _END),
    "with an end that says no reason": streaming(_ROLE, _WORD, _DONE, _END),
}
WHOLE = {
    "after the reason, without usage": streaming(_ROLE, _WORD, _FINISH),
    "after the reason, by a reset": streaming(_ROLE, _WORD, _FINISH, then="reset"),
    "after the usage": streaming(_ROLE, _WORD, _FINISH, _USAGE),
    "after the end, with the connection held": streaming(_ROLE, _WORD, _FINISH, _USAGE, _DONE, then="hold"),
}


@pytest.mark.parametrize("conversation", BEFORE_CONTENT.values(), ids=BEFORE_CONTENT)
async def test_a_stream_that_ends_before_its_content_is_begun_anew_elsewhere(
    nats_url: str, conversation: Conversation
) -> None:
    async with (
        misbehaving(conversation) as bad,
        FakeProvider("good") as good,
        running_gateway(nats_url, candidate(bad), candidate(good)) as rig,
    ):
        headers, events = await streamed(rig)
        report = await rig.report()
    assert (headers["x-synaxis-provider"], text_of(events), events[-1]) == ("good", HELLO, "[DONE]")
    assert [attempt.provider_id for attempt in report.attempts] == ["bad", "good"]


@pytest.mark.parametrize("conversation", AFTER_CONTENT.values(), ids=AFTER_CONTENT)
async def test_a_stream_that_ends_after_content_ends_in_an_error_and_is_booked_once(
    nats_url: str, conversation: Conversation
) -> None:
    async with (
        misbehaving(conversation) as bad,
        FakeProvider("good") as good,
        running_gateway(nats_url, candidate(bad), candidate(good)) as rig,
    ):
        _, events = await streamed(rig)
        report = await rig.report()
    assert "error" in json.loads(events[-1]), events
    assert "[DONE]" not in events
    assert not any(
        '"finish_reason": "stop"' in event or '"finish_reason":"stop"' in event for event in events
    )
    assert [attempt.provider_id for attempt in report.attempts] == ["bad"]
    assert report.attempts[0].usage is not None
    assert report.attempts[0].usage_estimated
    assert not good.calls


@pytest.mark.parametrize("conversation", WHOLE.values(), ids=WHOLE)
async def test_a_stream_that_has_said_why_it_ends_is_whole_however_the_connection_ends(
    nats_url: str, conversation: Conversation
) -> None:
    async with misbehaving(conversation) as bad, running_gateway(nats_url, candidate(bad)) as rig:
        _, events = await streamed(rig)
        report = await rig.report()
    assert (text_of(events), events[-1]) == ("Half", "[DONE]")
    assert [attempt.outcome for attempt in report.attempts] == [AttemptOutcome.OK]


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
