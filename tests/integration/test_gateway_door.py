"""The lean door: HTTP/1.1 as bytes, at its edges; what is not the hot path goes to aiohttp's server."""

from __future__ import annotations

import asyncio
import json
import logging
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.support.gateway import QUICK, Rig, candidate, running_gateway
from tests.support.upstream import Behaviour, FakeProvider

from synaxis_common import ids
from synaxis_common.contracts.usage import AttemptOutcome, RequestOutcome
from synaxis_gateway import metrics
from synaxis_gateway.http import door
from synaxis_gateway.http.door import MAX_HEAD_BYTES, MAX_HEADERS

ASK = {"model": "test-model", "messages": [{"role": "user", "content": "hi"}]}
STREAM = {**ASK, "stream": True}
PATIENT = QUICK.model_copy(update={"first_token_s": 20.0, "between_tokens_s": 20.0, "total_s": 100.0})
PATIENCE_S = 10.0
"""How long a test waits for what must come."""


@pytest.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    async with FakeProvider("only") as provider:
        yield provider


@pytest.fixture
async def rig(nats_url: str, provider: FakeProvider) -> AsyncIterator[Rig]:
    async with running_gateway(nats_url, candidate(provider, timeouts=PATIENT)) as rig:
        yield rig


@dataclass
class Heard:
    """An answer as it came."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> Any:
        """Of the error."""
        return json.loads(self.body)["error"]["code"]


class Line:
    """A connection to the gateway, spoken to in bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, *pieces: bytes) -> None:
        """Send pieces, each in a segment of its own as far as that can be had."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            if len(pieces) > 1:
                await asyncio.sleep(0.001)

    async def head(self) -> tuple[int, dict[str, str]]:
        """The head of the next answer."""
        async with asyncio.timeout(PATIENCE_S):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        version, status, _ = lines[0].split(" ", 2)
        assert version == "HTTP/1.1"
        pairs = [line.split(": ", 1) for line in lines[1:] if line]
        headers = {name.lower(): value for name, value in pairs}
        assert len(headers) == len(pairs), "no header comes twice"
        return int(status), headers

    async def chunk(self) -> bytes:
        """The next chunk of a body; empty is its end."""
        async with asyncio.timeout(PATIENCE_S):
            size = int(await self.reader.readline(), 16)
            data = await self.reader.readexactly(size + 2)
        assert data.endswith(b"\r\n")
        return data[:-2]

    async def answer(self) -> Heard:
        """The next answer, whole."""
        status, headers = await self.head()
        if headers.get("transfer-encoding") == "chunked":
            assert "content-length" not in headers
            body = b""
            while piece := await self.chunk():
                body += piece
        else:
            async with asyncio.timeout(PATIENCE_S):
                body = await self.reader.readexactly(int(headers["content-length"]))
        return Heard(status, headers, body)

    async def ends(self) -> bool:
        """Whether nothing more comes, and the gateway closes its side."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await self.reader.read() == b""
        except ConnectionError:
            return True


@asynccontextmanager
async def line_to(rig: Rig, **options: Any) -> AsyncIterator[Line]:
    address = urlsplit(rig.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port, **options)
    try:
        yield Line(reader, writer)
    finally:
        writer.transport.abort()


def head(rig: Rig, *headers: str, path: str = "/v1/chat/completions", version: str = "1.1") -> bytes:
    """The head of a POST with the tenant's key."""
    lines = [f"POST {path} HTTP/{version}", "Host: x", f"Authorization: Bearer {rig.tenant_key}", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


def chat(rig: Rig, ask: Any = None, *headers: str, **options: Any) -> bytes:
    """A whole request."""
    body = json.dumps(ASK if ask is None else ask).encode()
    return head(rig, f"Content-Length: {len(body)}", *headers, **options) + body


def chunked(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (*pieces, b""))


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.01)


async def test_several_requests_are_answered_on_one_connection(rig: Rig, provider: FakeProvider) -> None:
    async with line_to(rig) as line:
        for number in range(3):
            await line.send(chat(rig))
            answer = await line.answer()
            assert answer.status == 200
            assert "connection" not in answer.headers
            await line.send(chat(rig, STREAM))
            assert (await line.answer()).body.endswith(b"data: [DONE]\n\n")
            assert len(provider.calls) == 2 * number + 2


def comparable(answer: Heard) -> tuple[int, dict[str, str], bytes]:
    changing = {"date", "x-request-id"}
    return answer.status, {k: v for k, v in answer.headers.items() if k not in changing}, answer.body


@pytest.mark.parametrize("ask", [ASK, STREAM, {"messages": []}], ids=["whole", "stream", "error"])
async def test_aiohttps_side_answers_as_the_door_does(rig: Rig, ask: Any) -> None:
    get = f"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {rig.tenant_key}\r\n\r\n".encode()
    async with line_to(rig) as at_the_door, line_to(rig) as handed_over:
        await at_the_door.send(chat(rig, ask))
        expected = await at_the_door.answer()
        await handed_over.send(get)
        models = await handed_over.answer()
        assert models.status == 200
        await handed_over.send(chat(rig, ask))
        answer = await handed_over.answer()
        assert comparable(answer) == comparable(expected)
        assert answer.headers.keys() == expected.headers.keys()
        await handed_over.send(get)
        assert (await handed_over.answer()).body == models.body


@pytest.mark.parametrize("ask", [ASK, STREAM], ids=["whole", "stream"])
async def test_a_connection_is_handed_over_between_two_requests(rig: Rig, ask: Any) -> None:
    async with line_to(rig) as line:
        for request in (chat(rig, ask), b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", chat(rig, ask)):
            await line.send(request)
            assert (await line.answer()).status == 200


async def test_a_request_may_be_cut_anywhere(rig: Rig, provider: FakeProvider) -> None:
    request = chat(rig)
    line_end = request.index(b"\r\n") + 2
    cuts = [*range(1, line_end + 1), *range(line_end + 1, len(request), 7), len(request) - 1]
    async with line_to(rig) as line:
        for cut in cuts:
            await line.send(request[:cut], request[cut:])
            assert (await line.answer()).status == 200
    assert len(provider.calls) == len(cuts)
    assert {call.json["messages"][0]["content"] for call in provider.calls} == {"hi"}


async def test_a_request_may_come_byte_by_byte(rig: Rig) -> None:
    async with line_to(rig) as line:
        await line.send(*(bytes([byte]) for byte in chat(rig)))
        assert (await line.answer()).status == 200


async def test_a_path_that_begins_like_the_hot_path_is_found_at_aiohttps_side_wherever_it_is_cut(
    rig: Rig,
) -> None:
    request = b"POST /v1/chat/nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    for cut in (1, 9, 10, 15, 30, 33):
        async with line_to(rig) as line:
            await line.send(request[:cut], request[cut:])
            assert (await line.answer()).code == "not_found"


async def test_a_chunked_body_is_put_together(rig: Rig, provider: FakeProvider) -> None:
    body = json.dumps(ASK).encode()
    async with line_to(rig) as line:
        for pieces in ((body,), (body[:1], body[1:9], body[9:])):
            await line.send(head(rig, "Transfer-Encoding: chunked"), chunked(*pieces))
            answer = await line.answer()
            assert (answer.status, "connection" in answer.headers) == (200, False)
    assert [call.json["messages"] for call in provider.calls] == [ASK["messages"]] * 2


async def test_who_expects_to_be_told_to_continue_is(rig: Rig) -> None:
    body = json.dumps(ASK).encode()
    request_head = head(rig, f"Content-Length: {len(body)}", "Expect: 100-continue")
    async with line_to(rig) as line:
        for _ in range(2):
            await line.send(request_head)
            assert await line.head() == (100, {})
            await line.send(body)
            assert (await line.answer()).status == 200
        await line.send(request_head + body)
        assert (await line.answer()).status == 200, "the body is there: nobody waits"


async def test_who_is_refused_is_not_told_to_continue(rig: Rig) -> None:
    async with line_to(rig) as line:
        headers = b"Host: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
        await line.send(b"POST /v1/chat/completions HTTP/1.1\r\n" + headers)
        answer = await line.answer()
        assert (answer.status, answer.headers["connection"]) == (401, "close")
        assert await line.ends()


@pytest.mark.parametrize(
    "options", [{"version": "1.0"}, {"path": "/v1/chat/completions?api-version=1"}], ids=["1.0", "query"]
)
async def test_what_is_unusual_is_served_by_aiohttp(rig: Rig, options: dict[str, str]) -> None:
    async with line_to(rig) as line:
        await line.send(chat(rig, ASK, **options))
        async with asyncio.timeout(PATIENCE_S):
            assert (await line.reader.readline()).split()[1] == b"200"


@pytest.mark.parametrize("ask", [ASK, STREAM], ids=["whole", "stream"])
async def test_a_client_that_wants_its_connection_closed_is_told_so(rig: Rig, ask: Any) -> None:
    async with line_to(rig) as line:
        await line.send(chat(rig, ask, "Connection: close"))
        answer = await line.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await line.ends()


async def test_a_body_that_says_it_is_too_large_is_refused_before_it_is_sent(rig: Rig) -> None:
    async with line_to(rig) as line:
        await line.send(head(rig, "Content-Length: 50000000"))
        answer = await line.answer()
        assert (answer.status, answer.code, answer.headers["connection"]) == (
            413,
            "request_too_large",
            "close",
        )
        await line.send(b"x" * 100_000)  # what is still sent is thrown away
        assert await line.ends()


async def test_a_chunked_body_that_grows_too_large_is_refused_and_its_client_hears_why(
    nats_url: str, provider: FakeProvider
) -> None:
    async with (
        running_gateway(nats_url, candidate(provider), max_body_bytes=10_000) as rig,
        line_to(rig) as line,
    ):
        await line.send(head(rig, "Transfer-Encoding: chunked"))
        for _ in range(40):
            await line.send(b"400\r\n" + b"x" * 1024 + b"\r\n")
        answer = await line.answer()
        assert (answer.status, answer.code, answer.headers["connection"]) == (
            413,
            "request_too_large",
            "close",
        )
        await line.send(b"0\r\n\r\n")
        assert await line.ends()
        assert not rig.route_requests


async def test_a_compressed_body_is_a_415_whose_connection_ends_if_the_body_is_yet_to_come(rig: Rig) -> None:
    async with line_to(rig) as line:
        await line.send(chat(rig, ASK, "Content-Encoding: gzip"))
        assert (await line.answer()).code == "unsupported_content_encoding"
        await line.send(chat(rig))
        assert (await line.answer()).status == 200, "the body was there, the connection is sound"
        await line.send(head(rig, "Content-Encoding: br", "Content-Length: 5"))
        answer = await line.answer()
        assert (answer.status, answer.headers["connection"]) == (415, "close")
        assert await line.ends()


@pytest.mark.parametrize("framing", ["Content-Length: 100", "Transfer-Encoding: chunked"])
async def test_a_body_that_does_not_come_is_a_408(
    nats_url: str, provider: FakeProvider, framing: str
) -> None:
    async with (
        running_gateway(nats_url, candidate(provider), body_timeout_s=0.2) as rig,
        line_to(rig) as line,
    ):
        await line.send(head(rig, framing))
        answer = await line.answer()
        assert (answer.status, answer.headers["connection"]) == (408, "close")
        assert await line.ends()


def other_key() -> str:
    return ids.new_tenant_key().key


KEYS = {
    "none": [],
    "wrong": ["Authorization: Bearer sk-proj-abcdefghijklmnop"],
    "the same header twice": [f"Authorization: Bearer {other_key()}", f"Authorization: Bearer {other_key()}"],
    "x-api-key twice": [f"x-api-key: {other_key()}", f"X-Api-Key: {other_key()}"],
    "two that differ": [f"Authorization: Bearer {other_key()}", f"x-api-key: {other_key()}"],
}


@pytest.mark.parametrize("case", KEYS)
async def test_without_one_sound_key_it_is_a_401_and_the_connection_stays(rig: Rig, case: str) -> None:
    body = json.dumps(ASK).encode()
    lines = ["POST /v1/chat/completions HTTP/1.1", "Host: x", *KEYS[case], f"Content-Length: {len(body)}"]
    async with line_to(rig) as line:
        await line.send("\r\n".join([*lines, "", ""]).encode() + body)
        answer = await line.answer()
        assert (answer.status, answer.code) == (401, "invalid_api_key")
        assert answer.headers["www-authenticate"] == "Bearer"
        assert not rig.route_requests
        await line.send(chat(rig))
        assert (await line.answer()).status == 200


MALFORMED = {
    "a space before the colon": "X-Fine : 1",
    "a length that is no number": "Content-Length: five",
    "a negative length": "Content-Length: -5",
    "a length beyond all bounds": "Content-Length: 99999999999999999999999",
    "two lengths": "Content-Length: 2\r\nContent-Length: 3",
    "a length and chunks": "Content-Length: 2\r\nTransfer-Encoding: chunked",
    "chunks that are not the last encoding": "Transfer-Encoding: chunked, gzip",
    "a control byte": "X-Fine: a\x00b",
    "a name with a control byte": "X-\x01Fine: 1",
    "a bare line feed": "X-Fine: 1\nX-More: 2",
    "a folded line": "X-Fine: 1\r\n and more",
    "no colon": "X-Fine",
}


@pytest.mark.parametrize("case", MALFORMED)
async def test_what_is_not_http_is_refused_and_nothing_of_it_is_repeated(
    rig: Rig,
    provider: FakeProvider,
    case: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    async with line_to(rig) as line:
        await line.send(head(rig, MALFORMED[case]) + b"{}")
        status, headers = await line.head()
        assert (status, headers["connection"]) == (400, "close")
        async with asyncio.timeout(PATIENCE_S):
            said = await line.reader.read()
    assert len(said) == int(headers["content-length"]), "one answer, and the end"
    assert not provider.calls
    await asyncio.sleep(0.1)  # lines of the log are gathered for a moment
    out, err = capfd.readouterr()
    for text in (said.decode(), caplog.text, out, err):
        assert rig.tenant_key not in text
        assert "X-Fine" not in text


async def test_a_chunk_that_is_none_ends_the_connection(rig: Rig, provider: FakeProvider) -> None:
    async with line_to(rig) as line:
        await line.send(head(rig, "Transfer-Encoding: chunked"), b"not a size\r\n")
        assert await line.ends()
    await eventually(lambda: metrics.IN_FLIGHT.count == 0)
    assert not provider.calls


@pytest.mark.parametrize("is_complete", [True, False], ids=["complete", "endless"])
async def test_a_head_that_is_too_large_is_a_431(rig: Rig, provider: FakeProvider, is_complete: bool) -> None:
    fields = [f"X-{number}: {'x' * 1000}" for number in range(MAX_HEAD_BYTES // 1000 + 1)]
    request = head(rig, *fields, "Content-Length: 2")
    async with line_to(rig) as line:
        await line.send(request + b"{}" if is_complete else request[:-4])
        answer = await line.answer()
        assert (answer.status, answer.headers["connection"]) == (431, "close")
        await line.send(b"\r\n\r\n" + chat(rig))
        assert await line.ends(), "what comes after is no request"
    assert not provider.calls


async def test_a_large_body_that_comes_with_its_head_is_not_taken_for_a_head(rig: Rig) -> None:
    async with line_to(rig) as line:
        await line.send(chat(rig, {**ASK, "user": "x" * (3 * MAX_HEAD_BYTES)}))
        assert (await line.answer()).status == 200


async def test_too_many_headers_are_a_431(rig: Rig, provider: FakeProvider) -> None:
    async with line_to(rig) as line:
        await line.send(chat(rig, ASK, *(f"X-{number}: 1" for number in range(MAX_HEADERS - 3))))
        assert (await line.answer()).status == 200
        await line.send(chat(rig, ASK, *(f"X-{number}: 1" for number in range(MAX_HEADERS))))
        answer = await line.answer()
        assert (answer.status, answer.headers["connection"]) == (431, "close")
        assert await line.ends()
    assert len(provider.calls) == 1


@pytest.mark.parametrize("first", ["", "Connection: close"])
async def test_of_two_requests_at_once_the_first_is_answered_and_the_connection_ends(
    rig: Rig, provider: FakeProvider, first: str
) -> None:
    async with line_to(rig) as line:
        await line.send(chat(rig, ASK, *filter(None, [first])) + chat(rig))
        answer = await line.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await line.ends()
    assert len(provider.calls) == 1


async def test_what_comes_behind_a_request_does_not_take_its_answer_from_it(
    rig: Rig, provider: FakeProvider
) -> None:
    provider.behaviour = Behaviour(delay_s=0.2)
    async with line_to(rig) as line:
        await line.send(chat(rig))
        await provider.wait_for_call()
        await line.send(b"\x00\x01 no HTTP at all\r\n\r\n")
        assert (await line.answer()).status == 200
        assert await line.ends()


@pytest.mark.parametrize("ask", [ASK, STREAM], ids=["whole", "stream"])
async def test_the_wish_to_speak_another_protocol_is_not_granted_and_does_no_harm(
    rig: Rig, provider: FakeProvider, ask: Any
) -> None:
    wish = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA")
    whole = chat(rig, ask, *wish)
    end = whole.index(b"\r\n\r\n") + 4
    body = whole[end:]
    in_chunks = head(rig, "Transfer-Encoding: chunked", *wish) + chunked(body[:7], body[7:])
    async with line_to(rig) as line:
        for pieces in ((whole,), (whole[:end], body), (whole[: end + 5], whole[end + 5 :]), (in_chunks,)):
            await line.send(*pieces)
            answer = await line.answer()
            assert answer.status == 200
            assert answer.headers.keys().isdisjoint({"upgrade", "connection"})
            assert b"Hello" in answer.body
        await line.send(chat(rig, ask) + whole)
        assert (await line.answer()).headers["connection"] == "close"
        assert await line.ends()
    assert len(provider.calls) == 5
    async with line_to(rig) as line:
        await line.send(chat(rig, ask, "Connection: Upgrade, close", "Upgrade: h2c"))
        assert (await line.answer()).headers["connection"] == "close"
        assert await line.ends()


async def test_what_follows_a_declined_wish_must_be_a_sound_body(rig: Rig, provider: FakeProvider) -> None:
    async with line_to(rig) as line:
        wish = ("Connection: Upgrade", "Upgrade: h2c")
        await line.send(head(rig, "Transfer-Encoding: chunked", *wish) + b"no size\r\n")
        assert await line.ends()
    async with line_to(rig) as line:
        await line.send(head(rig, *wish))
        assert (await line.answer()).status == 400, "no body at all"
    assert not provider.calls


async def test_a_client_that_leaves_in_the_midst_of_a_stream_ends_it_at_the_provider(
    rig: Rig, provider: FakeProvider
) -> None:
    provider.behaviour = Behaviour(stall_after=2)
    before = metrics.IN_FLIGHT.count
    async with line_to(rig) as line:
        await line.send(chat(rig, STREAM))
        assert (await line.head())[0] == 200
        assert await line.chunk()
        assert metrics.IN_FLIGHT.count == before + 1
    call = await provider.wait_for_call()
    async with asyncio.timeout(0.5):
        await call.client_left.wait()
    report = await rig.report()
    assert report.outcome is RequestOutcome.CLIENT_GONE
    assert report.attempts[0].outcome is AttemptOutcome.CLIENT_GONE
    assert metrics.IN_FLIGHT.count == before


async def test_a_client_that_leaves_before_its_answer_ends_the_request(
    rig: Rig, provider: FakeProvider
) -> None:
    provider.behaviour = Behaviour(hang=True)
    async with line_to(rig) as line:
        await line.send(chat(rig))
        call = await provider.wait_for_call()
    async with asyncio.timeout(0.5):
        await call.client_left.wait()
    assert (await rig.report()).outcome is RequestOutcome.CLIENT_GONE


async def traced_when_still() -> int:
    """Bytes in use as soon as they do not change any more."""
    before = -1
    while before != (now := tracemalloc.get_traced_memory()[0] >> 20):
        before = now
        await asyncio.sleep(0.3)
    return now << 20


async def test_a_client_that_does_not_read_holds_its_stream_up(rig: Rig, provider: FakeProvider) -> None:
    word, count = "x" * 32_768, 1_000
    provider.behaviour = Behaviour(words=[word] * count)
    async with line_to(rig) as line:
        line.writer.transport.pause_reading()  # type: ignore[attr-defined]
        tracemalloc.start()
        try:
            await line.send(chat(rig, STREAM))
            await provider.wait_for_call()
            assert await traced_when_still() < 10_000_000, "32 MB are sent in all"
        finally:
            tracemalloc.stop()
        assert not rig.reports, "it is not over"
        line.writer.transport.resume_reading()  # type: ignore[attr-defined]
        answer = await line.answer()
    assert answer.body.count(b'"content": "' + word.encode()) == count
    assert answer.body.endswith(b"data: [DONE]\n\n")
    assert (await rig.report()).outcome is RequestOutcome.OK


LARGE = 16_000_000
"""Characters of an answer that does not fit into what the system holds for a connection."""


async def test_who_does_not_take_an_answer_gets_no_second_one(rig: Rig, provider: FakeProvider) -> None:
    provider.behaviour = Behaviour(words=["x" * LARGE])
    async with line_to(rig) as line:
        line.writer.transport.pause_reading()  # type: ignore[attr-defined]
        for _ in range(3):
            await line.send(chat(rig))
            await asyncio.sleep(0.3)
        line.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert len((await line.answer()).body) > LARGE
        assert await line.ends()
    assert len(provider.calls) == 1


async def test_a_large_answer_leaves_its_connection_fit_for_the_next(
    rig: Rig, provider: FakeProvider
) -> None:
    provider.behaviour = Behaviour(words=["x" * LARGE])
    async with line_to(rig) as line:
        for _ in range(5):
            await line.send(chat(rig))
            assert len((await line.answer()).body) > LARGE


async def test_a_client_that_takes_nothing_of_its_answer_is_let_go(
    rig: Rig, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "STALL_S", 0.1)
    monkeypatch.setattr(door, "LINGER_S", 0.1)
    provider.behaviour = Behaviour(words=["x" * LARGE])
    before = metrics.IN_FLIGHT.count
    async with line_to(rig) as line:
        line.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await line.send(chat(rig))
        await rig.report()
        await eventually(lambda: metrics.IN_FLIGHT.count == before)
        await asyncio.sleep(0.2)
        line.writer.transport.resume_reading()  # type: ignore[attr-defined]
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await line.answer()


async def test_a_client_that_takes_its_answer_slowly_gets_all_of_it(
    rig: Rig, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "STALL_S", 0.5)
    provider.behaviour = Behaviour(words=["x" * LARGE])
    async with line_to(rig) as line:
        await line.send(chat(rig))
        _, headers = await line.head()
        left = int(headers["content-length"])
        async with asyncio.timeout(3 * PATIENCE_S):
            while left:
                left -= len(piece := await line.reader.read(LARGE))
                assert piece
                await asyncio.sleep(0.01)
        await line.send(chat(rig))
        assert len((await line.answer()).body) > LARGE


async def test_a_gateway_that_stops_waits_until_a_large_answer_is_taken(
    nats_url: str, provider: FakeProvider
) -> None:
    provider.behaviour = Behaviour(words=["x" * LARGE])
    async with (
        running_gateway(nats_url, candidate(provider, timeouts=PATIENT), shutdown_grace_s=15.0) as rig,
        line_to(rig) as line,
    ):
        line.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await line.send(chat(rig))
        await rig.report()
        rig.stop()
        await asyncio.sleep(0.3)
        line.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert len((await line.answer()).body) > LARGE
        assert await line.ends()


async def test_idle_connections_are_closed_when_a_gateway_stops(
    nats_url: str, provider: FakeProvider
) -> None:
    async with (
        running_gateway(nats_url, candidate(provider)) as rig,
        line_to(rig) as fresh,
        line_to(rig) as used,
        line_to(rig) as begun,
    ):
        await used.send(chat(rig))
        assert (await used.answer()).status == 200
        await begun.send(b"POST /v1/ch")
        rig.stop()
        for line in (fresh, used, begun):
            assert await line.ends()


async def test_a_gateway_that_drains_says_so_with_every_answer(nats_url: str, provider: FakeProvider) -> None:
    async with running_gateway(nats_url, candidate(provider), drain_delay_s=1.0) as rig, line_to(rig) as line:
        await line.send(chat(rig))
        assert "connection" not in (await line.answer()).headers
        rig.stop()
        await asyncio.sleep(0.05)
        await line.send(chat(rig, STREAM))
        answer = await line.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await line.ends()


async def test_a_stream_is_chunked_to_its_end(rig: Rig) -> None:
    async with line_to(rig) as line:
        await line.send(chat(rig, STREAM))
        status, headers = await line.head()
        assert (status, headers["transfer-encoding"]) == (200, "chunked")
        assert headers["content-type"] == "text/event-stream; charset=utf-8"
        pieces = []
        while piece := await line.chunk():
            pieces.append(piece)
        assert b"".join(pieces).endswith(b"data: [DONE]\n\n")
        await line.send(chat(rig))
        assert (await line.answer()).status == 200, "nothing is left between the two"


@pytest.mark.parametrize("ask", [ASK, STREAM], ids=["whole", "stream"])
async def test_the_id_of_an_answer_is_its_reports(rig: Rig, ask: Any) -> None:
    async with line_to(rig) as line:
        for number in (1, 2):
            await line.send(chat(rig, ask, f"x-request-id: {UUID(int=7)}"))
            request_id = UUID((await line.answer()).headers["x-request-id"])
            assert request_id.version == 7
            assert (await rig.report(number)).request_id == request_id
    assert len({report.request_id for report in rig.reports}) == 2


async def test_metrics_are_prometheus_and_count_what_was_answered(rig: Rig) -> None:
    async def scraped() -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        async with aiohttp.ClientSession() as session, session.get(f"{rig.url}/metrics") as answer:
            families = list(text_string_to_metric_families(await answer.text()))
        return {
            (one.name, frozenset(one.labels.items())): one.value for each in families for one in each.samples
        }

    def key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
        return f"synaxis_gateway_{name}", frozenset(labels.items())

    before = await scraped()
    async with line_to(rig) as line:
        for request in (chat(rig, ASK), chat(rig, STREAM), chat(rig, {"messages": []})):
            await line.send(request)
            await line.answer()
    after = await scraped()
    path = {"endpoint": "/v1/chat/completions"}
    for counted, by in (
        (key("requests_total", status="200", **path), 2),
        (key("requests_total", status="400", **path), 1),
        (key("attempts_total", provider="only", outcome="ok"), 2),
        (key("request_seconds_count", **path), 3),
        (key("request_seconds_bucket", le="+Inf", **path), 3),
    ):
        assert after[counted] - before.get(counted, 0) == by, counted
    assert after[key("requests_in_flight")] == before[key("requests_in_flight")] == 1, "the scrape itself"
    for name in ("request_seconds", "first_token_seconds"):
        buckets: dict[frozenset[tuple[str, str]], list[tuple[float, float]]] = {}
        for (found, labels), value in after.items():
            if found == f"synaxis_gateway_{name}_bucket":
                said = dict(labels)
                bound = float(said.pop("le"))
                buckets.setdefault(frozenset(said.items()), []).append((bound, value))
        assert buckets
        for labels, counts in buckets.items():
            values = [value for _, value in sorted(counts)]
            assert values == sorted(values), "each bucket holds those below it"
            assert values[-1] == after[f"synaxis_gateway_{name}_count", labels]
            assert after[f"synaxis_gateway_{name}_sum", labels] > 0
