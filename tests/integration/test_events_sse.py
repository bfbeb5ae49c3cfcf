"""`GET /v1/events` as its readers see it: nothing is missed, nothing comes twice, nobody is kept for ever."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from tests.support.events import (
    ADMIN_KEY,
    Frame,
    Gateway,
    World,
    about_provider,
    change,
    gateway_at,
    take,
    world_at,
)
from tests.support.registry import eventually

from synaxis_cli.embedded.nats import NatsServer
from synaxis_common import subjects
from synaxis_common.bus import STREAMS
from synaxis_gateway.http import events as events_module


@pytest.fixture
async def world(fresh_nats_url: str, fresh_database_url: str) -> AsyncIterator[World]:
    async with world_at(fresh_nats_url, fresh_database_url) as made:
        await made.run()
        yield made


@pytest.fixture
async def gateway(world: World) -> AsyncIterator[Gateway]:
    async with gateway_at(world.nats_url) as made:
        yield made


def numbers(frames: list[Frame]) -> list[tuple[str, str]]:
    return [(frame.data["data"]["provider_id"], frame.data["data"]["after"]["reason"]) for frame in frames]


async def test_a_reader_gets_what_happens_as_it_happens(world: World, gateway: Gateway) -> None:
    await world.change("alpha", 0)
    await eventually(lambda: reached(gateway, 1), "the first is there")
    async with gateway.reading() as frames:
        await anext(frames)
        await anext(frames)
        await world.change("alpha", 1)
        (frame,) = await take(frames, 1)
    assert (frame.id, frame.event) == (2, "model.unavailable")
    assert frame.data["specversion"] == "1.0"
    assert frame.data["subject"] == "alpha/m.1"


async def reached(gateway: Gateway, position: int) -> bool:
    return gateway.hub.position >= position


FILTERS = {
    "": [1, 2, 3, 4, 5],
    "?event=model.available": [1],
    "?event=model": [1, 2, 3],
    "?event=provider,tenant.budget": [4, 5],
    "?provider=beta": [3, 4],
    "?provider=alpha&provider=beta&event=model": [1, 2, 3],
    "?model=other/model": [2],
}
"""With the positions of the events that they let through."""


async def test_filters_choose_by_event_provider_and_model(world: World, gateway: Gateway) -> None:
    await world.change("alpha", 0)
    await world.change("alpha", 1, "other/model")
    await world.change("beta", 1)
    await world.commit("beta", [about_provider("beta")])
    await world.spend("acme")
    await world.spend("rival")
    await eventually(lambda: reached(gateway, 6), "all is there")
    async with gateway_at(world.nats_url, kept=1) as far_behind:
        for query, wanted in FILTERS.items():
            for one in (gateway, far_behind):
                async with one.reading(query, last_id=0, key=one.key) as frames:
                    assert [frame.id for frame in await take(frames, len(wanted))] == wanted, query


async def test_budgets_are_told_to_their_tenant_and_to_the_admin(world: World, gateway: Gateway) -> None:
    for tenant_id in ("acme", "rival", "acme"):
        await world.spend(tenant_id)
    await world.change("alpha", 0)
    await eventually(lambda: reached(gateway, 4), "all is there")
    async with gateway.reading(last_id=0) as frames:
        assert [frame.id for frame in await take(frames, 3)] == [1, 3, 4]
    async with gateway.reading(last_id=0, key=gateway.new_key("rival")) as frames:
        assert [frame.id for frame in await take(frames, 2)] == [2, 4]
    async with gateway.reading(last_id=0, key=ADMIN_KEY, path="/admin/v1/events") as frames:
        assert [frame.id for frame in await take(frames, 4)] == [1, 2, 3, 4]
    assert await gateway.refused(path="/admin/v1/events") == (401, "invalid_api_key")


async def test_wrong_questions_and_wrong_keys_are_refused(gateway: Gateway) -> None:
    assert await gateway.refused("?event=model.avail") == (400, "invalid_request")
    assert await gateway.refused("?event=provider&model=m") == (400, "invalid_request")
    assert await gateway.refused("?last_event_id=-1") == (400, "invalid_request")
    assert await gateway.refused("?last_event_id=99999999999999999999999") == (400, "invalid_request")
    assert await gateway.refused(key="sk-nobody") == (401, "invalid_api_key")


@pytest.mark.parametrize("kept", [4, 8_192])
async def test_a_reader_that_comes_back_gets_exactly_what_it_missed(world: World, kept: int) -> None:
    await world.commit("alpha", [change("alpha", number) for number in range(700)])
    async with gateway_at(world.nats_url, kept) as gateway:
        await eventually(lambda: reached(gateway, 700), "all is there")
        async with gateway.reading("?last_event_id=100") as frames:
            assert [frame.id for frame in await take(frames, 600)] == list(range(101, 701))
            await world.change("alpha", 700)
            assert [frame.id for frame in await take(frames, 1)] == [701]


async def test_readers_that_come_and_go_while_the_bus_restarts_miss_nothing_and_get_nothing_twice(
    tmp_path: Path, fresh_database_url: str
) -> None:
    server = NatsServer(tmp_path / "nats")
    server.start()
    chance = random.Random(3)
    try:
        async with (
            world_at(server.url, fresh_database_url) as world,
            gateway_at(server.url, kept=16) as gateway,
        ):
            await world.run()

            async def commit() -> None:
                for number in range(200):
                    await world.change("alpha", number)
                    await asyncio.sleep(chance.uniform(0, 0.02))

            async def read(number: int) -> list[str]:
                found: list[Frame] = []
                while len(found) < 200:
                    last_id = (found[-1].id or 0) if found else 0
                    stay = len(found) + (200 if number == 0 else chance.randint(1, 60))
                    # Cut off, since it fell behind; or ended, since the bus went away while it caught up.
                    with contextlib.suppress(aiohttp.ClientPayloadError, StopAsyncIteration):
                        async with gateway.reading(last_id=last_id) as frames:
                            while len(found) < min(stay, 200):
                                found += await take(frames, 1)
                return [frame.data["data"]["after"]["reason"] for frame in found]

            async def restart() -> None:
                for _ in range(2):
                    await asyncio.sleep(0.7)
                    await asyncio.to_thread(server.kill)
                    await asyncio.to_thread(server.start)

            *found, _, _ = await asyncio.gather(*(read(number) for number in range(8)), commit(), restart())
            for one in found:
                assert one == [str(number) for number in range(200)]
    finally:
        server.kill()


async def test_an_event_is_there_soon_after_the_bus_came_back(
    tmp_path: Path, fresh_database_url: str
) -> None:
    server = NatsServer(tmp_path / "nats")
    server.start()
    try:
        async with world_at(server.url, fresh_database_url) as world, gateway_at(server.url) as gateway:
            await world.run()
            async with gateway.reading() as frames:
                server.kill()
                await world.change("alpha", 0)
                server.start()
                began = asyncio.get_running_loop().time()
                await take(frames, 1)
                assert asyncio.get_running_loop().time() - began < 6
    finally:
        server.kill()


async def test_a_reader_hears_of_events_that_the_stream_no_longer_has(world: World) -> None:
    await world.commit("alpha", [change("alpha", number) for number in range(10)])
    await eventually(world.is_drained, "all is published")
    await world.bus.jetstream.purge_stream(subjects.STREAM_EVENTS, seq=6)
    async with gateway_at(world.nats_url) as gateway, gateway.reading(last_id=2) as frames:
        gap, *events = await take(frames, 6)
        assert (gap.id, gap.event) == (5, "gap")
        assert (gap.data["last_event_id"], gap.data["continues_after"]) == ("2", "5")
        assert [frame.id for frame in events] == [6, 7, 8, 9, 10]


async def test_a_reader_hears_of_a_stream_that_was_lost(world: World, gateway: Gateway) -> None:
    await world.commit("alpha", [change("alpha", number) for number in range(3)])
    await eventually(lambda: reached(gateway, 3), "all is there")
    (config,) = (one for one in STREAMS if one.name == subjects.STREAM_EVENTS)
    async with gateway.reading(last_id=3) as frames:
        await world.bus.jetstream.delete_stream(subjects.STREAM_EVENTS)
        await world.bus.jetstream.add_stream(config)
        await world.change("alpha", 3)
        gap, event = await take(frames, 2, within_s=20)
    assert (gap.event, event.id, event.event) == ("gap", 1, "model.unavailable")
    async with gateway.reading(last_id=700) as frames:
        gap, event = await take(frames, 2)
    assert (gap.event, event.id) == ("gap", 1)


async def test_a_reader_that_does_not_read_is_cut_off(world: World) -> None:
    async with gateway_at(world.nats_url, kept=64, write_timeout_s=0.5) as gateway:
        host, port = "127.0.0.1", gateway.server.port
        reader, writer = await asyncio.open_connection(host, port, limit=1024)
        ended = events_module.ENDED.labels("too_slow")
        before = ended._value.get()
        writer.write(f"GET /v1/events HTTP/1.1\r\nHost: x\r\nx-api-key: {gateway.key}\r\n\r\n".encode())
        await reader.readline()

        async def is_cut() -> bool:
            await world.commit("alpha", [change("alpha", number) for number in range(2_000)])
            return bool(ended._value.get() > before)

        await eventually(is_cut, "it is cut off", within_s=40)
        writer.close()


async def test_there_is_room_for_so_many_readers_and_no_more(world: World) -> None:
    async with gateway_at(world.nats_url, max_readers=2) as gateway:
        async with gateway.reading() as first, gateway.reading() as second:
            await anext(first)
            await anext(second)
            assert await gateway.refused() == (503, "no_provider_available")
        await eventually(lambda: has_room(gateway), "there is room again")


async def has_room(gateway: Gateway) -> bool:
    try:
        async with gateway.reading() as frames:
            await anext(frames)
    except AssertionError:
        return False
    return True


async def test_silence_is_broken_by_signs_of_life(world: World) -> None:
    async with (
        gateway_at(world.nats_url, heartbeat_s=0.1) as gateway,
        gateway.reading("?provider=beta") as frames,
    ):
        await world.change("alpha", 0)
        async with asyncio.timeout(10):
            while (await anext(frames)).id != 1:
                pass


async def test_a_stopping_gateway_ends_its_readers_with_a_word_on_when_to_come_back(
    world: World, gateway: Gateway
) -> None:
    async with gateway.reading() as frames:
        await anext(frames)
        await anext(frames)
        gateway.hub.close()
        assert await gateway.server.finish(5)
        *_, last = [frame async for frame in frames]
        assert last.retry is not None
        assert 1_000 <= last.retry <= 4_000


async def test_a_reader_whose_key_is_revoked_is_cut_off(world: World) -> None:
    async with (
        gateway_at(world.nats_url, heartbeat_s=0.05, recheck_s=0.1) as gateway,
        gateway.reading() as frames,
    ):
        await anext(frames)
        gateway.tenants.clear()
        async with asyncio.timeout(10):
            assert [frame.event async for frame in frames if frame.event] == []
