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
from synaxis_gateway.http.head import Head


def _beginning(status: int, phrase: str) -> str:
    return f"HTTP/1.1 {status} {phrase}\r\nServer: synaxis\r\n"


_BEGINNINGS: Final = {status.value: _beginning(status.value, status.phrase) for status in HTTPStatus}


class Surroundings(Protocol):
    """What an exchange must know of the server."""

    is_closing: bool
    """Every connection ends with its next answer."""
    max_body_bytes: int


class LeanExchange:
    """See `Exchange`. The door tells it what comes in."""

    __slots__ = (
        "_body",
        "_length",
        "_size",
        "_surroundings",
        "_transport",
        "_wanted",
        "head",
        "is_begun",
        "is_complete",
        "is_cut",
        "keep_alive",
        "key_hash",
        "notes",
        "request_id",
        "resumed",
    )

    def __init__(
        self,
        surroundings: Surroundings,
        transport: asyncio.Transport,
        head: Head,
        length: int | None,
        whole: bytes | None = None,
    ) -> None:
        self._surroundings = surroundings
        self._transport = transport
        self.head = head
        self._length = length
        self.request_id = ids.uuid7_text()
        self.key_hash = head.key_hash
        self.notes: dict[str, str | int | None] = {}
        self._body: list[bytes]
        if whole is None:
            self._body, self._size, self.is_complete = [], 0, False
        else:
            self._body, self._size, self.is_complete = [whole], len(whole), True
        self._wanted: asyncio.Future[None] | None = None
        self.resumed: asyncio.Future[None] | None = None
        """While the client has yet to take most of what it was sent: that it has."""
        self.keep_alive = head.keep_alive
        self.is_begun = False
        self.is_cut = False
        """Its connection cannot be used any more."""

    # What the door has read.

    def add_body(self, data: bytes) -> None:
        """Some of the body has come."""
        self._size += len(data)
        if self._size <= self._surroundings.max_body_bytes:
            self._body.append(data)
        elif self._wanted is not None and not self._wanted.done():
            self._wanted.set_result(None)

    def discard(self) -> None:
        """What comes from now on is not wanted any more."""
        self._size = self._surroundings.max_body_bytes + 1
        self._body.clear()

    def body_is_there(self) -> None:
        """All of the body has come."""
        self.is_complete = True
        if self._wanted is not None and not self._wanted.done():
            self._wanted.set_result(None)

    def pause_writing(self) -> None:
        """The client takes less than it is sent."""
        if self.resumed is None:
            self.resumed = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        """The client has taken most of it."""
        resumed, self.resumed = self.resumed, None
        if resumed is not None and not resumed.done():
            resumed.set_result(None)

    def lost(self) -> None:
        """The connection is gone."""
        self.is_cut = True
        resumed, self.resumed = self.resumed, None
        if resumed is not None and not resumed.done():
            resumed.set_exception(ConnectionResetError("the client is gone"))
            resumed.exception()  # whoever waited has been cancelled as well

    # What the handler asks for and does.

    def header(self, name: str) -> str | None:
        """A header of the request, the first of its name."""
        return self.head.headers.get(name)

    async def body(self, limit: int, timeout: float) -> bytes:
        """The body. Raises an ApiError: 413 above `limit` bytes, 415 compressed, 408 after `timeout` s."""
        if "content-encoding" in self.head.headers:
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
        if self.resumed is not None:
            async with asyncio.timeout(timeout):
                await asyncio.shield(self.resumed)

    def push(self, piece: bytes) -> bool:
        """Send a piece at once; answers whether the client takes more."""
        transport = self._transport
        if transport.is_closing():
            return False
        transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        return self.resumed is None

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
        while (resumed := self.resumed) is not None:
            left = self._transport.get_write_buffer_size()
            try:
                # Not shielded: it must be noticed before the next request, which the client may send at once.
                async with asyncio.timeout(stall):
                    await resumed
            except TimeoutError:
                if self._transport.get_write_buffer_size() >= left:
                    raise
                if self.resumed is resumed:
                    self.resumed = asyncio.get_running_loop().create_future()

    async def _rest(self, timeout: float) -> None:
        """Wait for the rest of the body, or until it is too large."""
        if self._size > self._surroundings.max_body_bytes:
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
            f"{_BEGINNINGS.get(status) or _beginning(status, '')}{_date()}"
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
