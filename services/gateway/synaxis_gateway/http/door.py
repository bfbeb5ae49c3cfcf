"""The lean door: the hot path's HTTP/1.1, at a fifth of what a general server costs a request.

Every connection begins here. Requests for one of the `Desk`'s paths are read with llhttp (package
`httptools`) and served by the same handlers as ever; the first request for anything else takes its connection
over to aiohttp's server, where it stays, and where the same handlers are behind the same paths.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from typing import Final, cast

import httptools

from synaxis_common import logging
from synaxis_common.clock import Clock
from synaxis_common.logging import get_logger
from synaxis_gateway import metrics
from synaxis_gateway.http.auth import TenantKeys
from synaxis_gateway.http.errors import ApiError
from synaxis_gateway.http.exchange import STALL_S, Answer, Serve
from synaxis_gateway.http.head import Head, KnownHead, Line, framing
from synaxis_gateway.http.journal import Journal
from synaxis_gateway.http.lean_exchange import LeanExchange
from synaxis_gateway.http.middleware import CLIENT_GONE_STATUS
from synaxis_gateway.http.under_way import UnderWay

log = get_logger(__name__)

KEEPALIVE_S: Final = 75.0
"""Idle connections, and slow heads of requests. aiohttp's default of 3,630 s lets connections pile up."""
LINGER_S: Final = 5.0
"""How long an unread body is read and thrown away, so that the client gets to see why it was refused."""
MAX_HEAD_BYTES: Final = 64 * 1024
MAX_HEADERS: Final = 128

_BEGINNING: Final = b"POST /v1/"
_LONGEST_LINE: Final = 64
"""A request line of the hot path is shorter; whatever has none by then is aiohttp's."""
_FAILED: Final = ApiError(500, "internal_error", "The gateway failed.", "server_error")


class Desk:
    """What all connections share."""

    def __init__(
        self,
        paths: Mapping[str, Serve],
        keys: TenantKeys,
        journal: Journal,
        clock: Clock,
        under_way: UnderWay,
        max_body_bytes: int,
        others: Callable[[], asyncio.Protocol],
    ) -> None:
        self.serve_by_line = {
            f"POST {path} HTTP/1.1\r\n".encode(): (path, serve) for path, serve in paths.items()
        }
        self.keys = keys
        self.journal = journal
        self.clock = clock
        self.under_way = under_way
        self.max_body_bytes = max_body_bytes
        self.others = others
        """Makes the protocol of aiohttp's server."""
        self.doors: set[Door] = set()
        self.is_closing = False
        """Every connection ends with its next answer, which says so."""

    def close(self) -> None:
        """Close all connections, as soon as their clients have what was sent to them."""
        for door in list(self.doors):
            door.end()


class Door(asyncio.Protocol):
    """One connection, as long as it asks for nothing but the hot path."""

    __slots__ = (
        "_deadline",
        "_desk",
        "_exchange",
        "_head_bytes",
        "_held",
        "_is_lingering",
        "_known",
        "_lines",
        "_loop",
        "_parser",
        "_path",
        "_serve",
        "_task",
        "_timer",
        "_wish",
        "transport",
    )

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._loop = asyncio.get_running_loop()
        self._held = b""
        """The beginning of a request line."""
        self._parser = httptools.HttpRequestParser(self)
        self._lines: list[Line] | None = None
        """The headers of a request as they come, until its head is complete."""
        self._known: KnownHead | None = None
        """The head of the latest request, until another one begins that is not like it."""
        self._exchange: LeanExchange | None = None
        """The request, from when its head is complete until it is answered."""
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = math.inf
        self._head_bytes = 0
        self._is_lingering = False
        self._wish: bytes | None = None
        """The request has the wish to speak another protocol: how its body is framed."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass of it
        self._desk.doors.add(self)
        self._wait_at_most(KEEPALIVE_S)

    def connection_lost(self, exc: Exception | None) -> None:
        self._desk.doors.discard(self)
        self._deadline = math.inf
        if self._timer is not None:
            self._timer.cancel()
        if self._exchange is not None:
            self._exchange.lost()
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        known = self._known
        if known is not None and self._exchange is None and self._repeats(known, data):
            return
        is_beginning = False
        if self._exchange is None and self._lines is None:
            self._known = None
            if self._held:
                data, self._held = self._held + data, b""
            if not self._begins(data):
                return
            is_beginning = True
        if not self._is_read(data):
            return
        exchange = self._exchange
        if is_beginning and exchange is not None and self._wish is None:
            self._known = KnownHead.of(data, exchange.head)

    def pause_writing(self) -> None:
        if self._exchange is not None:
            self._exchange.pause_writing()

    def resume_writing(self) -> None:
        if self._exchange is not None:
            self._exchange.resume_writing()

    def end(self) -> None:
        """Close the connection when its client has taken what it was sent, which it does soon or never."""
        self._wait_at_most(LINGER_S)
        self.transport.close()

    def _begins(self, data: bytes) -> bool:
        """A request begins with `data`. False: it is not (yet) one of the hot path."""
        end = data.find(b"\n", 0, _LONGEST_LINE)
        found = self._desk.serve_by_line.get(data[: end + 1]) if end >= 0 else None
        if found is None:
            if end < 0 and len(data) < _LONGEST_LINE and _BEGINNING.startswith(data[: len(_BEGINNING)]):
                self._held = data
            else:
                self._hand_over(data)
            return False
        self._path, self._serve = found
        self._lines = []
        self._head_bytes = 0
        return True

    def _repeats(self, known: KnownHead, data: bytes) -> bool:
        """Take up the request that begins with `data` without having its head parsed.

        False: its head is another, or something follows it that is not for us to look at.
        """
        end = known.end_of_digits(data)
        if not end:
            return False
        digits, rest = data[known.start : end], data[end + len(known.after) :]
        length = int(digits)
        if len(rest) == length:
            self._take_up(LeanExchange(self._desk, self.transport, known.head, length, rest))
            return True
        if len(rest) > length:
            return False
        # The parser is told how long the body is, and sees to it that it is.
        self._parser.feed_data(b"POST / HTTP/1.1\r\nContent-Length: %b\r\n\r\n" % digits)
        self._take_up(LeanExchange(self._desk, self.transport, known.head, length))
        if rest:
            self._parser.feed_data(rest)
        return True

    def _is_read(self, data: bytes) -> bool:
        """Have the parser read `data`. False: that was no proper request, and has been seen to."""
        try:
            if self._lines is not None:
                if self._is_lingering:
                    return False
                room = MAX_HEAD_BYTES - self._head_bytes
                self._head_bytes += len(data)
                if len(data) > room:
                    self._parser.feed_data(data[:room])
                    data = data[room:] if self._lines is None else b""
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as wish:
            self._decline(data[wish.args[0] :])
            return False
        except httptools.HttpParserError:
            self._refuse(400, "The request is not valid HTTP.")
            return False
        lines = self._lines
        if lines is not None and (self._head_bytes > MAX_HEAD_BYTES or len(lines) > MAX_HEADERS):
            self._refuse(431, "The head of the request is too large.")
            return False
        return True

    def _decline(self, rest: bytes) -> None:
        """The wish to speak another protocol is not granted; Java's client has it with every first request.

        The parser has ended the request with its head. What follows is its body all the same.
        """
        exchange, wish = self._exchange, self._wish
        if exchange is None:
            return
        if wish is None:
            exchange.keep_alive = False  # it is the wish of another request, behind this one
            return
        self._wish = None
        keep_alive, exchange.is_complete = exchange.keep_alive, False
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % wish)
        exchange.keep_alive = keep_alive
        if rest:
            self.data_received(rest)

    def _hand_over(self, data: bytes) -> None:
        """From here on the connection is aiohttp's."""
        self._deadline = math.inf
        if self._timer is not None:
            self._timer.cancel()
        self._desk.doors.discard(self)
        other = self._desk.others()
        self.transport.set_protocol(other)
        other.connection_made(self.transport)
        other.data_received(data)

    # What the parser has read.

    def on_message_begin(self) -> None:
        """A request begins; a second one before the first is answered is not waited for."""
        if self._exchange is not None:
            self._exchange.keep_alive = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header."""
        lines = self._lines
        if lines is not None and len(lines) <= MAX_HEADERS:
            lines.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is complete: the request is taken up."""
        lines = self._lines
        if lines is None or len(lines) > MAX_HEADERS:
            return
        self._lines = None
        parser = self._parser
        self._wish = framing(lines) if parser.should_upgrade() else None
        head = Head(lines, keep_alive=parser.should_keep_alive())
        self._take_up(LeanExchange(self._desk, self.transport, head, head.length))

    def on_body(self, data: bytes) -> None:
        """Some of the body."""
        exchange = self._exchange
        if exchange is not None and not exchange.is_complete:
            exchange.add_body(data)

    def on_message_complete(self) -> None:
        """The body is complete."""
        exchange = self._exchange
        if exchange is not None:
            exchange.body_is_there()
            if self._is_lingering:
                self.transport.close()  # at the latest when lingering ends

    # What is done about it.

    def _take_up(self, exchange: LeanExchange) -> None:
        self._exchange = exchange
        self._deadline = math.inf
        self._task = task = self._loop.create_task(self._answer(exchange))
        self._desk.under_way.add(task)

    async def _answer(self, exchange: LeanExchange) -> None:
        desk = self._desk
        clock = desk.clock
        started = clock.monotonic()
        status = CLIENT_GONE_STATUS
        metrics.IN_FLIGHT.count += 1
        logging.REQUEST_ID.set(exchange.request_id)
        try:
            try:
                if not exchange.key_hash:
                    head = exchange.head
                    exchange.key_hash = head.key_hash = desk.keys.hash_of(*head.keys)
                answer = await self._serve(exchange)
            except ApiError as error:
                answer = _said(exchange, error)
            except (asyncio.CancelledError, ConnectionError):
                raise
            except Exception:
                log.exception("request_failed")
                answer = _said(exchange, _FAILED)
            if answer is None:
                status = 200
            else:
                status = answer.status
                exchange.answer(answer)
            if exchange.resumed is not None and not exchange.is_cut:
                # It is over when its client has it: a stopping gateway waits, and nobody gets a second answer
                # who has not taken the first.
                await exchange.taken(STALL_S)
        except (ConnectionError, TimeoutError):
            exchange.cut()
        except asyncio.CancelledError:
            exchange.cut()
            raise
        finally:
            metrics.IN_FLIGHT.count -= 1
            took = clock.monotonic() - started
            desk.journal.note("POST", self._path, status, took, exchange.request_id, exchange.notes)
            task, self._task = self._task, None
            if task is not None:
                desk.under_way.discard(task)
            self._over(exchange)

    def _over(self, exchange: LeanExchange) -> None:
        """The exchange is over, however: keep the connection, or let it go."""
        transport = self.transport
        if transport.is_closing():
            return
        if exchange.is_cut:
            self.end()
        elif exchange.keep_alive and exchange.is_complete:
            self._exchange = None
            self._deadline = self._loop.time() + KEEPALIVE_S
            if self._timer is None:  # else it is due before: nothing is waited for any longer
                self._timer = self._loop.call_at(self._deadline, self._look)
        elif exchange.is_complete:
            self.end()
        else:
            self._linger()

    def _linger(self) -> None:
        """Read and throw away what the client still sends: closing now would take the answer from it."""
        self._is_lingering = True
        if self._exchange is not None:
            self._exchange.discard()
        self.transport.write_eof()
        self._wait_at_most(LINGER_S)

    def _refuse(self, status: int, message: str) -> None:
        """What came is no request, or a broken one: nothing of it is repeated."""
        if self._is_lingering:
            return  # it has been answered; the rest is thrown away
        exchange = self._exchange
        if exchange is not None:
            exchange.keep_alive = False
            if not exchange.is_complete:
                self.transport.abort()  # in the midst of a body; the request is cancelled
            return  # else it is behind a request that is being answered, and the last on its connection
        head = Head((), keep_alive=False)
        self._exchange = exchange = LeanExchange(self._desk, self.transport, head, None)
        exchange.answer(ApiError(status, "invalid_request", message).answer())
        self._desk.journal.note("POST", self._path, status, 0.0, exchange.request_id, exchange.notes)
        self._linger()

    def _wait_at_most(self, seconds: float) -> None:
        """Close the connection when nothing has changed in `seconds`. One timer serves many requests."""
        self._deadline = deadline = self._loop.time() + seconds
        timer = self._timer
        if timer is not None:
            if timer.when() <= deadline:
                return
            timer.cancel()
        self._timer = self._loop.call_at(deadline, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._loop.time() >= self._deadline:
            self.transport.abort()
        elif self._deadline < math.inf:
            self._timer = self._loop.call_at(self._deadline, self._look)


def _said(exchange: LeanExchange, error: ApiError) -> Answer | None:
    """How a client hears of an error, if it can still hear anything."""
    if exchange.is_begun:
        exchange.cut()
        return None
    return error.answer()
