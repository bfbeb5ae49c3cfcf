"""The proxy that makes connections bad: each toxic does what it says, and can be taken away again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from tests.support.proxy import Proxy, Toxics

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
PATIENCE_S = 0.15
"""In which nothing must come that is held back."""


class Echo:
    """A server that says everything again, and notes what it got."""

    def __init__(self) -> None:
        self.got = b""
        self.ended = asyncio.Event()
        self.was_reset = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                self.got += data
                writer.write(data)
                await writer.drain()
            self.ended.set()
        except ConnectionError:
            self.was_reset.set()
        finally:
            writer.close()


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
async def proxy(echo: Echo) -> AsyncIterator[Proxy]:
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    async with Proxy("127.0.0.1", server.sockets[0].getsockname()[1]) as proxy:
        yield proxy
    server.close()


@pytest.fixture
async def connection(proxy: Proxy) -> AsyncIterator[Connection]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.listen_port)
    yield reader, writer
    writer.close()


async def said_again(connection: Connection, data: bytes, within_s: float = 5.0) -> float:
    """Send `data` and wait for it to come back; answers how long it took, in seconds."""
    reader, writer = connection
    begun = time.monotonic()
    writer.write(data)
    async with asyncio.timeout(within_s):
        assert await reader.readexactly(len(data)) == data
    return time.monotonic() - begun


async def test_without_toxics_bytes_pass_as_they_are(connection: Connection, echo: Echo) -> None:
    await said_again(connection, b"x" * 1_000_000)
    connection[1].write_eof()
    assert await connection[0].read() == b""
    async with asyncio.timeout(5):
        await echo.ended.wait()


async def test_latency_is_added_and_taken_away_while_connected(proxy: Proxy, connection: Connection) -> None:
    proxy.set(to_server=Toxics(latency_s=0.1), to_client=Toxics(latency_s=0.1, jitter_s=0.05))
    assert await said_again(connection, b"slow") >= 0.2
    proxy.set()
    assert await said_again(connection, b"fast") < 0.1


async def test_a_bounded_bandwidth_stretches_what_is_sent(proxy: Proxy, connection: Connection) -> None:
    proxy.set(to_client=Toxics(bytes_per_s=20_000))
    assert await said_again(connection, b"x" * 6_000) >= 0.25


async def test_a_slicer_passes_on_small_pieces(proxy: Proxy, connection: Connection) -> None:
    proxy.set(to_client=Toxics(slice_bytes=3, slice_pause_s=0.02))
    reader, writer = connection
    writer.write(b"0123456789")
    async with asyncio.timeout(5):
        pieces = [await reader.read(100) for _ in range(4)]
    assert pieces == [b"012", b"345", b"678", b"9"]


async def test_a_stalled_direction_holds_back_and_the_other_goes_on(
    proxy: Proxy, connection: Connection, echo: Echo
) -> None:
    proxy.set(to_client=Toxics(stall=True))
    with pytest.raises(TimeoutError):
        await said_again(connection, b"one", PATIENCE_S)
    assert echo.got == b"one"
    proxy.set()
    async with asyncio.timeout(5):
        assert await connection[0].readexactly(3) == b"one"


async def test_a_black_hole_takes_connections_and_says_nothing(
    proxy: Proxy, connection: Connection, echo: Echo
) -> None:
    proxy.blackhole()
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.listen_port)
    for one in (connection, (reader, writer)):
        with pytest.raises(TimeoutError):
            await said_again(one, b"anybody?", PATIENCE_S)
    assert echo.got == b""
    writer.close()


async def test_while_down_connections_are_refused_and_then_taken_on_the_same_port(proxy: Proxy) -> None:
    port = proxy.listen_port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await said_again((reader, writer), b"hello")
    await proxy.down()
    with pytest.raises(ConnectionResetError):
        await reader.read()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
    await proxy.up()
    assert proxy.listen_port == port
    again = await asyncio.open_connection("127.0.0.1", port)
    await said_again(again, b"hello")
    for one in (writer, again[1]):
        one.close()


async def test_a_reset_is_seen_by_both_ends(proxy: Proxy, connection: Connection, echo: Echo) -> None:
    await said_again(connection, b"hello")
    await proxy.reset()
    with pytest.raises(ConnectionResetError):
        await connection[0].read()
    async with asyncio.timeout(5):
        await echo.was_reset.wait()
    assert proxy.open_connections == 0


async def test_a_connection_is_reset_after_so_many_bytes(proxy: Proxy, connection: Connection) -> None:
    proxy.set(to_client=Toxics(reset_after=4))
    connection[1].write(b"0123456789")
    got = b""

    async def read_on() -> None:
        nonlocal got
        while True:
            got += await connection[0].readexactly(1)

    with pytest.raises(ConnectionResetError):
        await read_on()
    assert b"0123".startswith(got)


async def test_a_half_closed_connection_ends_one_way_only(
    proxy: Proxy, connection: Connection, echo: Echo
) -> None:
    proxy.set(to_client=Toxics(half_close_after=4))
    reader, writer = connection
    writer.write(b"0123456789")
    async with asyncio.timeout(5):
        assert await reader.read() == b"0123"
    writer.write(b" and more")
    async with asyncio.timeout(5):
        while echo.got != b"0123456789 and more":
            await asyncio.sleep(0.01)


async def test_a_server_that_is_not_there_resets_the_client() -> None:
    server = await asyncio.start_server(Echo().serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    async with Proxy("127.0.0.1", port) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.listen_port)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
