"""Makes connections to providers: names resolved and addresses checked, TLS verified, nothing unbounded."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from typing import Final

from synaxis_common import egress
from synaxis_gateway.upstream.connection import Connection
from synaxis_gateway.upstream.endpoint import Origin
from synaxis_gateway.upstream.errors import NoConnection
from synaxis_gateway.upstream.tunnel import open_tunnel

LEAST_EACH_S: Final = 0.25
"""The least time an address gets before the next one is tried beside it; RFC 8305 recommends 250 ms."""


class Dialer:
    """Connects to origins. An address that is not answering does not keep the next one from being tried."""

    def __init__(self) -> None:
        self._tls = ssl.create_default_context()
        self._tls.set_alpn_protocols(["http/1.1"])
        self._resolved: dict[tuple[str, bool, bool], tuple[float, list[str]]] = {}

    async def connect(self, origin: Origin, timeout: float) -> Connection:
        """A new connection, all that comes before its first request within `timeout` seconds: names, a proxy,
        TLS. Raises NoConnection."""
        unreachable = "cannot be reached" if origin.proxy is None else "cannot be reached through the proxy"
        try:
            async with asyncio.timeout(timeout):
                addresses = await self._addresses(origin)
                connection = await self._first_of(origin, addresses)
                if origin.proxy is not None and origin.is_tls:
                    await open_tunnel(connection, origin, origin.proxy, self._tls)
            if not connection.is_usable:  # its end came at once; a request on it would wait for nothing
                connection.close()
                raise ConnectionResetError
            return connection
        except (OSError, ssl.SSLError, UnicodeError) as error:  # of these, TimeoutError is an OSError
            raise NoConnection(f"{unreachable} ({type(error).__name__})") from error

    async def _addresses(self, origin: Origin) -> list[str]:
        """The addresses to connect to: of its proxy, which is the operator's choice, or of the host itself,
        those that we may send to. Raises NoConnection, OSError."""
        loop, is_direct = asyncio.get_running_loop(), origin.proxy is None
        where = origin if origin.proxy is None else origin.proxy
        key = where.host, origin.allow_private, is_direct
        known = self._resolved.get(key)
        if known is not None and loop.time() < known[0]:
            return known[1]
        try:
            ipaddress.ip_address(where.host.partition("%")[0])
        except ValueError:
            found = await loop.getaddrinfo(where.host, where.port, type=socket.SOCK_STREAM)
            texts = list(dict.fromkeys(str(address[0]) for *_, address in found))
        else:
            texts = [where.host]
        allowed = [text for text in texts if not is_direct or _is_allowed(text, origin)]
        if not allowed:
            raise NoConnection("its address is one we do not send to")
        self._resolved[key] = (loop.time() + egress.DNS_CACHE_S, allowed)
        return allowed

    async def _first_of(self, origin: Origin, addresses: list[str]) -> Connection:
        """The first address to answer; each gets a head start over the next. Raises OSError."""
        tasks: set[asyncio.Task[Connection]] = set()
        failure: BaseException | None = None
        waiting = list(addresses)
        try:
            while waiting or tasks:
                if waiting:
                    tasks.add(asyncio.create_task(self._reach(origin, waiting.pop(0))))
                done, tasks = await asyncio.wait(
                    tasks,
                    timeout=LEAST_EACH_S if waiting else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                while done:
                    task = done.pop()
                    if task.exception() is None:
                        tasks |= done  # one that was made at the same moment is too late as well
                        return task.result()
                    failure = task.exception()
            raise failure or OSError(f"{origin.host} has no address")
        finally:
            for task in tasks:
                task.cancel()
                task.add_done_callback(_let_go)

    async def _reach(self, origin: Origin, address: str) -> Connection:
        loop = asyncio.get_running_loop()
        where = origin if origin.proxy is None else origin.proxy
        is_tls = origin.is_tls and origin.proxy is None  # behind a proxy TLS comes later, within the tunnel
        transport, connection = await loop.create_connection(
            Connection,
            address,
            where.port,
            ssl=self._tls if is_tls else None,
            server_hostname=origin.host if is_tls else None,
        )
        handle = transport.get_extra_info("socket")
        if handle is not None:
            handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection


def _is_allowed(address: str, origin: Origin) -> bool:
    try:
        egress.check_address(address, allow_private=origin.allow_private)
    except egress.ForbiddenAddress:
        return False
    return True


def _let_go(task: asyncio.Task[Connection]) -> None:
    """A connection that was made too late is closed."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()
