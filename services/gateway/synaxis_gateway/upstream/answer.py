"""The answer of a provider as it comes in: its head, and its body piece by piece."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from functools import lru_cache
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
        "_connection",
        "_decoder",
        "_listener",
        "_pieces",
        "_taken",
        "_waiter",
        "error",
        "is_over",
        "overhead_bytes",
        "raw_headers",
        "size",
        "status",
    )

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._pieces: list[bytes] = []
        self._taken = 0
        """Bytes of the body that are with whoever asked."""
        self._decoder: Decoder | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._listener: Callable[[], None] | None = None
        self.raw_headers: dict[bytes, bytes]
        """By name in lower case; of those that come twice the last. There with the head."""
        self.status = 0
        """0: its head is not there yet."""
        self.size = 0
        """Bytes of the body so far, decoded."""
        self.overhead_bytes = 0
        """Since the last of the body, or the beginning: bytes that were none of it."""
        self.is_over = False
        """Whether nothing more will come, for better or worse."""
        self.error: UpstreamError | None = None
        """Why it is over without having come to its end."""

    # For whoever made the request.

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the answer, by name in lower case; of those that come twice the last."""
        return {
            name.decode("latin-1"): value.decode("utf-8", "replace")
            for name, value in self.raw_headers.items()
            if name
        }

    @property
    def content_type(self) -> str:
        """Without parameters, lower case."""
        return _media_type(self.raw_headers.get(b"content-type", b""))

    @property
    def has_news(self) -> bool:
        """Whether there is something to take, or an end."""
        return bool(self._pieces) or self.is_over

    @property
    def at_eof(self) -> bool:
        """Whether the end has come, and all before it has been read."""
        return self.is_over and not self._pieces and self.error is None

    def news(self) -> asyncio.Future[None]:
        """Done when something has come. A future and no coroutine: one less to go through at each wake.

        Raises TimeoutError when what was expected is late already; the future may do so later.
        """
        connection = self._connection
        if connection.deadline < connection.looks_at:  # nobody will look: somebody has
            raise TimeoutError
        self._waiter = waiter = connection.loop.create_future()
        return waiter

    async def read_some(self, timeout: float | None = None) -> bytes:
        """What has arrived, at least a byte; empty at the end.

        Raises Reset or Unreadable, and TimeoutError when nothing has come for `timeout` seconds; without it
        what was said last to `expect_within` counts.
        """
        while True:
            if self._pieces:
                return self.take_now()
            if self.error is not None:
                raise self.error
            if self.is_over:
                return b""
            if timeout is not None:
                self.expect_within(timeout)
            await self.news()

    def expect_within(self, seconds: float) -> None:
        """Have whoever waits for more fail with a TimeoutError in `seconds`."""
        connection = self._connection
        if connection.answer is self:  # else it is another answer's by now
            connection.deadline = deadline = connection.loop.time() + seconds
            if deadline < connection.looks_at:
                connection.look_at(deadline)

    def listen(self, listener: Callable[[], None] | None) -> None:
        """Have `listener` called, instead of waking who waits, whenever there is news: more of the body, its
        end, a failure, or that what was expected has not come in time. None: no more."""
        self._listener = listener

    def take_now(self) -> bytes:
        """What has arrived; empty when there is nothing, for whatever reason."""
        pieces = self._pieces
        if len(pieces) == 1:
            data = pieces.pop()
        else:
            data = b"".join(pieces)
            pieces.clear()
        self._taken = self.size
        if self._connection.is_paused:
            self._connection.resume_reading()
        return data

    async def read_all(self) -> bytes:
        """The whole body. Raises Reset or Unreadable."""
        if self.is_over and len(self._pieces) == 1 and self.error is None:
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
        if self.is_over and self.error is None and connection.is_usable and not connection.is_full:
            if connection.is_paused:
                connection.resume_reading()
            idle_s = self._idle_s() if b"keep-alive" in self.raw_headers else IDLE_S
            connection.idle_until = connection.loop.time() + idle_s
            connection.release(connection)
        else:
            connection.close()

    # For the connection.

    def begins(self, status: int, head: list[tuple[bytes, bytes]]) -> None:
        """The head is there."""
        self.status = status
        self.raw_headers = headers = {name.lower(): value for name, value in head}
        if b"content-encoding" not in headers:
            return
        try:
            self._decoder = decoder_for(self._header(b"content-encoding"))
        except Unreadable as error:
            self.fail(error)

    def take(self, data: bytes) -> None:
        """Some of the body is there."""
        if self.is_over:
            return
        connection = self._connection
        if self._decoder is not None:
            try:
                data = self._decoder.decode(data, connection.max_answer_bytes - self.size)
            except Unreadable as error:
                self.fail(error)
                return
            if not data:
                return
        self.size = size = self.size + len(data)
        if size > connection.max_answer_bytes:
            self.fail(Unreadable("sent more than is taken"))
            return
        self._pieces.append(data)
        if size - self._taken > UNREAD_BYTES and not connection.is_paused:
            connection.pause_reading()

    def ends(self) -> None:
        """All of the body is there."""
        if self.is_over:
            self._connection.is_usable = False  # there is more than was asked for
            return
        if self._decoder is not None:
            try:
                self._decoder.finish()
            except Unreadable as error:
                self.fail(error)
                return
        self.is_over = True

    def lost(self, exc: Exception | None) -> None:
        """The connection ends here: that may be the end of the body, too."""
        if self.is_over:
            return
        if not self.status:
            self.error = Reset(_why(exc), had_begun=self.overhead_bytes > 0)
        elif exc is not None:
            self.error = Reset(_why(exc))
        elif self._ends_with_connection():
            self.ends()
        else:
            self.error = Unreadable("broke off its answer")
        self.is_over = True
        self.wake()

    def fail(self, error: UpstreamError) -> None:
        """There is no more of it that could be read. What is wrong after its end does not concern it."""
        if self.is_over:
            self._connection.is_usable = False
            return
        self.error = error
        self.is_over = True
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

    def _header(self, name: bytes) -> str:
        return self.raw_headers.get(name, b"").decode("latin-1")

    def _ends_with_connection(self) -> bool:
        """Whether the body has no other end than that of the connection."""
        is_chunked = "chunked" in self._header(b"transfer-encoding").lower()
        return not is_chunked and not self._header(b"content-length")

    def _idle_s(self) -> float:
        """What the provider says of how long it keeps the connection."""
        for part in self._header(b"keep-alive").split(","):
            name, _, value = part.strip().partition("=")
            if name.lower() == "timeout" and value.isdecimal():
                return min(IDLE_S, max(float(value) - _MARGIN_S, 0.0))
        return IDLE_S


def _why(exc: Exception | None) -> str:
    return "closed the connection" if exc is None else f"closed the connection ({type(exc).__name__})"


@lru_cache(64)
def _media_type(content_type: bytes) -> str:
    """Few are said, but with every answer."""
    return content_type.decode("latin-1").partition(";")[0].strip().lower()
