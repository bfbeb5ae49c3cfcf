"""The client for providers, against servers that speak HTTP in every way there is, and some there are not."""

from __future__ import annotations

import asyncio
import gc
import gzip
import socket
import threading
import time
import weakref
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.support.certificates import localhost_certificate, server_tls

from synaxis_gateway.upstream.client import UpstreamClient, UpstreamRequest
from synaxis_gateway.upstream.connection import MAX_HEAD_BYTES, MAX_HEADERS, Connection
from synaxis_gateway.upstream.dialing import Dialer
from synaxis_gateway.upstream.endpoint import Origin, UpstreamEndpoint
from synaxis_gateway.upstream.errors import NoConnection, Reset, TooLate, Unreadable, UpstreamError

pytestmark = pytest.mark.both_loops

MIB = 1024 * 1024
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
Answering = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Server:
    """A raw server: says what it is told to, whatever it was asked."""

    url: str = ""
    answer: Answering | None = None
    connections: int = 0
    heads: list[bytes] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def say(self, *answers: bytes, then_close: bool = False) -> None:
        """Answer every request of a connection with the next of `answers`."""

        async def speak(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(answers[min(len(self.heads), len(answers)) - 1])
            await writer.drain()
            if then_close:
                writer.close()

        self.answer = speak

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.connections += 1
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                self.heads.append(head)
                if length < MIB:
                    await reader.readexactly(length)
                assert self.answer is not None
                await self.answer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client is gone, as some of these tests want it
        finally:
            self.ended.set()
            writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    listening = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1/x"
    yield made
    listening.close()


@pytest.fixture
async def client() -> AsyncIterator[UpstreamClient]:
    made = UpstreamClient(max_answer_bytes=MIB)
    yield made
    await made.close()


def request(server: Server, body: bytes = b"{}", **changes: object) -> UpstreamRequest:
    endpoint = UpstreamEndpoint.of(server.url, {"authorization": "Bearer secret"}, allow_private=True)
    given = {"request_id": "id-1", "connect_timeout_s": 5.0, "answer_within_s": 10.0, **changes}
    return UpstreamRequest(endpoint=endpoint, body=body, **given)  # type: ignore[arg-type]


async def body_of(client: UpstreamClient, asked: UpstreamRequest) -> bytes:
    answer = await client.open(asked)
    try:
        return await answer.read_all()
    finally:
        answer.close()


async def test_a_request_says_what_it_must_and_its_connection_is_kept(
    server: Server, client: UpstreamClient
) -> None:
    server.say(OK)
    for _ in range(3):
        assert await body_of(client, request(server)) == b"ok"
    assert server.connections == 1
    head = server.heads[0]
    assert head.startswith(b"POST /v1/x HTTP/1.1\r\nhost: 127.0.0.1:")
    assert b"x-request-id: id-1\r\ncontent-length: 2\r\n\r\n" in head


@pytest.mark.parametrize(
    ("said", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n", b"ok"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK, b"ok"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.2/\r\nContent-Length: 0\r\n\r\n", b""),
    ],
)
async def test_every_framing_has_its_end_and_keeps_the_connection(
    server: Server, client: UpstreamClient, said: bytes, body: bytes
) -> None:
    server.say(said)
    for _ in range(2):
        assert await body_of(client, request(server)) == body
    assert server.connections == 1


async def test_the_headers_of_an_answer_are_those_of_its_own_head(
    server: Server, client: UpstreamClient
) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-TWICE: a\r\nx-Twice: b\r\n\r\n"
    early = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\nX-Early: y\r\n\r\n"
    server.say(early + head + b"2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n")
    for _ in range(2):
        answer = await client.open(request(server))
        assert await answer.read_all() == b"ok"
        assert answer.headers == {"transfer-encoding": "chunked", "x-twice": "b"}
        answer.close()
    assert server.connections == 1


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=1\r\nContent-Length: 2\r\n\r\nok",
        OK + b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nnot",
    ],
)
async def test_a_connection_that_is_not_to_be_kept_is_not(
    server: Server, client: UpstreamClient, said: bytes
) -> None:
    server.say(said)
    for _ in range(2):
        assert await body_of(client, request(server)) == b"ok"
    assert server.connections == 2


async def test_without_a_length_the_body_ends_with_the_connection(
    server: Server, client: UpstreamClient
) -> None:
    server.say(b"HTTP/1.1 200 OK\r\n\r\nall of it", then_close=True)
    assert await body_of(client, request(server)) == b"all of it"


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", Unreadable),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", Unreadable),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nok\r\n", Unreadable),
        (b"hello\r\n\r\n", Unreadable),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000, Unreadable),
        (b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 200 + b"\r\n", Unreadable),
        (b"HTTP/1.1 200 OK\r\nContent-Le", Reset),
        (b"", Reset),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 2\r\n\r\nok", Unreadable),
        (b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (2 * MIB) + b"x" * 2 * MIB, Unreadable),
    ],
)
async def test_what_is_no_answer_is_told_to_be_none(
    server: Server, client: UpstreamClient, said: bytes, error: type[UpstreamError]
) -> None:
    server.say(said, then_close=True)
    with pytest.raises(error):
        await body_of(client, request(server))


def packed(data: bytes, encoding: str) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


async def test_a_compression_that_was_not_asked_for_is_undone_within_bounds(
    server: Server, client: UpstreamClient
) -> None:
    bare = zlib.compressobj(wbits=-15)
    for said in (
        packed(gzip.compress(b"plain"), "gzip"),
        packed(zlib.compress(b"plain"), "deflate"),
        packed(bare.compress(b"plain") + bare.flush(), "deflate"),
    ):
        server.say(said)
        assert await body_of(client, request(server)) == b"plain"
    server.say(packed(gzip.compress(b"0" * 4 * MIB), "gzip"))
    with pytest.raises(Unreadable):
        await body_of(client, request(server))


async def test_a_kept_connection_that_was_closed_costs_nothing_but_only_where_repeating_is_allowed(
    server: Server, client: UpstreamClient
) -> None:
    async def once(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(server.heads) in (2, 5):  # the second request on a kept connection
            writer.close()
        else:
            writer.write(OK)

    server.answer = once
    assert await body_of(client, request(server)) == b"ok"
    assert await body_of(client, request(server)) == b"ok"
    assert (server.connections, len(server.heads)) == (2, 3)
    assert await body_of(client, request(server)) == b"ok"
    with pytest.raises(Reset):
        await body_of(client, request(server, may_repeat=False))


async def test_what_is_too_late_is_not_sent(server: Server, client: UpstreamClient) -> None:
    server.say(OK)
    with pytest.raises(TooLate):
        await client.open(request(server, may_begin=lambda: False))
    assert not server.heads
    assert await body_of(client, request(server)) == b"ok"
    assert server.connections == 1


async def test_silence_ends_the_wait_before_and_within_the_body(
    server: Server, client: UpstreamClient
) -> None:
    async def silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(server.heads) == 2:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok")
        await asyncio.sleep(5)

    server.answer = silent
    with pytest.raises(TimeoutError):
        await client.open(request(server, answer_within_s=0.1))
    answer = await client.open(request(server))
    assert await answer.read_some() == b"ok"
    with pytest.raises(TimeoutError):
        await answer.read_some(0.05)
    answer.close()


def answering_after(server: Server, *seconds: float) -> None:
    """Have the server answer each request with the next delay, and after the last of them not at all."""

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(server.heads) > len(seconds):
            await asyncio.sleep(5)
        await asyncio.sleep(seconds[len(server.heads) - 1])
        writer.write(OK)

    server.answer = answer


async def test_the_time_that_one_answer_had_does_not_end_a_later_one(
    server: Server, client: UpstreamClient
) -> None:
    answering_after(server, 0.0, 0.3)
    assert await body_of(client, request(server, answer_within_s=0.15)) == b"ok"
    assert await body_of(client, request(server)) == b"ok"
    assert server.connections == 1


async def test_an_answer_that_has_less_time_than_one_before_is_late_sooner(
    server: Server, client: UpstreamClient
) -> None:
    answering_after(server, 0.0)
    assert await body_of(client, request(server)) == b"ok"
    begun = time.monotonic()
    async with asyncio.timeout(2):
        with pytest.raises(TimeoutError):
            await client.open(request(server, answer_within_s=0.2))
    assert time.monotonic() - begun > 0.15, "it had that time all the same"
    assert server.connections == 1


async def test_whoever_has_let_an_answer_go_has_no_say_in_the_time_of_the_next(
    server: Server, client: UpstreamClient
) -> None:
    answering_after(server, 0.0, 0.3)
    first = await client.open(request(server))
    first.close()
    opening = asyncio.create_task(client.open(request(server)))
    await asyncio.sleep(0.1)
    first.expect_within(0.0)
    (await opening).close()
    opening = asyncio.create_task(client.open(request(server, answer_within_s=0.2)))
    await asyncio.sleep(0.1)
    first.expect_within(10.0)
    async with asyncio.timeout(2):
        with pytest.raises(TimeoutError):
            await opening
    assert server.connections == 1


async def test_whatever_comes_gives_more_time_to_what_follows(server: Server, client: UpstreamClient) -> None:
    async def slowly(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
        for _ in range(5):
            writer.write(b"x")
            await asyncio.sleep(0.1)
        await asyncio.sleep(5)

    server.answer = slowly
    answer = await client.open(request(server))
    for _ in range(5):
        assert await answer.read_some(0.3) == b"x"
    with pytest.raises(TimeoutError):
        await answer.read_some(0.3)
    answer.close()


async def test_what_is_late_before_anybody_waits_for_it_is_late_when_somebody_does(
    server: Server, client: UpstreamClient
) -> None:
    async def stops(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok")
        await asyncio.sleep(0.4)
        writer.write(b"x")
        await asyncio.sleep(5)

    server.answer = stops
    answer = await client.open(request(server))
    assert await answer.read_some() == b"ok"
    answer.expect_within(0.05)
    await asyncio.sleep(0.15)
    async with asyncio.timeout(0.1):
        with pytest.raises(TimeoutError):
            await answer.read_some()
    assert await answer.read_some(5.0) == b"x", "unless it is given more time"
    answer.close()


async def test_a_connection_that_is_closed_leaves_no_timer_behind(server: Server) -> None:
    async def dropped() -> weakref.ref[Connection]:
        client = UpstreamClient(max_answer_bytes=MIB)
        answer = await client.open(request(server, answer_within_s=60.0))
        reference = weakref.ref(answer._connection)
        answer.close()
        await client.close()
        return reference

    for said in (OK, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"):
        server.say(said)
        reference = await dropped()
        async with asyncio.timeout(2):
            while reference() is not None:  # a timer would hold it for a minute
                await asyncio.sleep(0.01)
                gc.collect()


async def test_whoever_leaves_ends_what_the_provider_does(server: Server, client: UpstreamClient) -> None:
    async def hangs(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    server.answer = hangs
    opening = asyncio.create_task(client.open(request(server)))
    async with asyncio.timeout(2):
        while not server.heads:
            await asyncio.sleep(0.01)
    opening.cancel()
    async with asyncio.timeout(1):
        await server.ended.wait()


async def test_an_answer_before_all_was_sent_is_read_and_the_rest_is_not_sent(
    server: Server, client: UpstreamClient
) -> None:
    async def refuses(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        await asyncio.sleep(0.5)

    server.answer = refuses
    answer = await client.open(request(server, body=b"x" * 8 * MIB))
    assert (answer.status, await answer.read_all()) == (413, b"no")
    answer.close()
    server.say(OK)
    assert await body_of(client, request(server)) == b"ok"
    assert server.connections == 2


async def test_a_last_word_before_the_connection_is_cut_is_heard_while_much_is_sent(
    server: Server, client: UpstreamClient
) -> None:
    async def refuses_and_cuts(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
        await writer.drain()
        writer.close()

    server.answer = refuses_and_cuts
    for _ in range(10):
        answer = await client.open(request(server, body=b"x" * 8 * MIB))
        assert (answer.status, await answer.read_all()) == (413, b"no")
        answer.close()


async def test_a_last_word_that_comes_between_our_look_and_our_write_is_heard(
    client: UpstreamClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The provider is a thread, so that it speaks and cuts while our loop stands still."""
    may_speak, has_cut = threading.Event(), threading.Event()

    def refuse_and_cut(listening: socket.socket) -> None:
        taken, _ = listening.accept()
        may_speak.wait(5)
        taken.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
        time.sleep(0.02)
        taken.close()  # what we have sent is unread, so this is a reset
        has_cut.set()

    def looked_too_early(_connection: Connection) -> bool:
        if not may_speak.is_set() and not has_cut.is_set():
            may_speak.set()
            has_cut.wait(5)
            time.sleep(0.02)
        return False

    monkeypatch.setattr(Connection, "_has_more_to_read", looked_too_early)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        provider = threading.Thread(target=refuse_and_cut, args=(listening,))
        provider.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1/x"
        answer = await client.open(request(Server(url), body=b"x" * 8 * MIB))
        assert (answer.status, await answer.read_all()) == (413, b"no")
        answer.close()
        provider.join(5)


@pytest.mark.parametrize("more", [OK, b"HTTP/1.1 200 OK\r\nContent-", b"H", b"\r\n garbage"])
async def test_a_connection_that_says_more_than_it_was_asked_is_not_used_again(
    server: Server, client: UpstreamClient, more: bytes
) -> None:
    server.say(OK + more, OK)
    assert await body_of(client, request(server)) == b"ok"
    assert await body_of(client, request(server)) == b"ok"
    assert server.connections == 2


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * (2 * MAX_HEAD_BYTES) + b"\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * (MAX_HEADERS + 1),
        b"HTTP/1.1 100 Continue\r\n\r\n" * (2 * MAX_HEAD_BYTES // 25) + b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 103 Early Hints\r\n" + b"X: x\r\n" * MAX_HEADERS + b"\r\nHTTP/1.1 200 OK\r\n",
    ],
    ids=["long", "many", "interim", "many with those of an interim"],
)
async def test_a_head_that_is_too_large_is_refused_though_it_comes_at_once(
    server: Server, client: UpstreamClient, head: bytes
) -> None:
    server.say(head + b"Content-Length: 2\r\n\r\nok")
    with pytest.raises(Unreadable):
        await body_of(client, request(server))


async def test_trailers_without_end_are_refused(server: Server, client: UpstreamClient) -> None:
    async def goes_on(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n")
        for _ in range(100):
            writer.write(b"X: " + b"x" * 4_000 + b"\r\n")
            await writer.drain()

    server.answer = goes_on
    with pytest.raises(UpstreamError):
        await body_of(client, request(server))


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        (gzip.compress(b"plain" * 99)[:-9], "gzip"),
        (gzip.compress(b"plain")[:-1], "gzip"),
        (gzip.compress(b"plain")[:1], "gzip"),
        (zlib.compress(b"plain" * 99)[:-5], "deflate"),
        (gzip.compress(b"plain") + b"garbage", "gzip"),
        (gzip.compress(b"plain") + zlib.compress(b"plain"), "gzip"),
        (gzip.compress(b"") * 1_000, "gzip"),
    ],
    ids=["cut", "cut in its trailer", "a byte", "deflate cut", "garbage behind", "other behind", "empties"],
)
async def test_what_is_compressed_and_not_whole_is_unreadable(
    server: Server, client: UpstreamClient, data: bytes, encoding: str
) -> None:
    server.say(packed(data, encoding))
    with pytest.raises(Unreadable):
        await body_of(client, request(server))


async def test_several_members_of_gzip_are_one_body(server: Server, client: UpstreamClient) -> None:
    server.say(packed(gzip.compress(b"one ") + gzip.compress(b"") + gzip.compress(b"two"), "gzip"))
    assert await body_of(client, request(server)) == b"one two"


async def test_who_changes_the_protocol_is_refused(server: Server, client: UpstreamClient) -> None:
    server.say(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nok")
    with pytest.raises(Unreadable):
        await body_of(client, request(server))


async def test_what_is_too_late_does_not_make_a_provider_keep_its_connection_longer(
    server: Server, client: UpstreamClient
) -> None:
    server.say(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nKeep-Alive: timeout=1\r\n\r\nok")
    assert await body_of(client, request(server)) == b"ok"
    with pytest.raises(TooLate):
        await client.open(request(server, may_begin=lambda: False))
    assert await body_of(client, request(server)) == b"ok"
    assert server.connections == 2, "a provider that keeps it for a second is given its word, less a second"


async def test_of_two_connections_that_are_there_at_once_one_is_closed(server: Server) -> None:
    both = asyncio.Event()
    reached: list[Connection] = []

    class Together(Dialer):
        async def _reach(self, origin: Origin, address: str) -> Connection:
            connection = await super()._reach(origin, address)
            reached.append(connection)
            if len(reached) == 2:
                both.set()
            await both.wait()
            return connection

    origin = UpstreamEndpoint.of(server.url, {}, allow_private=True).origin
    used = await Together()._first_of(origin, [origin.host, origin.host])
    await asyncio.sleep(0.05)
    assert len(reached) == 2
    assert [one.transport.is_closing() for one in reached] == [one is not used for one in reached]
    used.close()


async def test_a_connection_that_ends_before_it_is_used_is_none(server: Server) -> None:
    class Late(Dialer):
        async def _reach(self, origin: Origin, address: str) -> Connection:
            connection = await super()._reach(origin, address)
            await asyncio.sleep(0.05)
            return connection

    listening = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1/x"
    with pytest.raises(NoConnection):
        await Late().connect(request(server).endpoint.origin, 1.0)
    listening.close()


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://x.example/v1", "x.example"),
        ("https://x.example:443/v1", "x.example"),
        ("https://x.example:8443/v1", "x.example:8443"),
        ("http://x.example:443/v1", "x.example:443"),
        ("https://münchen.example:8443/v1", "xn--mnchen-3ya.example:8443"),
        ("https://[2001:db8::1]/v1", "[2001:db8::1]"),
        ("https://[2001:db8::1]:8443/v1", "[2001:db8::1]:8443"),
    ],
)
def test_the_host_is_said_as_http_has_it(url: str, host: str) -> None:
    endpoint = UpstreamEndpoint.of(url, {}, allow_private=True)
    assert f"\r\nhost: {host}" in endpoint.head.decode()


def test_a_name_that_is_none_is_no_connection() -> None:
    with pytest.raises(NoConnection):
        UpstreamEndpoint.of("https://" + "ü" * 80 + ".example/v1", {}, allow_private=True)


async def test_a_provider_that_is_not_read_from_has_to_wait(server: Server) -> None:
    sent = 0

    async def pours(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (40 * MIB))
        for _ in range(40):
            writer.write(b"x" * MIB)
            await writer.drain()
            sent += 1

    server.answer = pours
    client = UpstreamClient(max_answer_bytes=64 * MIB)
    answer = await client.open(request(server, answer_within_s=20.0))
    await asyncio.sleep(0.5)
    assert sent < 30, "the rest waits in the provider"
    assert len(await answer.read_all()) == 40 * MIB
    answer.close()
    await client.close()


async def test_only_where_it_is_allowed_are_private_addresses_reached(
    server: Server, client: UpstreamClient
) -> None:
    with pytest.raises(NoConnection):
        UpstreamEndpoint.of("https://127.0.0.1/v1/x", {}, allow_private=False)
    named = UpstreamEndpoint.of("https://loopback.example/v1/x", {}, allow_private=False)
    with pytest.raises(NoConnection):
        await client.open(UpstreamRequest(named, b"{}", "id", 1.0, 1.0))
    with pytest.raises(NoConnection):
        UpstreamEndpoint.of(server.url, {"x": "a\r\nb: c"}, allow_private=True)


async def test_a_closed_port_is_no_connection(client: UpstreamClient) -> None:
    listening = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    listening.close()
    await listening.wait_closed()
    endpoint = UpstreamEndpoint.of(f"http://127.0.0.1:{port}/v1", {}, allow_private=True)
    with pytest.raises(NoConnection):
        await client.open(UpstreamRequest(endpoint, b"{}", "id", 1.0, 1.0))


def test_no_key_is_shown_by_accident() -> None:
    endpoint = UpstreamEndpoint.of(
        "https://x.example/v1", {"authorization": "Bearer secret"}, allow_private=False
    )
    assert "secret" not in repr(endpoint) + repr(UpstreamRequest(endpoint, b"my secret", "id", 1.0, 1.0))


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    return localhost_certificate(tmp_path)


async def test_a_certificate_has_to_be_trusted_and_for_the_name(
    server: Server, authority: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.say(OK)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=server_tls(authority))
    port = listening.sockets[0].getsockname()[1]

    async def ask(host: str) -> bytes:
        client = UpstreamClient(MIB)
        server.url = f"https://{host}:{port}/v1"
        try:
            return await body_of(client, request(server))
        finally:
            await client.close()

    with pytest.raises(NoConnection):
        await ask("localhost")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    assert await ask("localhost") == b"ok"
    with pytest.raises(NoConnection):
        await ask("127.0.0.1")
    listening.close()
