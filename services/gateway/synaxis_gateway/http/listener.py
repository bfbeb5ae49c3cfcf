"""Takes connections, as many as there are descriptors for; who comes beyond that is told so at once.

A server that runs out of descriptors cannot even accept a connection to refuse it, nor reach a provider for
those that it has. So a share of them is kept back, out of which probes are answered too.
"""

from __future__ import annotations

import asyncio
import json
import resource
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


async def listen(
    serve: Callable[[], asyncio.Protocol],
    count: Callable[[], int],
    host: str,
    port: int,
    *,
    reuse_port: bool,
) -> asyncio.Server:
    """Listen, with `serve` for each connection; `count` answers how many there are.

    Raises OSError when the port is taken.
    """

    def connection() -> asyncio.Protocol:
        if count() < room():
            return serve()
        REFUSED.inc()
        return _Refusal()

    return await asyncio.get_running_loop().create_server(
        connection, host, port, backlog=BACKLOG, reuse_port=reuse_port or None
    )


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
