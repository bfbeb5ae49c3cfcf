"""The answer of a provider as it comes in: its head, and its body piece by piece."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from synaxis_gateway.upstream.decoding import Decoder, decoder_for
from synaxis_gateway.upstream.errors import Reset, Unreadable, UpstreamError

if TYPE_CHECKING:
    from synaxis_gateway.upstream.connection import Connection

UNREAD_BYTES: Final = 256 * 1024
"""With more than this not yet taken by us the provider has to wait."""
IDLE_S: Final = 75.0
"""How long a connection is kept for the next request at most; the same as `egress.KEEPALIVE_S`."""
_MARGIN_S: Final = 1.0
"""A provider that says how long it keeps a connection is believed, but for so much."""


class UpstreamAnswer:
    """One request's answer as it comes in."""

    __slots__ = (
        "_at_most",
        "_connection",
        "_decoder",
        "_error",
        "_headers",
        "_is_paused",
        "_listener",
        "_loop",
        "_pieces",
        "_release",
        "_unread",
        "_waiter",
        "has_ended",
        "has_head",
        "header_count",
        "overhead_bytes",
        "raw_headers",
        "size",
        "status",
    )

    def __init__(self, connection: Connection, at_most: int, release: Callable[[Connection], None]) -> None:
        self._connection = connection
        self._loop = connection.loop
        self._release = release
        self._at_most = at_most
        self._unread = 0
        self._pieces: list[bytes] = []
        self._decoder: Decoder | None = None
        self._error: UpstreamError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._headers: dict[str, str] | None = None
        self._is_paused = False
        self._listener: Callable[[], None] | None = None
        self.raw_headers: dict[bytes, bytes] = {}
        """By name in lower case; of those that come twice the last."""
        self.header_count = 0
        self.size = 0
        """Bytes of the body so far, decoded."""
        self.overhead_bytes = 0
        """Since the last of the body, or the beginning: bytes that were none of it."""
        self.has_head = False
        self.has_ended = False
        self.status = 0

    # For whoever made the request.

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the answer, by name in lower case; of those that come twice the last."""
        if self._headers is None:
            self._headers = {
                name.decode("latin-1"): value.decode("utf-8", "replace")
                for name, value in self.raw_headers.items()
            }
        return self._headers

    @property
    def content_type(self) -> str:
        """Without parameters, lower case."""
        return self._header(b"content-type").partition(";")[0].strip().lower()

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come, for better or worse."""
        return self.has_ended or self._error is not None

    @property
    def has_news(self) -> bool:
        """Whether there is something to take, or an end."""
        return bool(self._pieces) or self.is_over

    @property
    def at_eof(self) -> bool:
        """Whether the end has come, and all before it has been read."""
        return self.has_ended and not self._pieces and self._error is None

    async def wait_for_head(self) -> None:
        """Wait until the answer begins. Raises UpstreamError."""
        while not self.has_head:
            if self._error is not None:
                raise self._error
            await self._news()
        if self._error is not None:
            raise self._error

    async def read_some(self, timeout: float | None = None) -> bytes:
        """What has arrived, at least a byte; empty at the end.

        Raises Reset or Unreadable, and TimeoutError when nothing has come for `timeout` seconds; without it
        what was said last to `expect_within` counts.
        """
        while True:
            if self._pieces:
                return self._take()
            if self._error is not None:
                raise self._error
            if self.has_ended:
                return b""
            if timeout is not None:
                self.expect_within(timeout)
            await self._news()

    def expect_within(self, seconds: float) -> None:
        """Have whoever waits for more fail with a TimeoutError in `seconds`."""
        connection = self._connection
        if connection.answer is self:  # else it is another answer's by now
            connection.expect_by(self._loop.time() + seconds)

    def listen(self, listener: Callable[[], None] | None) -> None:
        """Have `listener` called, instead of waking who waits, whenever there is news: more of the body, its
        end, a failure, or that what was expected has not come in time. None: no more."""
        self._listener = listener

    def take_now(self) -> bytes:
        """What has arrived; empty when there is nothing, for whatever reason."""
        return self._take() if self._pieces else b""

    async def read_all(self) -> bytes:
        """The whole body. Raises Reset or Unreadable."""
        if self.has_ended and len(self._pieces) == 1 and self._error is None:
            return self._pieces.pop()
        pieces = []
        while piece := await self.read_some():
            pieces.append(piece)
        return b"".join(pieces)

    async def read_prefix(self, limit: int) -> bytes:
        """The first bytes of the body, about `limit` of them. Raises Reset or Unreadable."""
        prefix = b""
        while len(prefix) < limit and (piece := await self.read_some()):
            prefix += piece
        return prefix

    def close(self) -> None:
        """Let go: an answer that came to its end leaves the connection for the next request, any other
        cancels what the provider is doing by closing it."""
        connection = self._connection
        if connection.answer is not self:
            return
        connection.answer = None
        connection.deadline = math.inf
        if self._waiter is not None:
            self._waiter.cancel()
        if self.has_ended and self._error is None and connection.is_usable and not connection.is_full:
            if self._is_paused:
                connection.transport.resume_reading()
            connection.idle_until = self._loop.time() + self._idle_s()
            self._release(connection)
        else:
            connection.close()

    # For the connection.

    def begins(self, status: int) -> None:
        """The head is there."""
        self.status = status
        self.has_head = True
        if b"content-encoding" not in self.raw_headers:
            return
        try:
            self._decoder = decoder_for(self._header(b"content-encoding"))
        except Unreadable as error:
            self.fail(error)

    def take(self, data: bytes) -> None:
        """Some of the body is there."""
        if self._decoder is not None:
            try:
                data = self._decoder.decode(data, self._at_most - self.size)
            except Unreadable as error:
                self.fail(error)
                return
            if not data:
                return
        size = len(data)
        self.size += size
        if self.size > self._at_most:
            self.fail(Unreadable("sent more than is taken"))
            return
        self._pieces.append(data)
        self._unread += size
        if self._unread > UNREAD_BYTES and not self._is_paused:
            self._is_paused = True
            self._connection.transport.pause_reading()

    def ends(self) -> None:
        """All of the body is there."""
        if self.has_ended:
            self._connection.is_usable = False  # there is more than was asked for
            return
        if self._decoder is not None and self._error is None:
            try:
                self._decoder.finish()
            except Unreadable as error:
                self.fail(error)
                return
        self.has_ended = True

    def lost(self, exc: Exception | None) -> None:
        """The connection ends here: that may be the end of the body, too."""
        if self.has_ended or self._error is not None:
            return
        if not self.has_head:
            self._error = Reset(_why(exc), had_begun=self.overhead_bytes > 0)
        elif exc is not None:
            self._error = Reset(_why(exc))
        elif self._ends_with_connection():
            self.ends()
        else:
            self._error = Unreadable("broke off its answer")
        self.wake()

    def fail(self, error: UpstreamError) -> None:
        """There is no more of it that could be read. What is wrong after its end does not concern it."""
        if self.has_ended:
            self._connection.is_usable = False
            return
        if self._error is None:
            self._error = error
        self._connection.close()

    def wake(self) -> None:
        """Something has come."""
        if self._listener is not None:
            self._listener()
            return
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def late(self) -> None:
        """What was expected has not come in time."""
        if self._listener is not None:
            self._listener()
            return
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_exception(TimeoutError())

    def _news(self) -> asyncio.Future[None]:
        """Done when something has come. A future and no coroutine: one less to go through at each wake.

        Raises TimeoutError when what was expected is late already; the future may do so later.
        """
        if self._connection.is_late:
            raise TimeoutError
        self._waiter = waiter = self._loop.create_future()
        return waiter

    def _take(self) -> bytes:
        pieces = self._pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._unread = 0
        if self._is_paused:
            self._is_paused = False
            self._connection.transport.resume_reading()
        return data

    def _header(self, name: bytes) -> str:
        return self.raw_headers.get(name, b"").decode("latin-1")

    def _ends_with_connection(self) -> bool:
        """Whether the body has no other end than that of the connection."""
        is_chunked = "chunked" in self._header(b"transfer-encoding").lower()
        return not is_chunked and not self._header(b"content-length")

    def _idle_s(self) -> float:
        if b"keep-alive" not in self.raw_headers:
            return IDLE_S
        for part in self._header(b"keep-alive").split(","):
            name, _, value = part.strip().partition("=")
            if name.lower() == "timeout" and value.isdecimal():
                return min(IDLE_S, max(float(value) - _MARGIN_S, 0.0))
        return IDLE_S


def _why(exc: Exception | None) -> str:
    return "closed the connection" if exc is None else f"closed the connection ({type(exc).__name__})"
