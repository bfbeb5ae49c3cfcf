"""Sends requests to providers: on a connection that is kept from before, or on a new one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec
from prometheus_client import Counter

from synaxis_gateway.upstream.answer import UpstreamAnswer
from synaxis_gateway.upstream.connection import PIECE_BYTES, Connection
from synaxis_gateway.upstream.dialing import Dialer
from synaxis_gateway.upstream.endpoint import Origin, UpstreamEndpoint
from synaxis_gateway.upstream.errors import Reset, TooLate
from synaxis_gateway.upstream.tunnel import RefusedByProxy

STALE_CONNECTION_S: Final = 1.0
"""A reused connection that fails later than this was not stale: the provider was at work on the request."""
SWEEP_EVERY_S: Final = 5.0
_WANTS_CREDENTIALS: Final = 407
"""What a proxy answers to a request that it passes on itself; no provider has a reason to."""

CONNECTIONS = Counter("synaxis_gateway_upstream_connections_total", "Connections made to providers")


def _at_any_time() -> bool:
    return True


class UpstreamRequest(msgspec.Struct, frozen=True):
    """One POST to a provider."""

    endpoint: UpstreamEndpoint
    body: bytes
    request_id: str
    connect_timeout_s: float
    answer_within_s: float
    """From when it is sent; the answer keeps to it until it is told otherwise (`expect_within`)."""
    may_repeat: bool = True
    """Whether it may be sent once more when a kept connection turns out to be closed. The provider may have
    had it all the same: not where each attempt counts against a limit or has to be paid for."""
    may_begin: Callable[[], bool] = _at_any_time
    """Asked when the connection is there, just before the first byte goes out."""

    def __repr__(self) -> str:
        return f"<request {self.request_id} of {len(self.body)} bytes>"  # the body is the client's secret


class UpstreamClient:
    """Connections to all providers. Only the public internet, unless a candidate says otherwise."""

    def __init__(self, max_answer_bytes: int) -> None:
        self._max_answer_bytes = max_answer_bytes
        self._dialer = Dialer()
        self._idle: dict[Origin, list[Connection]] = {}
        self._sweep: asyncio.TimerHandle | None = None
        self._is_closed = False

    async def open(self, request: UpstreamRequest) -> UpstreamAnswer:
        """Send a request and wait for the head of its answer. Raises UpstreamError, and TooLate.

        A kept connection may have been closed at the very moment we used it; then, and only then, the
        request is sent once more.
        """
        endpoint, body = request.endpoint, request.body
        connection = self._kept(endpoint.origin)
        is_kept = connection is not None
        while True:
            if connection is None:
                connection = await self._made(request)
            if not request.may_begin():
                self._release_unused(endpoint.origin, connection)
                raise TooLate
            begun = connection.loop.time()
            answer = UpstreamAnswer(connection)
            try:
                head = endpoint.request_head(request.request_id, len(body))
                connection.begin(answer, head, body, begun + request.answer_within_s)
                if len(body) > PIECE_BYTES:
                    async with asyncio.timeout(request.answer_within_s):
                        await connection.send_large(answer, body)
                while not answer.status and answer.error is None:
                    await answer.news()
                if answer.error is not None:
                    raise answer.error
                if answer.status == _WANTS_CREDENTIALS and _is_passed_on_by_proxy(endpoint.origin):
                    raise RefusedByProxy(answer.status)
                return answer
            except Reset as error:
                answer.close()
                took_s = connection.loop.time() - begun
                if error.had_begun or not is_kept or not request.may_repeat or took_s > STALE_CONNECTION_S:
                    raise
                connection, is_kept = None, False
            except BaseException:
                answer.close()
                raise

    async def close(self) -> None:
        """Close all connections that nobody uses; those in use are closed when they are let go."""
        self._is_closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        for idle in self._idle.values():
            for connection in idle:
                connection.close()
        self._idle.clear()
        await asyncio.sleep(0)  # transports are closed in the loop's next round

    async def _made(self, request: UpstreamRequest) -> Connection:
        """A new connection. Raises NoConnection."""
        origin = request.endpoint.origin
        patience_s = min(request.connect_timeout_s, request.answer_within_s)
        connection = await self._dialer.connect(origin, patience_s)
        connection.max_answer_bytes = self._max_answer_bytes
        connection.release = partial(self._release, origin)
        CONNECTIONS.inc()
        return connection

    def _kept(self, origin: Origin) -> Connection | None:
        """A connection from before, the latest first."""
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            if connection.is_usable and not connection.transport.is_closing():
                if connection.idle_until > connection.loop.time():
                    return connection
                connection.close()
        return None

    def _release(self, origin: Origin, connection: Connection) -> None:
        """Keep a connection for the next request."""
        if self._is_closed:
            connection.close()
            return
        idle = self._idle.get(origin)
        if idle is None:
            idle = self._idle[origin] = []
        idle.append(connection)
        if self._sweep is None:
            self._sweep = connection.loop.call_later(SWEEP_EVERY_S, self._swept)

    def _release_unused(self, origin: Origin, connection: Connection) -> None:
        if not connection.idle_until:  # else its provider has said how long it keeps it
            connection.idle_until = connection.loop.time() + SWEEP_EVERY_S
        self._release(origin, connection)

    def _swept(self) -> None:
        """Close what has not been used for too long, and look again while there is anything."""
        self._sweep = None
        now = asyncio.get_running_loop().time()
        for origin, idle in list(self._idle.items()):
            kept = []
            for connection in idle:
                if connection.is_usable and connection.idle_until > now:
                    kept.append(connection)
                else:
                    connection.close()
            if kept:
                self._idle[origin] = kept
            else:
                del self._idle[origin]
        if self._idle:
            self._sweep = asyncio.get_running_loop().call_later(SWEEP_EVERY_S, self._swept)


def _is_passed_on_by_proxy(origin: Origin) -> bool:
    return origin.proxy is not None and not origin.is_tls
