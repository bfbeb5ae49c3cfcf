"""What a failover adds to a request beyond the attempt that failed."""

from __future__ import annotations

import json
import time
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
from tests.bench.figures import percentiles
from tests.support.gateway import candidate, running_gateway
from tests.support.upstream import Behaviour, FakeProvider

from synaxis_cli.embedded.nats import NatsServer

REQUESTS = 300
FAILING_EVERY = 3
"""Less often than what opens a circuit."""
BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hello"}]}).encode()


async def measure(rounds: int) -> dict[str, Any]:
    """One gateway and two providers, the first of which fails every third request at once."""
    requests = rounds * REQUESTS
    with TemporaryDirectory() as folder:
        async with AsyncExitStack() as stack:
            server = NatsServer(Path(folder))
            server.start()
            stack.callback(server.stop)
            first = await stack.enter_async_context(FakeProvider("first"))
            second = await stack.enter_async_context(FakeProvider("second"))
            url = f"nats://127.0.0.1:{server.port}"
            rig = await stack.enter_async_context(running_gateway(url, candidate(first), candidate(second)))
            session = await stack.enter_async_context(aiohttp.ClientSession(headers=rig.headers))
            took: dict[str, float] = {}
            for number in range(requests):
                if number % FAILING_EVERY == 0:
                    first.next_behaviours.append(Behaviour(status=500))
                begun = time.perf_counter()
                async with session.post(f"{rig.url}/v1/chat/completions", data=BODY) as answer:
                    await answer.read()
                took[answer.headers["x-request-id"]] = time.perf_counter() - begun
            await rig.report(requests, timeout=30)
            plain: list[float] = []
            failed_over: list[float] = []
            for report in rig.reports:
                total_s = took[str(report.request_id)]
                if len(report.attempts) == 1:
                    plain.append(total_s)
                else:
                    failed_over.append(total_s - report.attempts[0].latency_s)
    usual_s = percentiles(plain)["p50"] / 1e3
    added = percentiles([each - usual_s for each in failed_over])
    return {"requests": len(took), "failed_over": len(failed_over)} | {
        f"beyond_the_failed_attempt_{place}_ms": took_ms for place, took_ms in added.items()
    }
