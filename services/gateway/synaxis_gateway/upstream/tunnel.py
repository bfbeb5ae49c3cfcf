"""The way through a proxy to a provider that speaks TLS: CONNECT, and TLS with the provider itself.

All that the proxy says is read here, and no byte of it gets to where answers of providers are read.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from typing import Final

from synaxis_common.proxies import Proxy
from synaxis_gateway.upstream.connection import Connection
from synaxis_gateway.upstream.endpoint import Origin
from synaxis_gateway.upstream.errors import NoConnection
from synaxis_gateway.upstream.headers import USER_AGENT

MAX_HEAD_BYTES: Final = 16 * 1024
"""Of what a proxy says before the tunnel is there."""
SAID_MORE: Final = "it said more than it was asked"
CLOSED: Final = "it closed the connection"
_BEGIN: Final = b"HTTP/1."
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[01] ([1-5]\d\d)(?: [^\r\n]*)?\r\n")
_END: Final = b"\r\n\r\n"


class RefusedByProxy(NoConnection):
    """The proxy does not let us through."""

    def __init__(self, why: str | int) -> None:
        super().__init__(f"cannot be reached through the proxy ({why})")


async def open_tunnel(connection: Connection, origin: Origin, proxy: Proxy, tls: ssl.SSLContext) -> None:
    """Turn a new connection to `proxy` into one to `origin`, over TLS that is verified as ever.

    Bounded by whoever calls. Raises RefusedByProxy, OSError, ssl.SSLError; then the connection is closed.
    """
    transport = connection.transport
    handshake = _Handshake(connection.loop)
    transport.set_protocol(handshake)
    try:
        if transport.is_closing():
            raise RefusedByProxy(CLOSED)
        transport.write(_connect(origin, proxy))
        await handshake.is_through
        if handshake.has_said_more:
            raise RefusedByProxy(SAID_MORE)
        secured = await connection.loop.start_tls(transport, connection, tls, server_hostname=origin.host)
        if secured is None:
            raise ConnectionResetError
    except BaseException:
        transport.abort()
        raise
    connection.connection_made(secured)


def _connect(origin: Origin, proxy: Proxy) -> bytes:
    authority = origin.authority
    lines = [f"CONNECT {authority} HTTP/1.1", f"host: {authority}", f"user-agent: {USER_AGENT}"]
    if proxy.authorization is not None:
        lines.append(f"proxy-authorization: {proxy.authorization.get_secret_value()}")
    return "\r\n".join([*lines, "", ""]).encode()


def lets_through(head: bytes) -> bool:
    """Whether the answer to CONNECT lets us through; not yet, while it is not whole. Raises RefusedByProxy.

    Whatever the headers of one that does say, it has no body (RFC 9110, 9.3.6).
    """
    end = head.find(_END) + len(_END)
    is_complete = end >= len(_END)
    if (end if is_complete else len(head)) > MAX_HEAD_BYTES:
        raise RefusedByProxy("it sent a head that is too large")
    if not is_complete and head.startswith(_BEGIN[: len(head)]):
        return False
    found = _STATUS_LINE.match(head)
    if not is_complete or found is None:
        raise RefusedByProxy("it did not answer in HTTP")
    status = int(found[1])
    if not 200 <= status < 300:
        raise RefusedByProxy(status)
    if end < len(head):
        raise RefusedByProxy(SAID_MORE)
    return True


class _Handshake(asyncio.Protocol):
    """Hears the proxy out."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.is_through: asyncio.Future[None] = loop.create_future()
        """Fails with what keeps us from it."""
        self.has_said_more = False
        self._head = b""

    def data_received(self, data: bytes) -> None:
        if self.is_through.done():
            self.has_said_more = True
            return
        self._head += data
        try:
            if lets_through(self._head):
                self.is_through.set_result(None)
        except RefusedByProxy as refusal:
            self.is_through.set_exception(refusal)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.is_through.done():
            self.is_through.set_exception(RefusedByProxy(CLOSED))
