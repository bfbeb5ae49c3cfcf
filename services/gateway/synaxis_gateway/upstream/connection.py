"""One connection to a provider: HTTP/1.1 on llhttp (package `httptools`), one request at a time."""

from __future__ import annotations

import asyncio
import math
import os
import select
from collections import deque
from collections.abc import Callable
from typing import Final, cast

import httptools

from synaxis_gateway.upstream.answer import UpstreamAnswer
from synaxis_gateway.upstream.errors import Unreadable

MAX_HEAD_BYTES: Final = 64 * 1024
"""Of a head, with those of interim answers before it; and of what comes in a row behind it that is no body,
such as trailers."""
MAX_HEADERS: Final = 128
PIECE_BYTES: Final = 256 * 1024
"""A larger body goes out in pieces, so that other requests are served between them."""
TOO_LARGE_A_HEAD: Final = "sent a head that is too large"

_OF_AN_INTERIM: Final = b"", b""
"""A header of an interim answer: it counts, and says nothing."""
_TRAILERS: Final[deque[tuple[bytes, bytes]]] = deque(maxlen=0)
"""Takes what follows the head, and keeps none of it: nobody asks for trailers."""


class Connection(asyncio.Protocol):
    """What the parser says goes into the answer at hand."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._sender: asyncio.Future[None] | None = None
        """Woken when more of a large body can be sent, or need not."""
        self._sends_much = False
        self._head: list[tuple[bytes, bytes]] | deque[tuple[bytes, bytes]] = _TRAILERS
        """The headers of the answer at hand as they come, until it is complete."""
        self.answer: UpstreamAnswer | None = None
        self.max_answer_bytes = 0
        self.release: Callable[[Connection], None] = Connection.close
        """Called with a connection that is free for the next request."""
        self.is_usable = True
        """Whether another request may be sent after this one."""
        self.is_full = False
        """Whether more has been sent than the provider takes for now."""
        self.is_paused = False
        """Whether the provider has to wait until what it has sent is taken."""
        self.idle_until = 0.0
        """Until when it is kept; 0: it has not been used yet."""
        self.deadline = math.inf
        """Until when the answer at hand must have gone on; infinite: it need not. Whoever sets one before
        `looks_at` sees to it that somebody looks (`look_at`)."""
        self.looks_at = math.inf
        """When the timer fires; infinite: there is none. One serves many answers: it is set anew only for a
        deadline before its own time, and when it has fired too early."""
        self._timer: asyncio.TimerHandle | None = None
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass of it

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None and self._sends_much:
            self._hear_out()
        self.is_usable = False
        self._stop_timer()
        self._wake_sender()
        if self.answer is not None:
            self.answer.lost(exc)

    def eof_received(self) -> bool:
        self.is_usable = False
        if self.answer is not None:
            self.answer.lost(None)
        return False

    def data_received(self, data: bytes) -> None:
        answer = self.answer
        if answer is None or answer.is_over:
            self.close()  # nobody asked
            return
        before = answer.size
        try:
            if answer.status or answer.overhead_bytes + len(data) <= MAX_HEAD_BYTES:
                self._parser.feed_data(data)
            else:
                self._feed_a_head(answer, data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            answer.fail(Unreadable(f"did not answer in HTTP ({type(error).__name__})"))
        if answer.size != before:
            answer.overhead_bytes = 0
        else:
            answer.overhead_bytes += len(data)
            if answer.overhead_bytes > MAX_HEAD_BYTES:
                answer.fail(Unreadable(TOO_LARGE_A_HEAD))
        answer.wake()

    def pause_writing(self) -> None:
        self.is_full = True

    def resume_writing(self) -> None:
        self.is_full = False
        self._wake_sender()

    def pause_reading(self) -> None:
        """Have the provider wait."""
        self.is_paused = True
        self.transport.pause_reading()

    def resume_reading(self) -> None:
        """The provider may go on."""
        self.is_paused = False
        self.transport.resume_reading()

    def begin(self, answer: UpstreamAnswer, head: bytes, body: bytes, deadline: float) -> None:
        """Send a request, or as much of it as goes out at one go; `send_large` sends the rest."""
        self.answer = answer
        self._head = []
        self._sends_much = False
        self.deadline = deadline
        if deadline < self.looks_at:
            self.look_at(deadline)
        self.transport.write(head + body if len(body) <= PIECE_BYTES else head)

    async def send_large(self, answer: UpstreamAnswer, body: bytes) -> None:
        """Send a body in pieces, as fast as the provider takes them; stops when its answer is there."""
        self._sends_much = True
        view = memoryview(body)
        begin = 0
        while begin < len(body):
            if answer.status or self.transport.is_closing():
                self.is_usable = False  # it has answered, or hung up, before it has read all
                return
            if self.is_full:
                self._sender = self.loop.create_future()
                try:
                    await self._sender
                finally:
                    self._sender = None
            elif self._has_more_to_read():
                await asyncio.sleep(0)  # the loop reads it
            else:
                self.transport.write(bytes(view[begin : begin + PIECE_BYTES]))
                begin += PIECE_BYTES
                await asyncio.sleep(0)

    def _feed_a_head(self, answer: UpstreamAnswer, data: bytes) -> None:
        """No more of it is looked for a head than a head may have, however much comes at once."""
        end = MAX_HEAD_BYTES - answer.overhead_bytes
        self._parser.feed_data(data[:end])
        if answer.status:
            self._parser.feed_data(data[end:])

    def look_at(self, when: float) -> None:
        """See then whether the answer at hand is late, and tell it so."""
        if self._timer is not None:
            self._timer.cancel()
        self.looks_at = when
        self._timer = self.loop.call_at(when, self._look)

    def close(self) -> None:
        """Close at once: whatever the provider is doing for us ends."""
        self.is_usable = False
        self._stop_timer()
        self.transport.abort()

    # What the parser has read.

    def on_message_begin(self) -> None:
        """The first byte of an answer, interim ones included."""
        answer = self.answer
        if answer is None or answer.is_over:
            self.is_usable = False  # there is more than was asked for

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer."""
        self._head.append((name, value))

    def on_headers_complete(self) -> None:
        """The head of the answer, or of an interim one."""
        answer, head = self.answer, self._head
        if answer is None or not isinstance(head, list):
            return
        status = self._parser.get_status_code()
        if status < 200:
            if status < 100 or status == 101:
                answer.fail(Unreadable("did not answer in HTTP (it changed the protocol)"))
            head[:] = [_OF_AN_INTERIM] * len(head)
            return
        self._head = _TRAILERS
        if not self._parser.should_keep_alive():
            self.is_usable = False
        answer.begins(status, head)
        if len(head) > MAX_HEADERS:
            answer.fail(Unreadable(TOO_LARGE_A_HEAD))
        if self._sender is not None:
            self._wake_sender()

    def on_body(self, data: bytes) -> None:
        """Some of the body."""
        answer = self.answer
        if answer is not None:
            answer.take(data)

    def on_message_complete(self) -> None:
        """The end of the answer, or of an interim one."""
        answer = self.answer
        if answer is not None and answer.status:
            answer.ends()

    def _look(self) -> None:
        self._timer, self.looks_at = None, math.inf
        if self.deadline > self.loop.time():
            if self.deadline < math.inf:
                self.look_at(self.deadline)
        elif self.answer is not None:
            self.answer.late()

    def _stop_timer(self) -> None:
        self.looks_at = math.inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wake_sender(self) -> None:
        sender = self._sender
        if sender is not None and not sender.done():
            sender.set_result(None)

    def _has_more_to_read(self) -> bool:
        """Whether something has come that the loop has not read yet.

        It may be a last answer of somebody who does not listen any more: writing now would fail, and with TLS
        that failure would be all we hear. (When it comes at the very moment of writing, it still is.)
        """
        handle = self.transport.get_extra_info("socket")
        if handle is None:
            return False
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        return bool(poll.poll(0))

    def _hear_out(self) -> None:
        """Read what had come before the connection was cut while we wrote. The kernel still has it."""
        answer, handle = self.answer, self.transport.get_extra_info("socket")
        if answer is None or answer.is_over or handle is None or self.transport.get_extra_info("ssl_object"):
            return
        try:
            last = os.read(handle.fileno(), MAX_HEAD_BYTES)
        except OSError:
            return  # nothing had come: that the connection was cut is all there is to say
        if last:
            self.data_received(last)
