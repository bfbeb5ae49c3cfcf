"""What asking a provider costs: with our client, with aiohttp's as it comes and tuned, and with httpx.

`python -m tests.bench.bench_client ours URL --seconds 5` asks by itself and prints JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp
import httpx2
import uvloop
from tests.bench import pinning
from tests.bench.pinning import Cores
from tests.bench.stage import prompt, running_upstream

from synaxis_common import egress
from synaxis_gateway.upstream.client import UpstreamClient, UpstreamRequest
from synaxis_gateway.upstream.endpoint import UpstreamEndpoint

SECONDS: Final = 1.0
AT_ONCE: Final = 64
WARMING_S: Final = 0.2
WITHIN_S: Final = 60.0
MAX_ANSWER_BYTES: Final = 1024 * 1024
BODY: Final = prompt("x" * 400)
HEADERS: Final = {"content-type": "application/json", "authorization": "Bearer sk-bench"}

Ask = Callable[[], Awaitable[bytes]]
"""Asks once; answers the body."""


async def measure(rounds: int) -> dict[str, Any]:
    """Each client in a process of its own, one after another, on the gateway's core."""
    cores = Cores.of_this_machine()
    found: dict[str, Any] = {}
    with pinning.staying_off_the_gateways_core(cores):
        async with running_upstream() as (_, url):
            for name in CLIENTS:
                runs = [await _alone(name, url, cores) for _ in range(rounds)]
                found[name] = {
                    figure: round(statistics.median(run[figure] for run in runs), 1) for figure in runs[0]
                }
    for name in CLIENTS:
        if name != "ours":
            found[f"{name}_cpu_to_ours"] = round(found[name]["cpu_us"] / found["ours"]["cpu_us"], 2)
    return found


async def _alone(name: str, url: str, cores: Cores) -> dict[str, float]:
    """Raises RuntimeError when the client fails, TimeoutError."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bench.bench_client", name, f"{url}/chat/completions"),
        *("--seconds", str(SECONDS)),
        stdout=asyncio.subprocess.PIPE,
        preexec_fn=lambda: os.sched_setaffinity(0, cores.gateway),
    )
    try:
        out, _ = await asyncio.wait_for(process.communicate(), WITHIN_S)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    if process.returncode:
        raise RuntimeError(f"the client {name} ended with {process.returncode}")
    figures: dict[str, float] = json.loads(out)
    return figures


@asynccontextmanager
async def _ours(url: str) -> AsyncIterator[Ask]:
    client = UpstreamClient(MAX_ANSWER_BYTES)
    request = UpstreamRequest(
        endpoint=UpstreamEndpoint.of(url, HEADERS, allow_private=True),
        body=BODY,
        request_id="bench",
        connect_timeout_s=5.0,
        answer_within_s=10.0,
    )

    async def ask() -> bytes:
        answer = await client.open(request)
        try:
            return await answer.read_all()
        finally:
            answer.close()

    try:
        yield ask
    finally:
        await client.close()


def _posting(session: aiohttp.ClientSession, url: str) -> Ask:
    async def ask() -> bytes:
        async with session.post(url, data=BODY, headers=HEADERS, allow_redirects=False) as response:
            return await response.read()

    return ask


@asynccontextmanager
async def _aiohttp(url: str) -> AsyncIterator[Ask]:
    """What discovery uses: names and addresses are checked."""
    async with egress.client_session(allow_private=True) as session:
        yield _posting(session, url)


@asynccontextmanager
async def _aiohttp_tuned(url: str) -> AsyncIterator[Ask]:
    """Without limits, cookies, decompression, default headers and timers."""
    connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=300, enable_cleanup_closed=False)
    async with aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent"),
        timeout=aiohttp.ClientTimeout(total=None),
    ) as session:
        yield _posting(session, url)


@asynccontextmanager
async def _httpx(url: str) -> AsyncIterator[Ask]:
    """What OpenAI's own client asks with."""
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx2.AsyncClient(limits=limits, trust_env=False) as client:

        async def ask() -> bytes:
            return (await client.post(url, content=BODY, headers=HEADERS)).content

        yield ask


CLIENTS: Final = {"ours": _ours, "aiohttp": _aiohttp, "aiohttp_tuned": _aiohttp_tuned, "httpx": _httpx}


async def _asked(name: str, url: str, seconds: float) -> dict[str, float]:
    async with CLIENTS[name](url) as ask:
        expected = await ask()
        await _all(ask, WARMING_S, expected)
        cpu, begun = time.process_time(), time.perf_counter()
        count = await _all(ask, seconds, expected)
        took = time.perf_counter() - begun
        return {
            "requests_per_s": round(count / took, 1),
            "cpu_us": round((time.process_time() - cpu) / count * 1e6, 1),
        }


async def _all(ask: Ask, seconds: float, expected: bytes) -> int:
    """How many were answered."""
    until = time.perf_counter() + seconds

    async def asking() -> int:
        count = 0
        while time.perf_counter() < until:
            if await ask() != expected:
                raise RuntimeError("the upstream answered something else")
            count += 1
        return count

    async with asyncio.timeout(WITHIN_S):
        return sum(await asyncio.gather(*(asking() for _ in range(AT_ONCE))))


def main() -> None:
    """Ask, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("client", choices=CLIENTS)
    parser.add_argument("url")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    given = parser.parse_args()
    print(json.dumps(uvloop.run(_asked(given.client, given.url, given.seconds))))


if __name__ == "__main__":
    main()
