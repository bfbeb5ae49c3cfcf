"""How long after a poll has seen a change its event is in a subscriber's hand."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from nats.aio.msg import Msg
from tests.bench.figures import percentiles
from tests.support.registry import MODEL, Rig, eventually, running_registries

from synaxis_cli.embedded.nats import NatsServer
from synaxis_cli.embedded.postgres import PostgresServer
from synaxis_common import ids, subjects
from synaxis_common.contracts.catalog import Prices
from synaxis_common.contracts.observation import ObservedModel, PollOutcome, ProviderObservation
from synaxis_common.service import look_for_cycles_seldom
from synaxis_discovery.poll import encoded

POLLS = 100
MANY = 5_000
PATIENCE_S = 60.0


class Subscriber:
    """Counts events of new prices, and notes when each came."""

    def __init__(self) -> None:
        self.came: list[float] = []
        self.enough = asyncio.Event()
        self.wanted = 0

    async def take(self, _message: Msg) -> None:
        """One event."""
        self.came.append(time.perf_counter())
        if len(self.came) >= self.wanted:
            self.enough.set()

    async def wait_for(self, count: int) -> None:
        """Until so many more have come. Raises TimeoutError."""
        self.wanted = count
        if len(self.came) < count:
            self.enough.clear()
            async with asyncio.timeout(PATIENCE_S):
                await self.enough.wait()


def poll(models: int, price: Decimal) -> ProviderObservation:
    """What discovery tells of a provider with so many models, all at this price."""
    return ProviderObservation(
        poll_id=ids.uuid7(),
        provider_id="alpha",
        observed_at=datetime.now(UTC),
        outcome=PollOutcome.OK,
        models=tuple(
            ObservedModel(
                provider_model_id=f"{MODEL}-{number}" if number else MODEL,
                prices=Prices(input=price, output=price),
            )
            for number in range(models)
        ),
    )


async def tell(rig: Rig, observation: ProviderObservation) -> None:
    """As discovery does."""
    message_id = str(observation.poll_id)
    await rig.bus.store(subjects.observation("alpha"), encoded(observation), message_id)


async def settle_in(rig: Rig, models: int) -> None:
    """Have the provider known with its models, none of whose events will come any more."""
    await tell(rig, poll(models, Decimal("0.10")))

    async def is_there() -> bool:
        known = await rig.database.fetchval("SELECT count(*) FROM provider_model WHERE is_available")
        waiting = await rig.database.fetchval("SELECT count(*) FROM outbox")
        return bool(known == models and not waiting)

    await eventually(is_there, f"{models} models are available", within_s=PATIENCE_S)


async def measure(rounds: int) -> dict[str, Any]:
    """One registry, one plain subscriber of the subject."""
    look_for_cycles_seldom()  # as services do
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        folder.chmod(0o755)
        bus, postgres = NatsServer(folder / "nats"), PostgresServer(folder / "postgres")
        for server in (bus, postgres):
            server.start()
            stack.callback(server.stop)
        rig = await stack.enter_async_context(
            running_registries(f"nats://127.0.0.1:{bus.port}", postgres.url())
        )
        subscriber = Subscriber()
        await rig.bus.client.subscribe(f"{subjects.EVENTS}.model.repriced.>", cb=subscriber.take)
        await rig.put_provider("alpha")
        await settle_in(rig, 1)
        seen: list[float] = []
        for number in range(rounds * POLLS):
            changed = poll(1, Decimal("0.10") + Decimal(number + 1) / 10_000)
            begun = time.perf_counter()
            await tell(rig, changed)
            await subscriber.wait_for(number + 1)
            seen.append(subscriber.came[-1] - begun)
        await settle_in(rig, MANY)
        subscriber.came.clear()
        begun = time.perf_counter()
        await tell(rig, poll(MANY, Decimal("0.15")))
        await subscriber.wait_for(MANY)
        last_s = subscriber.came[MANY - 1] - begun
    return {f"poll_to_subscriber_{place}_ms": took_ms for place, took_ms in percentiles(seen).items()} | {
        f"last_of_{MANY}_s": round(last_s, 2)
    }
