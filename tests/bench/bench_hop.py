"""What the way from a gateway to a registry and back costs, and what of it the registry's answer does."""

from __future__ import annotations

import asyncio
import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import nats
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from tests.bench.registry_alone import Alone, process_cpu_s, registry_alone, run
from tests.support.registry import MODEL

from synaxis_common import ids, subjects
from synaxis_common.contracts.routing import Needs, RoutePlan, RouteReply, RouteRequest

ECHO = "synaxis.bench.v1.echo"
IN_FLIGHT = 64
QUESTIONS = 1_000
WARMING = 50
PLAIN, FASTSTREAM = "plain", "faststream"


async def measure(rounds: int) -> dict[str, Any]:
    """One question at a time, and 64: of a bare echo, of FastStream's, and of a registry."""
    found: dict[str, Any] = {}
    async with registry_alone() as alone:
        key_hash = await alone.rig.new_key("unlimited")
        limited = await alone.rig.new_limited_key(
            "limited", "*", {"allowed_rpm": 100_000_000, "monthly_budget_usd": "1000000"}
        )
        question = _question(key_hash)()
        for kind in (PLAIN, FASTSTREAM):
            async with _echo(kind, alone) as process:
                found[f"{kind}_echo"] = await _both(alone, ECHO, lambda: question, process, rounds)
        for name, key in (("registry", key_hash), ("registry_with_limits", limited)):
            found[name] = await _both(alone, subjects.ROUTE, _question(key), alone.registry, rounds)
    for place in ("p50", "p99"):
        found[f"answer_adds_{place}_us"] = round(
            found["registry"][f"alone_{place}_us"] - found["plain_echo"][f"alone_{place}_us"]
        )
    return found


def _question(key_hash: str) -> Callable[[], bytes]:
    """Requests of one kind, as a busy tenant's are."""

    def asked() -> bytes:
        request = RouteRequest(
            request_id=ids.uuid7(),
            key_hash=key_hash,
            model=MODEL,
            needs=Needs(input_tokens=512, max_output_tokens=128),
        )
        return request.to_bytes()

    return asked


async def _both(
    alone: Alone, subject: str, question: Callable[[], bytes], process: int, rounds: int
) -> dict[str, float]:
    client = alone.rig.bus.client
    for _ in range(WARMING):
        answer = (await client.request(subject, question(), timeout=5)).data
    if subject == subjects.ROUTE:
        assert isinstance(RouteReply.model_validate_json(answer).answer, RoutePlan), answer
    count = rounds * QUESTIONS
    took, _, one_us = await _asked(client, subject, question, process, count, at_once=1)
    before = alone.cpu()
    waited, seconds, many_us = await _asked(client, subject, question, process, count * 4, at_once=IN_FLIGHT)
    postgres_us = round(alone.cpu().since(before).postgres / len(waited) * 1e6)
    return {
        "alone_p50_us": round(statistics.median(took) * 1e6),
        "alone_p99_us": round(sorted(took)[-len(took) // 100] * 1e6),
        "alone_cpu_us": one_us,
        f"of_{IN_FLIGHT}_answers_per_s": round(len(waited) / seconds),
        f"of_{IN_FLIGHT}_p50_us": round(statistics.median(waited) * 1e6),
        f"of_{IN_FLIGHT}_p99_us": round(sorted(waited)[-len(waited) // 100] * 1e6),
        f"of_{IN_FLIGHT}_cpu_us": many_us,
        f"of_{IN_FLIGHT}_postgres_cpu_us": postgres_us,
    }


async def _asked(
    client: Client, subject: str, question: Callable[[], bytes], process: int, count: int, at_once: int
) -> tuple[list[float], float, float]:
    """Seconds that each answer took, that all took, and microseconds of CPU an answer took of `process`."""
    left, took = itertools.count(), list[float]()

    async def asking() -> None:
        while next(left) < count:
            data = question()
            begun = time.perf_counter()
            await client.request(subject, data, timeout=10)
            took.append(time.perf_counter() - begun)

    cpu, begun = process_cpu_s(process), time.perf_counter()
    await asyncio.gather(*(asking() for _ in range(at_once)))
    seconds = time.perf_counter() - begun
    return took, seconds, round((process_cpu_s(process) - cpu) / count * 1e6)


@asynccontextmanager
async def _echo(kind: str, alone: Alone) -> AsyncIterator[int]:
    """A process on the registry's core that sends back what it gets."""
    url = alone.rig.bus.client.connected_url
    assert url is not None
    process = _start(kind, url.geturl())
    os.sched_setaffinity(process.pid, os.sched_getaffinity(alone.registry))
    try:
        async with asyncio.timeout(20):
            while not await _is_there(alone.rig.bus.client):
                await asyncio.sleep(0.05)
        yield process.pid
    finally:
        process.terminate()
        process.wait(10)


def _start(kind: str, url: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "tests.bench.bench_hop", kind, url])


async def _is_there(client: Client) -> bool:
    try:
        await client.request(ECHO, b"{}", timeout=0.5)
    except (TimeoutError, nats.errors.Error):
        return False
    return True


async def _serve(kind: str, url: str) -> None:
    if kind == FASTSTREAM:
        from faststream.nats import NatsBroker

        broker = NatsBroker(url, logger=None)

        async def answer(body: dict[str, Any]) -> dict[str, Any]:
            return body

        broker.subscriber(ECHO, queue="echo", max_workers=IN_FLIGHT)(answer)
        await broker.start()
    else:
        client = await nats.connect(url)

        async def echo(message: Msg) -> None:
            await client.publish(message.reply, message.data)

        await client.subscribe(ECHO, queue="echo", cb=echo)
    await asyncio.Event().wait()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        import uvloop

        uvloop.run(_serve(sys.argv[1], sys.argv[2]))
    else:
        run(lambda: measure(1))
