"""A TCP proxy on 127.0.0.1 that makes a connection as bad as networks can be, and well again, while it runs.

In a test: `async with Proxy("127.0.0.1", port) as proxy: proxy.set(to_client=Toxics(latency_s=0.2))`.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

CHUNK_BYTES: Final = 64 * 1024
QUEUED_CHUNKS: Final = 64
"""Held back in one direction of a connection before its sender is no longer read from."""
STEPS_PER_S: Final = 20
"""A bounded bandwidth passes so many pieces a second."""
_RESET_WHEN_CLOSED: Final = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Toxics:
    """What happens to the bytes that go one way. The default is to pass them on."""

    latency_s: float = 0.0
    jitter_s: float = 0.0
    """Up to so much more latency, a chunk; the order is kept."""
    bytes_per_s: float | None = None
    slice_bytes: int | None = None
    """Passed on in pieces of at most so many bytes, `slice_pause_s` apart."""
    slice_pause_s: float = 0.0
    stall: bool = False
    """Held back until this ends; the other direction goes on."""
    reset_after: int | None = None
    """Both ends see a reset after so many bytes of a connection."""
    half_close_after: int | None = None
    """The receiver sees the end after so many bytes of a connection and the rest vanishes; the other
    direction goes on."""


class _Pipe:
    """One direction of a connection."""

    def __init__(
        self, proxy: Proxy, direction: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._proxy, self._direction = proxy, direction
        self._reader, self._writer = reader, writer
        self._queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(QUEUED_CHUNKS)
        self._passed = 0

    @property
    def _toxics(self) -> Toxics:
        return self._proxy.toxics[self._direction]

    async def run(self) -> None:
        """Pass on until the end. Raises ConnectionError when the connection is to be reset."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._read())
            tasks.create_task(self._write())

    async def _read(self) -> None:
        data = b"-"
        while data:
            data = await self._reader.read(CHUNK_BYTES)
            toxics = self._toxics
            wait_s = toxics.latency_s + self._proxy.random.uniform(0.0, toxics.jitter_s)
            await self._queue.put((asyncio.get_running_loop().time() + wait_s, data))

    async def _write(self) -> None:
        is_closed = False
        while True:
            due, data = await self._queue.get()
            await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
            await self._flow()
            if not data:
                break
            is_closed = is_closed or await self._pass_on(data)
        if not is_closed:
            self._writer.write_eof()

    async def _pass_on(self, data: bytes) -> bool:
        """Answers whether the receiver has seen the end."""
        for piece in self._pieces(data):
            await self._flow()
            toxics = self._toxics
            end = min(
                (n for n in (toxics.reset_after, toxics.half_close_after) if n is not None),
                default=self._passed + len(piece),
            )
            allowed = piece[: max(0, end - self._passed)]
            self._writer.write(allowed)
            await self._writer.drain()
            self._passed += len(allowed)
            if toxics.reset_after is not None and self._passed >= toxics.reset_after:
                raise ConnectionResetError(f"after {self._passed} bytes")
            if toxics.half_close_after is not None and self._passed >= toxics.half_close_after:
                self._writer.write_eof()
                return True
            if toxics.bytes_per_s is not None:
                await asyncio.sleep(len(allowed) / toxics.bytes_per_s)
            if toxics.slice_bytes is not None and toxics.slice_pause_s:
                await asyncio.sleep(toxics.slice_pause_s)
        return False

    def _pieces(self, data: bytes) -> Iterator[bytes]:
        while data:
            toxics = self._toxics
            size = toxics.slice_bytes or len(data)
            if toxics.bytes_per_s is not None:
                size = min(size, max(1, int(toxics.bytes_per_s / STEPS_PER_S)))
            yield data[:size]
            data = data[size:]

    async def _flow(self) -> None:
        while self._toxics.stall:
            await self._proxy.changed()


@dataclass(eq=False)
class Proxy:
    """Listens on 127.0.0.1 and passes connections on to `host` and `port`."""

    host: str
    port: int
    listen_port: int = 0
    """Where it listens; 0: on a port that is given to it once, and kept while it is down."""
    seed: int = 0
    toxics: dict[str, Toxics] = field(
        default_factory=lambda: {"to_server": Toxics(), "to_client": Toxics()}, init=False
    )
    accepted: int = field(default=0, init=False)
    """Connections so far."""

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[bool]] = set()
        self._change = asyncio.Event()

    @property
    def open_connections(self) -> int:
        """How many there are now."""
        return len(self._connections)

    def set(self, *, to_server: Toxics | None = None, to_client: Toxics | None = None) -> None:
        """Treat each direction so from now on, in the connections that are open as well. None: well."""
        self.toxics = {"to_server": to_server or Toxics(), "to_client": to_client or Toxics()}
        self._change.set()
        self._change = asyncio.Event()

    def blackhole(self) -> None:
        """Take connections and whatever is sent, and pass nothing on; `set()` lets it all through."""
        self.set(to_server=Toxics(stall=True), to_client=Toxics(stall=True))

    async def up(self) -> None:
        """Listen."""
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.listen_port)
            self.listen_port = int(self._server.sockets[0].getsockname()[1])

    async def down(self) -> None:
        """Be gone: open connections are reset, new ones refused."""
        if self._server is not None:
            self._server.close()
            self._server = None
        await self.reset()

    async def reset(self) -> None:
        """Reset the connections that are open."""
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def changed(self) -> None:
        """Wait for the next `set`."""
        await self._change.wait()

    async def __aenter__(self) -> Self:
        await self.up()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.down()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        writers = [writer]
        task = asyncio.create_task(self._serve(reader, writers))
        self._connections.add(task)
        task.add_done_callback(lambda over: self._end(over, writers))

    async def _serve(self, reader: asyncio.StreamReader, writers: list[asyncio.StreamWriter]) -> bool:
        """Answers whether both ends ended well; otherwise they are to be reset."""
        ended_well = True
        try:
            upstream_reader, upstream_writer = await asyncio.open_connection(self.host, self.port)
            writers.append(upstream_writer)
            async with asyncio.TaskGroup() as pipes:
                pipes.create_task(_Pipe(self, "to_server", reader, upstream_writer).run())
                pipes.create_task(_Pipe(self, "to_client", upstream_reader, writers[0]).run())
        except* OSError:
            ended_well = False
        return ended_well

    def _end(self, task: asyncio.Task[bool], writers: list[asyncio.StreamWriter]) -> None:
        self._connections.discard(task)
        ended_well = not task.cancelled() and task.result()
        for writer in writers:
            if ended_well:
                writer.close()
            else:
                _reset(writer)


def _reset(writer: asyncio.StreamWriter) -> None:
    found: socket.socket | None = writer.get_extra_info("socket")
    if found is not None and found.fileno() >= 0:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_WHEN_CLOSED)
    writer.transport.abort()
