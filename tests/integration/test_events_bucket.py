"""The bucket `synaxis-availability` and the stream of events, read together as subscribers are told to."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError
from tests.support.events import World, stored, world_at
from tests.support.registry import eventually

from synaxis_cli.embedded.nats import NatsServer
from synaxis_common import subjects
from synaxis_common.contracts.events import (
    CURSOR_KEY,
    Availability,
    AvailabilityCursor,
    CloudEvent,
    ModelChange,
)

KV = f"KV_{subjects.BUCKET_AVAILABILITY}"
Key = tuple[str, str]


@dataclass
class Subscriber:
    """Reads the bucket, then follows the stream, just as `Availability` says."""

    jetstream: JetStreamContext
    cursor: AvailabilityCursor | None = None
    states: dict[Key, Availability] = field(default_factory=dict)
    heard: dict[Key, list[CloudEvent]] = field(default_factory=dict)

    async def read_bucket(self) -> None:
        """The cursor, the values, and the cursor once more."""
        while True:
            cursor = await self._read_cursor()
            if cursor is not None:
                self.states = await self._read_values()
                again = await self._read_cursor()
                if again is not None and again.stream_created == cursor.stream_created:
                    self.cursor = cursor
                    return
            await asyncio.sleep(0.05)

    async def follow(self, until: Callable[[], bool]) -> None:
        """The events after the cursor, without those that a value includes."""
        assert self.cursor is not None
        place = self.cursor.stream_sequence
        while True:
            is_last = until()
            last = (await self.jetstream.stream_info(subjects.STREAM_EVENTS)).state.last_seq
            for sequence in range(place + 1, last + 1):
                message = await self.jetstream.get_msg(subjects.STREAM_EVENTS, sequence)
                self._hear(sequence, CloudEvent.model_validate_json(message.data or b""))
            place = last
            if is_last:
                return
            await asyncio.sleep(0.02)

    def _hear(self, sequence: int, event: CloudEvent) -> None:
        assert isinstance(event.data, ModelChange)
        key = (event.data.provider_id, event.data.provider_model_id)
        if key not in self.states or sequence > self.states[key].stream_sequence:
            self.heard.setdefault(key, []).append(event)

    async def _read_cursor(self) -> AvailabilityCursor | None:
        try:
            bucket = await self.jetstream.key_value(subjects.BUCKET_AVAILABILITY)
            value = (await bucket.get(CURSOR_KEY)).value
        except NotFoundError:
            return None
        return AvailabilityCursor.model_validate_json(value or b"")

    async def _read_values(self) -> dict[Key, Availability]:
        """All values, in the order in which they were written: what changes meanwhile comes once more."""
        found: dict[Key, Availability] = {}
        place = 0
        while True:
            try:
                message = await self.jetstream.get_msg(
                    KV, seq=place + 1, subject=f"$KV.{subjects.BUCKET_AVAILABILITY}.*.*", next=True
                )
            except NotFoundError:
                return found
            place = message.seq or 0
            state = Availability.model_validate_json(message.data or b"")
            found[state.provider_id, state.provider_model_id] = state


def number_of(event: CloudEvent) -> int:
    assert isinstance(event.data, ModelChange)
    return int(event.data.cause.detail or "")


@pytest.fixture
async def world(fresh_nats_url: str, fresh_database_url: str) -> AsyncIterator[World]:
    async with world_at(fresh_nats_url, fresh_database_url) as made:
        yield made


MODELS = [(provider_id, f"m-{number}") for provider_id in ("alpha", "beta") for number in range(6)]


async def test_subscribers_that_start_at_any_moment_miss_nothing_and_hear_nothing_twice(world: World) -> None:
    chance = random.Random(11)
    is_over = False
    for _ in range(2):
        await world.run()
    first = Subscriber(world.bus.jetstream)
    await first.read_bucket()
    assert first.states == {}

    async def commit(provider_id: str) -> None:
        own = [key for key in MODELS if key[0] == provider_id]
        for _ in range(150):
            await world.flip(*chance.choice(own))

    async def subscribe() -> Subscriber:
        begins_at = chance.randint(0, 250)

        async def has_come() -> bool:
            return (await world.bus.jetstream.stream_info(subjects.STREAM_EVENTS)).state.last_seq >= begins_at

        await eventually(has_come, f"{begins_at} of 300 events are there")
        subscriber = Subscriber(world.bus.jetstream)
        await subscriber.read_bucket()
        await subscriber.follow(lambda: is_over)
        return subscriber

    async def change() -> None:
        nonlocal is_over
        await asyncio.gather(commit("alpha"), commit("beta"))
        await eventually(world.is_drained, "all is published")
        is_over = True

    starting = [asyncio.create_task(subscribe()) for _ in range(10)]
    await asyncio.gather(first.follow(lambda: is_over), change())
    subscribers = await asyncio.gather(*starting)
    everything = [event for _, event in await stored(world.bus.jetstream)]
    for subscriber in (first, *subscribers):
        for key in MODELS:
            all_of_it = [number_of(event) for event in everything if key_of(event) == key]
            heard = [number_of(event) for event in subscriber.heard.get(key, [])]
            state = subscriber.states.get(key)
            known = -1 if state is None else number_in(state, everything)
            assert [*range(known + 1), *heard] == all_of_it, key
    assert any(one.states for one in subscribers), "somebody came late"


def key_of(event: CloudEvent) -> Key:
    assert isinstance(event.data, ModelChange)
    return event.data.provider_id, event.data.provider_model_id


def number_in(state: Availability, everything: list[CloudEvent]) -> int:
    event = everything[state.stream_sequence - 1]
    assert key_of(event) == (state.provider_id, state.provider_model_id)
    assert event.sequence == state.sequence
    assert isinstance(event.data, ModelChange)
    assert (state.is_available, state.reason) == (event.data.after.is_available, event.data.after.reason)
    return number_of(event)


async def test_a_bus_that_lost_everything_is_filled_from_the_database(
    tmp_path: Path, fresh_database_url: str
) -> None:
    server = NatsServer(tmp_path / "nats")
    server.start()
    try:
        async with world_at(server.url, fresh_database_url) as world:
            await world.run()
            for key in MODELS:
                await world.flip(*key)
            await eventually(world.is_drained, "all is published")
            server.kill()
            shutil.rmtree(tmp_path / "nats" / "jetstream")
            for key in MODELS[:3]:
                await world.flip(*key)  # committed, and told of only when the bus is back
            server.start()
            subscriber = Subscriber(world.bus.jetstream)
            await subscriber.read_bucket()
            await eventually(world.is_drained, "the rest is published")
            await subscriber.follow(lambda: True)
            for key in MODELS:
                heard = [number_of(event) for event in subscriber.heard.get(key, [])]
                state = subscriber.states[key]
                if key in MODELS[:3]:
                    assert (state.is_available, heard) in [(True, [1]), (False, [])]
                else:
                    assert (state.is_available, heard) == (True, [])
    finally:
        server.kill()


async def test_a_bucket_is_filled_with_what_the_events_so_far_tell(world: World) -> None:
    await world.flip("alpha", "known")
    drainer = await world.drainer()
    await world.database.run(drainer.drain)
    await world.flip("alpha", "known")
    await world.flip("alpha", "new")
    await world.bus.jetstream.purge_stream(KV)
    taken: list[dict[Key, Availability]] = []
    publish = drainer._publish

    async def look_first(*arguments: object) -> list[int]:
        subscriber = Subscriber(world.bus.jetstream)
        await subscriber.read_bucket()
        taken.append(subscriber.states)
        return await publish(*arguments)  # type: ignore[arg-type]

    drainer._publish = look_first  # type: ignore[method-assign, assignment]
    await world.database.run(drainer.drain)
    (before,) = taken
    assert {key: state.is_available for key, state in before.items()} == {("alpha", "known"): True}
    after = Subscriber(world.bus.jetstream)
    await after.read_bucket()
    assert {key: state.is_available for key, state in after.states.items()} == {
        ("alpha", "known"): False,
        ("alpha", "new"): True,
    }
    assert after.cursor is not None
    assert after.cursor.stream_sequence == 3


@pytest.mark.parametrize("what", ["bucket", "stream"])
async def test_a_bucket_or_a_stream_that_was_taken_away_is_made_anew(world: World, what: str) -> None:
    drainer = await world.drainer()
    await world.flip("alpha", "a")
    await world.flip("alpha", "b")
    await world.database.run(drainer.drain)
    await world.bus.jetstream.delete_stream(KV if what == "bucket" else subjects.STREAM_EVENTS)
    await world.flip("alpha", "a")
    task = asyncio.create_task(drainer.run())
    world.drainers.append(task)
    await eventually(world.is_drained, "all is published")
    subscriber = Subscriber(world.bus.jetstream)
    await subscriber.read_bucket()
    await subscriber.follow(lambda: True)
    assert {key: state.is_available for key, state in subscriber.states.items()} == {
        ("alpha", "a"): False,
        ("alpha", "b"): True,
    }
    assert subscriber.heard == {}
    assert subscriber.cursor is not None
    assert subscriber.cursor.stream_sequence == (3 if what == "bucket" else 1)
