"""An HTTP proxy on 127.0.0.1: CONNECT and absolute-form, credentials if told to ask, bad manners on command.

In a test: `async with HttpProxy(credentials="user:password") as proxy: proxy.manners["b.test"] = Says(b"…")`.
Every name is 127.0.0.1 to it: `.test` names are ones that only the proxy can resolve.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

_HEAD_END: Final = b"\r\n\r\n"
_HOP: Final = (b"proxy-authorization:", b"proxy-connection:")
REFUSAL: Final = (
    b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n"
    b"Content-Length: 4\r\n\r\nwho?"
)


@dataclass(frozen=True)
class Says:
    """What a proxy says instead of passing anything on; nothing at all is silence."""

    words: bytes = b""
    then_closes: bool = False


@dataclass(eq=False)
class HttpProxy:
    """Listens on 127.0.0.1."""

    credentials: str | None = None
    """`user:password` that everybody has to give; None: it does not ask."""
    manners: dict[str, Says] = field(default_factory=dict)
    """By the host that is asked for; `*`: for all others."""
    behind_the_head: bytes = b""
    """Said at once with the head that lets somebody through a tunnel."""
    heads: list[bytes] = field(default_factory=list)
    """Of what it was asked, as they came."""
    connections: int = 0

    port: int = field(default=0, init=False)

    @property
    def asked_for(self) -> list[str]:
        """The request lines, without the version."""
        return [head.partition(b" HTTP/")[0].decode() for head in self.heads]

    @property
    def is_in_use(self) -> bool:
        """Whether any connection is open."""
        return bool(self._tasks)

    @property
    def url(self) -> str:
        """What a setting says, with its credentials."""
        user = "" if self.credentials is None else f"{self.credentials}@"
        return f"http://{user}127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()  # else what nobody has read of its words would keep it open
        await asyncio.sleep(0)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):  # somebody left, as some tests want it
            async with _closing(writer):
                await self._answer(reader, writer, await reader.readuntil(_HEAD_END))

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        self.heads.append(head)
        method, target, *_ = head.split(b" ")
        is_tunnel = method == b"CONNECT"
        authority = target if is_tunnel else target.removeprefix(b"http://").partition(b"/")[0]
        host, _, port = authority.decode().rpartition(":")
        manners = self.manners.get(host, self.manners.get("*"))
        if manners is None and not self._knows(head):
            manners = Says(REFUSAL, then_closes=True)
        if manners is not None:
            writer.write(manners.words)
            await writer.drain()
            if not manners.then_closes:
                await reader.read()
            return
        try:
            there, to_there = await asyncio.open_connection("127.0.0.1", int(port))
        except OSError:
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
            return
        async with _closing(to_there):
            if is_tunnel:
                writer.write(b"HTTP/1.1 200 Connection established" + _HEAD_END + self.behind_the_head)
                onward = _pass_on(reader, to_there)
            else:
                onward = self._pass_requests_on(reader, to_there, head)
            await _first_of(onward, _pass_on(there, writer))

    async def _pass_requests_on(
        self, reader: asyncio.StreamReader, to_there: asyncio.StreamWriter, head: bytes
    ) -> None:
        while True:
            method, target, rest = head.split(b" ", 2)
            path = b"/" + target.removeprefix(b"http://").partition(b"/")[2]
            lines = (b"%b %b %b" % (method, path, rest)).split(b"\r\n")
            to_there.write(b"\r\n".join(line for line in lines if not line.lower().startswith(_HOP)))
            length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
            to_there.write(await reader.readexactly(int(length or 0)))
            await to_there.drain()
            head = await reader.readuntil(_HEAD_END)
            self.heads.append(head)

    def _knows(self, head: bytes) -> bool:
        if self.credentials is None:
            return True
        token = base64.b64encode(self.credentials.encode())
        return b"proxy-authorization: basic " + token.lower() in head.lower()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()


async def _first_of(*ways: Coroutine[Any, Any, None]) -> None:
    """Until one direction ends; then the other does too."""
    tasks = [asyncio.ensure_future(way) for way in ways]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def _closing(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    try:
        yield
    finally:
        writer.close()
