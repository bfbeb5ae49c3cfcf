"""How long after a provider fails live traffic at one gateway every other gateway avoids it."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import SecretStr
from tests.bench.figures import percentiles

from synaxis_cli.embedded.nats import NatsServer
from synaxis_common.bus import Bus
from synaxis_common.clock import SystemClock
from synaxis_common.contracts.routing import Candidate
from synaxis_common.settings import ServiceSettings
from synaxis_gateway.dispatch import classify
from synaxis_gateway.dispatch.cooldown import TRIP_AFTER
from synaxis_gateway.dispatch.sharing import Sharing

GATEWAYS = 16
ROUNDS = 50
FAILED = classify.malformed("failed")


def candidate(provider: str) -> Candidate:
    """Somebody who can be avoided."""
    return Candidate(
        provider_id=provider,
        provider_model_id="m",
        global_model_id="m",
        base_url="https://x.example/v1",
        kind="openai",
    )


async def seconds_to_avoid(gateways: list[Sharing], number: int) -> float:
    """From the last failure that is needed, at one gateway, until the last gateway prefers another one."""
    first, second = candidate(f"p{number}"), candidate("other")
    clock = SystemClock()
    seer, *others = gateways[number % GATEWAYS :] + gateways[: number % GATEWAYS]
    for _ in range(TRIP_AFTER):
        seer.cooldowns.failed(first, FAILED, clock.monotonic())
    begun = time.perf_counter()
    for other in others:
        while other.cooldowns.order((first, second), clock.monotonic())[0] is first:
            await asyncio.sleep(0.0005)
    return time.perf_counter() - begun


async def measure(rounds: int) -> dict[str, Any]:
    """Many gateways on one real bus."""
    with TemporaryDirectory() as folder:
        async with AsyncExitStack() as stack:
            server = NatsServer(Path(folder))
            server.start()
            stack.callback(server.stop)
            gateways = []
            for number in range(GATEWAYS):
                bus = Bus(ServiceSettings(nats_url=SecretStr(server.url)), f"bench-{number}")
                await bus.connect()
                stack.push_async_callback(bus.close)
                sharing = Sharing(bus, SystemClock(), f"gateway-{number}")
                await sharing.listen()
                telling = asyncio.create_task(sharing.run())
                stack.callback(telling.cancel)
                gateways.append(sharing)
            found = percentiles(
                [await seconds_to_avoid(gateways, number) for number in range(rounds * ROUNDS)]
            )
    return {f"avoided_by_all_after_{place}_ms": took_ms for place, took_ms in found.items()}
