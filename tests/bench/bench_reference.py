"""What servers cost that do nothing but answer, and a relay that looks at nothing.

That is the yardstick by which figures of different machines compare.

`python -m tests.bench.bench_reference aiohttp` serves by itself, and prints its port.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import statistics
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import urlsplit

import httptools
import uvloop
from aiohttp import web
from tests.bench import pinning
from tests.bench.bench_streams import STREAMS, paced
from tests.bench.pinning import Cores
from tests.bench.stage import load, prompt, running_upstream, serving
from tests.bench.upstream import completion

MODULE: Final = "tests.bench.bench_reference"
SECONDS: Final = 1.0
AT_ONCE: Final = 64
PATH: Final = "/v1/chat/completions"
BODY: Final = prompt("Hello " * 100)
ANSWER: Final = completion()


async def measure(rounds: int) -> dict[str, Any]:
    """Each server on the gateway's core, in a closed loop, with the requests of `throughput`; and the relay
    with the paced streams of `streams`."""
    cores = Cores.of_this_machine()
    found: dict[str, Any] = {}
    with pinning.staying_off_the_gateways_core(cores):
        for name in SERVERS:
            async with serving(MODULE, name) as (process, root):
                pinning.pin(process.pid, cores.gateway)
                url = f"{root}{PATH}"
                await _load(url)  # connections and caches
                runs = [await _measured(process.pid, url) for _ in range(rounds)]
            found[name] = {
                figure: round(statistics.median(run[figure] for run in runs), 1) for figure in runs[0]
            }
        found["relay"] = await _relayed(cores)
    return found


async def _relayed(cores: Cores) -> dict[str, float]:
    """Paced streams through the relay: what each of their events costs it, and how long it takes."""
    async with (
        running_upstream() as (_, upstream),
        serving(MODULE, RELAY, "--to", upstream) as (process, root),
    ):
        pid = process.pid
        pinning.pin(pid, cores.gateway)
        url = f"{root}{urlsplit(upstream).path}/chat/completions"
        found, before, after = await paced(url, "none", SECONDS, lambda: pinning.cpu_s(pid))
    if set(found["statuses"]) != {"200"}:
        raise RuntimeError(f"a relay that does nothing else ended streams with {found['statuses']}")
    return {
        "events_per_s": round(found["events_per_s"]),
        "cpu_us": round((after - before) / found["came"] * 1e6, 1),
        "p50_ms": found["ms"]["p50"],
        "p99_ms": found["ms"]["p99"],
    }


async def _measured(pid: int, url: str) -> dict[str, float]:
    before = pinning.cpu_s(pid)
    told = await _load(url)
    used = pinning.cpu_s(pid) - before
    if set(told["statuses"]) != {"200"}:
        raise RuntimeError(f"a server that does nothing else answered {told['statuses']}")
    return {"requests_per_s": told["requests_per_s"], "cpu_us": used / told["requests"] * 1e6}


async def _load(url: str) -> dict[str, Any]:
    return await load(url, "none", BODY, "--connections", str(AT_ONCE), "--seconds", str(SECONDS))


async def _aiohttp() -> int:
    """aiohttp's server, with nothing but a handler."""

    async def answered(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=ANSWER, content_type="application/json")

    app = web.Application()
    app.router.add_post(PATH, answered)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port: int = runner.addresses[0][1]
    return port


class _Bare(asyncio.Protocol):
    answer: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
        len(ANSWER),
        ANSWER,
    )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self._transport.write(self.answer)


async def _httptools() -> int:
    """A protocol on httptools that looks at nothing."""
    server = await asyncio.get_running_loop().create_server(_Bare, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    return port


class _End(asyncio.Protocol):
    """One end of a relayed connection: what comes in goes out at the other."""

    def __init__(self, other: _End | None = None) -> None:
        self.other = other
        self.transport: Any = None
        self.early = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self.early += data
        else:
            self.other.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None:
            self.other.transport.abort()


async def _relay(to: str) -> int:
    """Passes on bytes, whatever they are."""
    loop = asyncio.get_running_loop()
    host, _, upstream_port = urlsplit(to).netloc.partition(":")
    dials: set[asyncio.Task[None]] = set()

    async def dial(client: _End) -> None:
        _, upstream = await loop.create_connection(lambda: _End(client), host, int(upstream_port))
        upstream.transport.write(client.early)
        client.other = upstream

    def taken() -> _End:
        client = _End()
        task = loop.create_task(dial(client))
        dials.add(task)
        task.add_done_callback(dials.discard)
        return client

    server = await loop.create_server(taken, "127.0.0.1", 0, backlog=STREAMS)
    port: int = server.sockets[0].getsockname()[1]
    return port


RELAY: Final = "relay"
SERVERS: Final[dict[str, Callable[[], Awaitable[int]]]] = {"aiohttp": _aiohttp, "httptools": _httptools}


async def _serve(name: str, to: str) -> None:
    print(await (_relay(to) if name == RELAY else SERVERS[name]()), flush=True)
    gc.freeze()
    await asyncio.Event().wait()


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("server", choices=[*SERVERS, RELAY])
    parser.add_argument("--to", default="", help="where the relay passes on to")
    said = parser.parse_args()
    uvloop.run(_serve(said.server, said.to))


if __name__ == "__main__":
    main()
