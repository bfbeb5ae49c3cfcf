"""An exchange at the lean door: the request as it was parsed, and its answer as bytes."""

from __future__ import annotations

import asyncio
import time
from email.utils import formatdate
from http import HTTPStatus
from typing import Final, Protocol

from synaxis_common import ids
from synaxis_gateway.http import body
from synaxis_gateway.http.exchange import Answer

_KEPT: Final = {
    name.encode(): name
    for name in (
        "authorization",
        "content-encoding",
        "content-length",
        "expect",
        "transfer-encoding",
        "x-api-key",
        "x-stainless-read-timeout",
        "x-synaxis-hedge",
        "x-synaxis-continue",
    )
}
"""Headers that anybody here asks for; the others are read and forgotten."""
_REASONS: Final = {status.value: status.phrase for status in HTTPStatus}


class Surroundings(Protocol):
    """What an exchange must know of the server."""

    is_closing: bool
    """Every connection ends with its next answer."""
    max_body_bytes: int


class LeanExchange:
    """See `Exchange`. The door tells it what comes in."""

    __slots__ = (
        "_body",
        "_headers",
        "_keys",
        "_length",
        "_limit",
        "_resumed",
        "_size",
        "_surroundings",
        "_transport",
        "_wanted",
        "has_head",
        "head",
        "is_begun",
        "is_complete",
        "is_cut",
        "keep_alive",
        "key_hash",
        "notes",
        "request_id",
    )

    def __init__(self, surroundings: Surroundings, transport: asyncio.Transport) -> None:
        self._surroundings = surroundings
        self._transport = transport
        self.request_id = ids.uuid7_text()
        self.key_hash = ""
        self.notes: dict[str, str | int | None] = {}
        self._headers: dict[str, bytes] = {}
        self._keys: tuple[tuple[str, ...], tuple[str, ...]] = (), ()
        self._length: int | None = None
        self._body: list[bytes] = []
        self._size = 0
        self._limit = surroundings.max_body_bytes
        self._wanted: asyncio.Future[None] | None = None
        self._resumed: asyncio.Future[None] | None = None
        self.head: list[tuple[bytes, bytes]] = []
        """The headers of the request as they come, until it is complete."""
        self.has_head = False
        self.is_complete = False
        """All of the request has come."""
        self.keep_alive = True
        self.is_begun = False
        self.is_cut = False
        """Its connection cannot be used any more."""

    # What the door has read.

    def head_is_there(self, *, keep_alive: bool) -> None:
        """All headers have come."""
        self.has_head = True
        self.keep_alive = keep_alive
        headers = self._headers
        for raw_name, value in self.head:
            name = _KEPT.get(raw_name.lower())
            if name is None:
                continue
            if name == "authorization":
                self._keys = (*self._keys[0], value.decode("utf-8", "surrogateescape")), self._keys[1]
            elif name == "x-api-key":
                self._keys = self._keys[0], (*self._keys[1], value.decode("utf-8", "surrogateescape"))
            else:
                headers.setdefault(name, value)
        length = headers.get("content-length", b"")
        self._length = int(length) if length.isdigit() else None

    def framing(self) -> bytes:
        """The headers that say how long the body is."""
        return b"".join(
            b"%b: %b\r\n" % (name.encode(), self._headers[name])
            for name in ("content-length", "transfer-encoding")
            if name in self._headers
        )

    def add_body(self, data: bytes) -> None:
        """Some of the body has come."""
        self._size += len(data)
        if self._size <= self._limit:
            self._body.append(data)
        elif self._wanted is not None and not self._wanted.done():
            self._wanted.set_result(None)

    def discard(self) -> None:
        """What comes from now on is not wanted any more."""
        self._limit = -1
        self._body.clear()

    def body_is_there(self) -> None:
        """All of the body has come."""
        self.is_complete = True
        if self._wanted is not None and not self._wanted.done():
            self._wanted.set_result(None)

    @property
    def is_paused(self) -> bool:
        """Whether the client has yet to take most of what it was sent."""
        return self._resumed is not None

    def pause_writing(self) -> None:
        """The client takes less than it is sent."""
        if self._resumed is None:
            self._resumed = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        """The client has taken most of it."""
        resumed, self._resumed = self._resumed, None
        if resumed is not None and not resumed.done():
            resumed.set_result(None)

    def lost(self) -> None:
        """The connection is gone."""
        self.is_cut = True
        resumed, self._resumed = self._resumed, None
        if resumed is not None and not resumed.done():
            resumed.set_exception(ConnectionResetError("the client is gone"))
            resumed.exception()  # whoever waited has been cancelled as well

    # What the handler asks for and does.

    def header(self, name: str) -> str | None:
        """A header of the request, the first of its name."""
        value = self._headers.get(name)
        return None if value is None else value.decode("latin-1")

    def keys(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The values of `Authorization` and of `x-api-key`."""
        return self._keys

    async def body(self, limit: int, timeout: float) -> bytes:
        """The body. Raises an ApiError: 413 above `limit` bytes, 415 compressed, 408 after `timeout` s."""
        if "content-encoding" in self._headers:
            body.check_encoding(self.header("content-encoding"))
        if self._length is not None and self._length > limit:
            raise body.too_large(limit)
        if not self.is_complete:
            await self._rest(timeout)
        if self._size > limit:
            raise body.too_large(limit)
        pieces, self._body = self._body, []
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def begin(self, header_lines: str) -> None:
        """Send the head of an answer that comes piece by piece."""
        self.is_begun = True
        if self._transport.is_closing():
            raise ConnectionResetError("the client is gone")
        self._transport.write(self._head(200, header_lines, "Transfer-Encoding: chunked"))

    async def write(self, piece: bytes, timeout: float) -> None:
        """Send a piece. Raises ConnectionError: the client is gone; TimeoutError: it takes nothing."""
        transport = self._transport
        if transport.is_closing():
            raise ConnectionResetError("the client is gone")
        transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        if self._resumed is not None:
            async with asyncio.timeout(timeout):
                await asyncio.shield(self._resumed)

    def push(self, piece: bytes) -> bool:
        """Send a piece at once; answers whether the client takes more."""
        transport = self._transport
        if transport.is_closing():
            return False
        transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        return self._resumed is None

    async def end(self) -> None:
        """The answer is complete."""
        if self._transport.is_closing():
            raise ConnectionResetError("the client is gone")
        self._transport.write(b"0\r\n\r\n")

    def cut(self) -> None:
        """Close the connection after this exchange."""
        self.is_cut = True

    def answer(self, answer: Answer) -> None:
        """Send an answer in one piece."""
        if self._transport.is_closing():
            return
        length = f"Content-Type: {answer.content_type}\r\nContent-Length: {len(answer.body)}"
        self._transport.write(self._head(answer.status, answer.header_lines, length) + answer.body)

    async def taken(self, stall: float) -> None:
        """Wait until the client has taken most of what it was sent.

        Raises ConnectionError: it is gone; TimeoutError: it has taken nothing for `stall` seconds.
        """
        while (resumed := self._resumed) is not None:
            left = self._transport.get_write_buffer_size()
            try:
                # Not shielded: it must be noticed before the next request, which the client may send at once.
                async with asyncio.timeout(stall):
                    await resumed
            except TimeoutError:
                if self._transport.get_write_buffer_size() >= left:
                    raise
                if self._resumed is resumed:
                    self._resumed = asyncio.get_running_loop().create_future()

    async def _rest(self, timeout: float) -> None:
        """Wait for the rest of the body, or until it is too large."""
        if self._size > self._limit:
            return
        if (self.header("expect") or "").lower() == "100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._wanted = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout):
                await self._wanted
        except TimeoutError as error:
            raise body.too_slow(timeout) from error

    def _head(self, status: int, header_lines: str, framing: str) -> bytes:
        if self._surroundings.is_closing or not self.is_complete:
            self.keep_alive = False
        closing = "" if self.keep_alive else "Connection: close\r\n"
        return (
            f"HTTP/1.1 {status} {_REASONS.get(status, '')}\r\nServer: synaxis\r\n{_date()}"
            f"x-request-id: {self.request_id}\r\n{header_lines}{closing}{framing}\r\n\r\n"
        ).encode("latin-1")


class _Date:
    """The present as HTTP writes it, made once a second."""

    second = 0
    line = ""


def _date() -> str:
    now = int(time.time())
    if now != _Date.second:
        _Date.second, _Date.line = now, f"Date: {formatdate(now, usegmt=True)}\r\n"
    return _Date.line
