"""Heads that come again are not parsed again, and nobody can tell."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, cast
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synaxis_common import ids
from synaxis_common.clock import SystemClock
from synaxis_gateway.http.auth import TenantKeys
from synaxis_gateway.http.door import MAX_HEADERS, Desk, Door
from synaxis_gateway.http.errors import ApiError
from synaxis_gateway.http.exchange import Answer, Exchange, Serve
from synaxis_gateway.http.head import MOST_REMEMBERED, Head, KnownHead
from synaxis_gateway.http.journal import Journal
from synaxis_gateway.http.under_way import UnderWay

CHAT, EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"
KEY, OTHER_KEY = ids.new_tenant_key().key, ids.new_tenant_key().key
HEADERS = (
    "Host: x",
    f"Authorization: Bearer {KEY}",
    "Content-Type: application/json",
    "x-stainless-read-timeout: 600",
    "Content-Length: {}",
    "x-synaxis-hedge: true",
)
"""As most clients send them, with the same length each time."""
MOST_BODY = 2_000
ASKED_FOR = ("content-encoding", "x-stainless-read-timeout", "x-synaxis-hedge", "x-synaxis-continue")


def request(
    body: bytes = b"abcde", headers: Sequence[str] = HEADERS, length: str | None = None, line: str = CHAT
) -> bytes:
    said = str(len(body)) if length is None else length
    lines = [f"POST {line} HTTP/1.1" if line.startswith("/") else line, *headers, "", ""]
    return "\r\n".join(lines).replace("{}", said).encode("latin-1") + body


class Silent(Journal):
    """Notes nothing."""

    def note(self, *_args: object) -> None:
        pass


@dataclass
class Wire:
    """The transport of a connection, and what became of it."""

    written: bytes = b""
    end: str = "open"
    handed_over: bytes = b""
    protocol: asyncio.Protocol | None = None

    def write(self, data: bytes) -> None:
        self.written += data

    def write_eof(self) -> None:
        self.end = "half closed"

    def close(self) -> None:
        self.end = "closed"

    def abort(self) -> None:
        self.end = "aborted"

    def is_closing(self) -> bool:
        return self.end in {"closed", "aborted"}

    def get_write_buffer_size(self) -> int:
        return 0

    def set_protocol(self, protocol: asyncio.Protocol) -> None:
        self.protocol = protocol


class Other(asyncio.Protocol):
    """aiohttp's side."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.wire = cast(Wire, transport)

    def data_received(self, data: bytes) -> None:
        self.wire.handed_over += data


@dataclass
class Scene:
    """A door, and all that is seen of its requests from either side."""

    served: list[tuple[Any, ...]] = field(default_factory=list)
    wire: Wire = field(default_factory=Wire)

    def __post_init__(self) -> None:
        serves = {path: self._serving(path) for path in (CHAT, EMBEDDINGS)}
        clock = SystemClock()
        keys = TenantKeys("pepper")
        desk = Desk(serves, keys, Silent(clock, 2), clock, UnderWay(), MOST_BODY, Other)
        self.door = Door(desk)
        self.door.connection_made(cast(asyncio.Transport, self.wire))

    def _serving(self, path: str) -> Serve:
        async def serve(exchange: Exchange) -> Answer | None:
            said = path, exchange.key_hash, *map(exchange.header, ASKED_FOR)
            try:
                body = await exchange.body(MOST_BODY, 60.0)
            except ApiError as error:
                self.served.append((*said, error.status))
                raise
            self.served.append((*said, body))
            return Answer(200, body)

        return serve

    async def take(self, *reads: bytes, is_patient: bool = True) -> None:
        """Have these bytes come in, each in a read of its own; patiently: the next waits for what follows."""
        for data in reads:
            if self.wire.is_closing():
                break
            (self.wire.protocol or self.door).data_received(data)
            if is_patient:
                await settled()
        await settled()

    def seen(self) -> tuple[Any, ...]:
        """What was served, what was answered, and what became of the connection."""
        answers = re.sub(rb"(?m)^(Date|x-request-id): .*\r\n", b"", self.wire.written)
        return self.served, answers, self.wire.end, self.wire.handed_over

    def forget(self) -> None:
        """What has been seen so far."""
        self.served.clear()
        self.wire.written = b""

    async def close(self) -> None:
        if self.wire.protocol is None:
            self.door.connection_lost(None)
        await settled()


async def settled() -> None:
    for _ in range(6):
        await asyncio.sleep(0)


def never(_data: bytes, _head: Head) -> None:
    """In place of `KnownHead.of`: no head is remembered."""


async def each_way(*reads: bytes, first: bytes, is_patient: bool) -> list[tuple[Any, ...]]:
    """What is seen of requests on a new connection, behind another that was parsed, and behind one whose head
    is known."""
    found = []
    for has_first, learns in ((False, False), (True, False), (True, True)):
        scene = Scene()
        with patch.object(KnownHead, "of", KnownHead.of if learns else never):
            if has_first:
                await scene.take(first)
                assert len(scene.served) == 1
                scene.forget()
            await scene.take(*reads, is_patient=is_patient)
        await scene.close()
        found.append(scene.seen())
    return found


def changed(old: str, new: str) -> bytes:
    return request(headers=[header.replace(old, new) for header in HEADERS])


OTHERS: dict[str, bytes] = {
    "the same": request(),
    "a longer body": request(b"x" * 1_000),
    "no body": request(b""),
    "a length with zeros before it": request(length="0005"),
    "a length with as many digits as are remembered": request(length="0000000005"),
    "a length with more digits": request(length="00000000005"),
    "a length with a sign": request(length="+5"),
    "a negative length": request(length="-5"),
    "a length with a line between digits": request(b"x" * 10, length="1_0"),
    "a length with a space before it": request(length=" 5"),
    "a length with spaces about it": request(length="  5 "),
    "a length with a space between digits": request(b"x" * 10, length="1 0"),
    "a length in digits that are not ASCII's": request(length="\xb2"),
    "a length in hexadecimal": request(b"x" * 16, length="0x10"),
    "two lengths in one": request(length="5, 5"),
    "no length": request(length=""),
    "a length beyond the limit": request(b"x" * 20, length=str(MOST_BODY + 1)),
    "a body beyond the limit": request(b"x" * (MOST_BODY + 1)),
    "a length of ten digits": request(length="9999999999"),
    "a length beyond all bounds": request(length="9" * 30),
    "a length that is longer than the body": request(length="6"),
    "a length that is shorter than the body": request(length="4"),
    "another path": request(line=EMBEDDINGS),
    "a path that is not ours": request(line="/v1/models"),
    "a path with a query": request(line=f"{CHAT}?a=1"),
    "another method": request(line=f"PUT {CHAT} HTTP/1.1"),
    "another version": request(line=f"POST {CHAT} HTTP/1.0"),
    "another case": changed("Content-Length", "content-length"),
    "another case of a value": changed("Bearer", "bearer"),
    "another key": changed(KEY, OTHER_KEY),
    "no key": request(headers=HEADERS[:1] + HEADERS[2:]),
    "a key that is none": changed(KEY, "none"),
    "another timeout": changed("600", "601"),
    "a header more before the length": request(headers=("X-More: 1", *HEADERS)),
    "a header more after it": request(headers=(*HEADERS, "X-More: 1")),
    "a key more": request(headers=(*HEADERS, f"x-api-key: {OTHER_KEY}")),
    "a header less": request(headers=HEADERS[:5]),
    "the length twice": request(headers=(*HEADERS, "Content-Length: 5")),
    "another length as well": request(headers=("Content-Length: 0", *HEADERS)),
    "headers in another order": request(headers=HEADERS[::-1]),
    "a space before a colon": changed("Length:", "Length :"),
    "a bare line feed": request().replace(b"Host: x\r\n", b"Host: x\n"),
    "a bare line feed after the length": request().replace(b"Length: 5\r\n", b"Length: 5\n"),
    "a line feed more": request().replace(b"Length: 5\r\n", b"Length: 5\r\r\n"),
    "a folded length": request(length="\r\n 5"),
    "a NUL": request(length="5\0"),
    "an end to the connection": request(headers=(*HEADERS, "Connection: close")),
    "an end to the connection, behind which more comes": request(headers=(*HEADERS, "Connection: close"))
    + request(),
    "the wish to be told to continue": request(headers=(*HEADERS, "Expect: 100-continue")),
    "a compressed body": request(headers=(*HEADERS, "Content-Encoding: gzip")),
    "chunks as well": request(headers=(*HEADERS, "Transfer-Encoding: chunked")),
    "chunks instead": request(b"5\r\nabcde\r\n0\r\n\r\n", (*HEADERS[:4], "Transfer-Encoding: chunked")),
    "the wish to speak another protocol": request(headers=(*HEADERS, "Connection: Upgrade", "Upgrade: h2c")),
    "an upgrade that is not asked for": request(headers=(*HEADERS, "Upgrade: h2c")),
    "an empty line before it": b"\r\n" + request(),
    "an empty line after it": request() + b"\r\n",
    "the wish to speak another protocol behind it": request()
    + request(headers=(*HEADERS, "Connection: Upgrade", "Upgrade: h2c")),
    "another behind it": request() + request(b"x" * 30),
    "a whole other request in its body": request(request(b"hidden"), length="5"),
    "one that is broken behind it": request() + b"\0\r\n\r\n",
    "no HTTP at all": b"\x16\x03\x01 and so on",
    "too many headers": request(headers=(*HEADERS, *["X-More: 1"] * MAX_HEADERS)),
    "headers that are too large": request(headers=(*HEADERS, *[f"X-More: {'x' * 2_000}"] * 40)),
    "a head without an end": request(headers=HEADERS[:5]).removesuffix(b"\r\n\r\nabcde"),
}
FIRST = request(b"hello")


@pytest.mark.parametrize("case", OTHERS)
@pytest.mark.parametrize("behind", ["", "the same"], ids=["alone", "followed"])
async def test_what_comes_behind_a_head_that_is_known_is_what_it_is_anywhere(case: str, behind: str) -> None:
    other = OTHERS[case]
    end = other.find(b"\r\n\r\n") + 4
    splits = {(other,), (other[:end], other[end:]), (other[: end + 2], other[end + 2 :])}
    for pieces in splits:
        reads = [*filter(None, pieces), *([OTHERS[behind]] if behind else [])]
        for is_patient in (True, False):
            new, parsed, known = await each_way(*reads, first=FIRST, is_patient=is_patient)
            assert known == parsed == new, reads


async def test_a_request_with_a_known_head_may_be_cut_anywhere() -> None:
    other = request(b"the body\r\n\r\n")
    for cut in range(1, len(other)):
        new, parsed, known = await each_way(other[:cut], other[cut:], first=FIRST, is_patient=cut % 2 == 0)
        assert known == parsed == new, cut
        assert known[0][0][-1] == b"the body\r\n\r\n"


@st.composite
def edited(draw: st.DrawFn) -> bytes:
    """A request with bytes inserted, removed or exchanged, mostly about its length."""
    whole = bytearray(draw(st.sampled_from([OTHERS["the same"], OTHERS["a longer body"], FIRST])))
    about = whole.find(b"Content-Length")
    places = st.integers(about, about + 30) | st.integers(0, len(whole) - 1)
    bits = st.sampled_from(
        [b"", b"\r", b"\n", b"\r\n", b" ", b"\t", b":", b",", b"0", b"5", b"+", b"_", b"\0"]
    )
    for _ in range(draw(st.integers(0, 2))):
        place = draw(places)
        whole[place : place + draw(st.integers(0, 2))] = draw(bits | st.binary(max_size=2))
    return bytes(whole)


@settings(max_examples=300)
@given(
    st.lists(edited() | st.sampled_from(list(OTHERS.values())), min_size=1, max_size=3),
    st.lists(st.floats(0, 1), max_size=3),
    st.booleans(),
)
def test_however_requests_are_written_and_cut_a_known_head_changes_nothing(
    requests: list[bytes], cuts: list[float], is_patient: bool
) -> None:
    stream = b"".join(requests)
    places = [0, *sorted({int(cut * len(stream)) for cut in cuts}), len(stream)]
    reads = [stream[start:end] for start, end in pairwise(places) if end > start]
    for separate in (requests, reads):
        separate = [read for read in separate if read]
        new, parsed, known = asyncio.run(each_way(*separate, first=FIRST, is_patient=is_patient))
        assert known == parsed == new


class NoParser:
    """Fails whoever wants something parsed."""

    def feed_data(self, data: bytes) -> None:
        pytest.fail(f"parsed: {data!r}")


async def test_a_head_that_comes_again_is_not_parsed_again() -> None:
    scene = Scene()
    await scene.take(FIRST)
    scene.door._parser = cast(Any, NoParser())
    for body in (b"", b"x", b"x" * 123):
        await scene.take(request(body))
        assert scene.served[-1][-1] == body
    assert scene.door._known is not None
    await scene.close()


async def test_of_a_known_head_whose_body_is_yet_to_come_the_parser_reads_no_more_than_the_length() -> None:
    scene = Scene()
    await scene.take(FIRST)
    fed: list[bytes] = []
    parser = scene.door._parser

    class Listening(NoParser):
        def feed_data(self, data: bytes) -> None:
            fed.append(data)
            parser.feed_data(data)

    scene.door._parser = cast(Any, Listening())
    other = request(b"0123456789")
    await scene.take(other[:-10], other[-10:-3], other[-3:], other[:-4], other[-4:])
    assert fed == [
        *(b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\n", b"0123456", b"789"),
        *(b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\n", b"012345", b"6789"),
    ]
    assert [served[-1] for served in scene.served[1:]] == [b"0123456789"] * 2
    await scene.close()


async def test_the_head_that_is_known_is_that_of_the_latest_request() -> None:
    scene = Scene()
    keys = TenantKeys("pepper")
    for key in (KEY, OTHER_KEY, OTHER_KEY, KEY):
        await scene.take(changed(KEY, key))
        assert scene.served[-1][1] == keys.hash_of((f"Bearer {key}",), ())
        known = scene.door._known
        assert known is not None
        assert key.encode() in known.before
    await scene.close()


NOT_REMEMBERED = (
    "a length with more digits",
    "a length with spaces about it",
    "an end to the connection",
    "the wish to be told to continue",
    "chunks instead",
    "the wish to speak another protocol",
    "a path that is not ours",
    "too many headers",
)


@pytest.mark.parametrize("case", NOT_REMEMBERED)
async def test_a_head_is_not_remembered_if_more_than_its_length_says_what_follows(case: str) -> None:
    scene = Scene()
    await scene.take(FIRST)
    await scene.take(OTHERS[case])
    assert scene.door._known is None
    await scene.close()


async def test_a_head_that_is_long_is_not_remembered() -> None:
    scene = Scene()
    await scene.take(request(headers=(*HEADERS, f"X-More: {'x' * MOST_REMEMBERED}")))
    assert len(scene.served) == 1
    assert scene.door._known is None
    await scene.close()


async def test_a_key_that_is_refused_is_refused_each_time() -> None:
    scene = Scene()
    for _ in range(3):
        await scene.take(OTHERS["no key"])
    assert not scene.served
    assert scene.wire.written.count(b"HTTP/1.1 401 ") == 3
    assert scene.wire.end == "open"
    await scene.close()
