"""Takes connections, as many as there are descriptors for; who comes beyond that is told so at once.

A server that runs out of descriptors cannot even accept a connection to refuse it, nor reach a provider for
those that it has. So a share of them is kept back, out of which probes are answered too.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import socket
from collections.abc import Callable
from typing import Final, cast

from prometheus_client import Counter

from synaxis_common.logging import get_logger

log = get_logger(__name__)

RESERVED: Final = 64
"""Descriptors for the bus, the spool, probes, and connections that are being refused."""
EACH: Final = 2
"""Descriptors of a connection: its own, and that of the provider it waits for."""
MOST_DESCRIPTORS: Final = 65_536
"""More are not asked for."""
PATIENCE_S: Final = 1.0
"""How long a connection that is refused lives at most."""
BACKLOG: Final = 1024
AT_ONCE: Final = 16
"""Connections that are taken in one round of the loop, besides the one that libuv takes. They are counted a
round or two later, so that twice as many must find room in what is kept back."""

REFUSED: Final = Counter(
    "synaxis_gateway_connections_refused_total", "Connections refused because there were too many"
)


def claim_descriptors() -> None:
    """Have as many descriptors as the system lets this process have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def room() -> int:
    """How many connections there may be. The limit may change while the process runs."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        soft = MOST_DESCRIPTORS
    return max((soft - RESERVED) // EACH, 1)


class Listener:
    """A port that is listened on.

    Since 1.45 libuv takes one connection a round, and a round that has a thousand streams to look after lasts
    tens of milliseconds: a hundred new clients would wait for seconds. So the others are taken along with it.
    """

    def __init__(self, serve: Callable[[], asyncio.Protocol], count: Callable[[], int]) -> None:
        self._serve = serve
        self._count = count
        self._server: asyncio.Server | None = None
        self._waiting: list[socket.socket] = []
        """The sockets of the server once more, with what libuv has left there."""
        self._taken: set[asyncio.Task[None]] = set()

    async def start(self, host: str, port: int, *, reuse_port: bool) -> None:
        """Listen. Raises OSError when the port is taken."""
        self._server = await asyncio.get_running_loop().create_server(
            self._connection, host, port, backlog=BACKLOG, reuse_port=reuse_port or None
        )
        self._waiting = [socket.socket(fileno=os.dup(each.fileno())) for each in self._server.sockets]

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self._waiting[0].getsockname()[1])

    def close(self) -> bool:
        """Take no more connections than have come already: who has been queued would be cut off.

        Answers whether there was somebody.
        """
        before = len(self._taken)
        for waiting in self._waiting:
            self._take_from(waiting, BACKLOG)
            waiting.close()
        if self._server is not None:
            self._server.close()
        return len(self._taken) > before

    def _connection(self) -> asyncio.Protocol:
        """For the one that libuv has taken."""
        for waiting in self._waiting:
            self._take_from(waiting, AT_ONCE)
        return self._protocol()

    def _protocol(self) -> asyncio.Protocol:
        if self._count() < room():
            return self._serve()
        REFUSED.inc()
        return _Refusal()

    def _take_from(self, waiting: socket.socket, most: int) -> None:
        for _ in range(most):
            try:
                connection, _address = waiting.accept()
            except OSError:
                return  # none is there; or whatever is wrong, libuv meets it, too
            task = asyncio.create_task(self._take(connection))
            self._taken.add(task)
            task.add_done_callback(self._taken.discard)

    async def _take(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)
        except OSError:
            connection.close()  # it is gone already


def _answer(status: str, body: object, headers: str = "") -> bytes:
    data = json.dumps(body).encode()
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n"
        f"Connection: close\r\n{headers}\r\n"
    )
    return head.encode() + data


_ALIVE: Final = _answer("200 OK", {"status": "ok"})
_FULL: Final = _answer(
    "503 Service Unavailable",
    {
        "error": {
            "message": "The gateway has as many connections as it can hold; please try again.",
            "type": "service_unavailable",
            "param": None,
            "code": "no_provider_available",
        }
    },
    "Retry-After: 1\r\n",
)


class _Refusal(asyncio.Protocol):
    """Answers one request without looking at it, but for the probe that asks whether the process lives.

    What more comes is read and thrown away: closing before that would reset the connection, answer and all.
    """

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._end: asyncio.TimerHandle | None = None
        self._has_answered = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass of it
        self._end = asyncio.get_running_loop().call_later(PATIENCE_S, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        if self._transport is not None and not self._has_answered:
            self._has_answered = True
            self._transport.write(_ALIVE if data.startswith(b"GET /healthz ") else _FULL)
            self._transport.write_eof()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._end is not None:
            self._end.cancel()
