"""One connection to a provider: HTTP/1.1 on llhttp (package `httptools`), one request at a time."""

from __future__ import annotations

import asyncio
from typing import Final, cast

import httptools

from synaxis_gateway.upstream.answer import UpstreamAnswer
from synaxis_gateway.upstream.errors import Unreadable

MAX_HEAD_BYTES: Final = 64 * 1024
"""Of a head whose end has not come yet."""
MAX_HEADERS: Final = 128
PIECE_BYTES: Final = 256 * 1024
"""A larger body goes out in pieces, so that other requests are served between them."""


class Connection(asyncio.Protocol):
    """What the parser says goes into the answer at hand."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._writable: asyncio.Future[None] | None = None
        self.answer: UpstreamAnswer | None = None
        self.is_usable = True
        """Whether another request may be sent after this one."""
        self.idle_until = 0.0
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass of it

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_usable = False
        self.resume_writing()
        if self.answer is not None:
            self.answer.lost(exc)

    def eof_received(self) -> bool:
        self.is_usable = False
        if self.answer is not None:
            self.answer.lost(None)
        return False

    def data_received(self, data: bytes) -> None:
        answer = self.answer
        if answer is None or answer.has_ended:
            self.close()  # nobody asked
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            answer.fail(Unreadable(f"did not answer in HTTP ({type(error).__name__})"))
        if not answer.has_head:
            answer.head_bytes += len(data)
            if answer.head_bytes > MAX_HEAD_BYTES or answer.header_count > MAX_HEADERS:
                answer.fail(Unreadable("sent a head that is too large"))
        answer.wake()

    def pause_writing(self) -> None:
        if self._writable is None:
            self._writable = self.loop.create_future()

    def resume_writing(self) -> None:
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    def begin(self, answer: UpstreamAnswer, head: bytes, body: bytes) -> None:
        """Send a request, or as much of it as goes out at one go; `finish_sending` sends the rest."""
        self.answer = answer
        self.transport.write(head + body if len(body) <= PIECE_BYTES else head)

    async def send_large(self, answer: UpstreamAnswer, body: bytes) -> None:
        """Send a body in pieces, as fast as the provider takes them; stops when its answer is there."""
        view = memoryview(body)
        for begin in range(0, len(body), PIECE_BYTES):
            if answer.has_head or self.transport.is_closing():
                self.is_usable = False  # it has answered, or hung up, before it has read all
                return
            self.transport.write(bytes(view[begin : begin + PIECE_BYTES]))
            if self._writable is not None:
                await self._writable
            else:
                await asyncio.sleep(0)

    def close(self) -> None:
        """Close at once: whatever the provider is doing for us ends."""
        self.is_usable = False
        self.transport.abort()

    # What the parser has read.

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer, which nobody asks for."""
        answer = self.answer
        if answer is not None and not answer.has_head:
            answer.raw_headers[name.lower()] = value
            answer.header_count += 1

    def on_headers_complete(self) -> None:
        """The head of the answer, or of an interim one."""
        answer = self.answer
        if answer is not None and not answer.has_head:
            status = self._parser.get_status_code()
            if status < 200:
                answer.raw_headers.clear()
                return
            self.is_usable = self.is_usable and self._parser.should_keep_alive()
            answer.begins(status)
            if answer.header_count > MAX_HEADERS:
                answer.fail(Unreadable("sent a head that is too large"))

    def on_body(self, data: bytes) -> None:
        """Some of the body."""
        answer = self.answer
        if answer is not None and answer.has_head and not answer.has_ended:
            answer.take(data)

    def on_message_complete(self) -> None:
        """The end of the answer, or of an interim one."""
        answer = self.answer
        if answer is not None and answer.has_head:
            if answer.has_ended:
                self.is_usable = False  # there is more than was asked for
            answer.has_ended = True
