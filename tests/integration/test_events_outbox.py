"""Every committed change becomes exactly one event, in order, whatever dies in between."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from nats.js import JetStreamContext
from tests.support.events import PROVIDERS, World, change, world_at
from tests.support.registry import eventually
from tests.support.stopwatch import Stopwatch

from synaxis_cli.embedded.nats import NatsServer
from synaxis_common import subjects
from synaxis_common.bus import BusUnavailable
from synaxis_common.contracts.events import ModelChange
from synaxis_registry import outbox as outbox_module
from synaxis_registry import publishing
from synaxis_registry.publishing import Outgoing, Overtaken
from synaxis_registry.store import catalog
from synaxis_registry.store.database import Connection


@pytest.fixture
async def world(fresh_nats_url: str, fresh_database_url: str) -> AsyncIterator[World]:
    async with world_at(fresh_nats_url, fresh_database_url) as made:
        yield made


def fail_after_publishing(
    monkeypatch: pytest.MonkeyPatch, fail: Callable[[], None], stream: str = subjects.STREAM_EVENTS
) -> None:
    """Once: everything is stored, and the drainer hears no more of it."""
    once = [fail]

    async def append(
        jetstream: JetStreamContext, name: str, last: int, messages: list[Outgoing]
    ) -> list[int]:
        sequences = await publishing.append(jetstream, name, last, messages)
        if name == stream and messages and once:
            once.pop()()
        return sequences

    monkeypatch.setattr(outbox_module, "append", append)


async def exactly_once(world: World) -> None:
    """Assert that the stream has what was committed, each once, in order for each provider."""
    await eventually(world.is_drained, "all is published", within_s=60)
    committed, events = await world.committed(), await world.stored()
    assert sorted(event.id for event in events) == sorted(committed)
    for provider_id in PROVIDERS:
        own = [
            event
            for event in events
            if isinstance(event.data, ModelChange) and event.data.provider_id == provider_id
        ]
        numbers = [int(event.data.after.reason or "") for event in own if isinstance(event.data, ModelChange)]
        assert numbers == sorted(numbers), provider_id
        assert [event.sequence for event in own] == sorted(event.sequence for event in own)


async def test_what_was_published_but_not_deleted_is_not_published_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        await world.change("alpha", number)

    def die() -> None:
        raise asyncio.CancelledError

    fail_after_publishing(monkeypatch, die)
    with pytest.raises(asyncio.CancelledError):
        await (await world.drainer()).run()
    assert len(await world.stored()) == 5
    assert not await world.is_drained()
    await world.change("alpha", 5)
    await world.run()
    await exactly_once(world)


async def test_this_holds_when_the_server_has_forgotten_the_message_ids(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = (await world.bus.jetstream.stream_info(subjects.STREAM_EVENTS)).config
    await world.bus.jetstream.update_stream(config.evolve(duplicate_window=0.1))
    await world.change("alpha", 0)

    def die() -> None:
        raise BusUnavailable("the acknowledgement was lost")

    fail_after_publishing(monkeypatch, die)
    drainer = await world.drainer()
    with pytest.raises(BusUnavailable):
        await world.database.run(drainer.drain)
    await asyncio.sleep(0.5)
    message = await world.bus.jetstream.get_msg(subjects.STREAM_EVENTS, 1)
    await world.database.run(drainer.drain)
    await exactly_once(world)
    again = await world.bus.jetstream.publish(
        message.subject or "", b"", headers={"Nats-Msg-Id": (message.headers or {})["Nats-Msg-Id"]}
    )
    assert not again.duplicate, "the server would have taken it twice"


async def test_a_drainer_that_was_stopped_and_goes_on_is_refused(world: World) -> None:
    stale, fresh = await world.drainer(), await world.drainer()
    await world.database.run(fresh.drain)
    await world.change("alpha", 0)
    is_held, go_on = asyncio.Event(), asyncio.Event()
    refused: list[str] = []

    async def hold(jetstream: JetStreamContext, name: str, last: int, messages: list[Outgoing]) -> list[int]:
        is_held.set()
        await go_on.wait()
        try:
            return await publishing.append(jetstream, name, last, messages)
        except Overtaken as error:
            refused.append(error.stream)
            raise

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outbox_module, "append", hold)
        sleeper = asyncio.create_task(stale.run())
        world.drainers.append(sleeper)
        await is_held.wait()
    await world.database.run(
        _end_the_holder_of_the_lock
    )  # as Postgres does with sessions that it takes for dead
    await world.change("alpha", 1)
    await world.database.run(fresh.drain)
    go_on.set()
    await eventually(lambda: _has(refused), "the one that was stopped tries")
    assert refused == [subjects.STREAM_EVENTS]
    await exactly_once(world)


async def _has(things: list[str]) -> bool:
    return bool(things)


async def _end_the_holder_of_the_lock(connection: Connection) -> None:
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
        " AND (classid::bigint << 32) | objid::bigint = hashtextextended('outbox', 0)"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )


async def test_two_registries_that_die_again_and_again_and_a_bus_that_restarts_publish_all_once(
    tmp_path: Path, fresh_database_url: str
) -> None:
    server = NatsServer(tmp_path / "nats")
    server.start()
    try:
        async with world_at(server.url, fresh_database_url) as world:
            for _ in range(2):
                await world.run()
            chance = random.Random(6)

            async def commit(provider_id: str) -> None:
                for number in range(150):
                    await world.change(provider_id, number)
                    await asyncio.sleep(chance.uniform(0, 0.02))

            async def kill() -> None:
                for round_number in range(12):
                    await asyncio.sleep(chance.uniform(0.05, 0.3))
                    match round_number % 3:
                        case 0:
                            world.drainers[0].cancel()
                            world.drainers.append(world.drainers.pop(0))
                            await world.run()
                        case 1:
                            await world.database.run(_end_the_holder_of_the_lock)
                        case _:
                            await asyncio.to_thread(server.kill)
                            await asyncio.to_thread(server.start)

            await asyncio.gather(*(commit(provider_id) for provider_id in PROVIDERS), kill())
            await exactly_once(world)
            assert len(await world.stored()) == 450
    finally:
        server.kill()


async def test_five_thousand_changes_at_once_are_published_within_five_seconds(world: World) -> None:
    async def work(connection: Connection) -> None:
        await catalog.add_events(connection, [change("alpha", number) for number in range(5_000)])

    await world.database.run(work)
    stopwatch = Stopwatch()
    await world.run()
    await eventually(world.is_drained, "all is published", within_s=60)
    assert stopwatch.s() < 5
    await exactly_once(world)
