"""What readers of events want, and the hub that holds the newest for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synaxis_common import subjects
from synaxis_common.contracts.events import EventType
from synaxis_common.contracts.routing import ModelsPage, ModelsRequest, RefusalCode
from synaxis_common.wanted import ALL_SUBJECTS, MAX_SUBJECTS, NoSuchEvent, wanted
from synaxis_gateway.events.hub import Hub
from synaxis_gateway.events.stream import Bounds, EventStream, Piece, ReadingLost, StoredEvent
from synaxis_gateway.events.tenants import by_registry
from synaxis_gateway.http.errors import ApiError
from synaxis_gateway.routing import Registry

NAMES = st.lists(st.sampled_from(["p", "q.1", "a/b", "*", ">", "ü"]), max_size=3)
EVENTS = st.lists(st.sampled_from([*EventType, "model", "provider", "tenant", "tenant.budget"]), max_size=3)
SUBJECTS = [
    *(subjects.model_event(kind, "q.1", "a/b") for kind in ("available", "retired")),
    subjects.model_event("available", "p", "p"),
    subjects.provider_event("disabled", "p"),
    subjects.provider_event("recovered", "ü"),
    f"{subjects.EVENTS}.tenant.budget.exhausted.acme",
    f"{subjects.EVENTS}.tenant.budget.threshold.rival",
]


def fits(pattern: str, subject: str) -> bool:
    """Whether NATS delivers `subject` to a subscription of `pattern`."""
    wish, has = pattern.split("."), subject.split(".")
    if wish[-1] == ">":
        return len(has) >= len(wish) and all(a in ("*", b) for a, b in zip(wish[:-1], has, strict=False))
    return len(wish) == len(has) and all(a in ("*", b) for a, b in zip(wish, has, strict=True))


@given(EVENTS, NAMES, NAMES, st.sampled_from([None, "acme"]))
def test_the_filters_of_the_stream_let_through_all_that_is_wanted_and_nothing_else(
    events: list[str], providers: list[str], models: list[str], tenant_id: str | None
) -> None:
    try:
        asked = wanted(events, providers, models, tenant_id)
    except NoSuchEvent:
        return
    filters = asked.subjects()
    for subject in SUBJECTS:
        matching = [each for each in filters if fits(each, subject)]
        assert bool(matching) == asked.takes(subject), subject
        assert len(matching) <= 1, "filters of a consumer must not overlap"


def test_names_with_commas_are_lists() -> None:
    assert wanted(["model.available, model.retired"], ["p,q"], [], None) == wanted(
        ["model.available", "model.retired"], ["p", "q"], [], None
    )


@pytest.mark.parametrize("name", ["model.avail", "models", "*", ">", "model.available.p", "tenant.budget.x"])
def test_an_event_that_there_is_not_is_refused(name: str) -> None:
    with pytest.raises(NoSuchEvent, match=r"model\.available"):
        wanted([name], [], [], None)


def test_filters_that_exclude_each_other_are_refused() -> None:
    with pytest.raises(NoSuchEvent):
        wanted(["provider"], [], ["m"], None)


def test_with_very_many_filters_everything_is_read() -> None:
    asked = wanted([], [f"p{number}" for number in range(MAX_SUBJECTS)], [], None)
    assert asked.subjects() == ALL_SUBJECTS
    assert asked.takes(subjects.model_event("available", "p1", "m"))
    assert not asked.takes(subjects.model_event("available", "q", "m"))


def test_a_tenant_does_not_get_the_budgets_of_others() -> None:
    asked = wanted(["tenant"], [], [], "acme")
    assert asked.takes(f"{subjects.EVENTS}.tenant.budget.exhausted.acme")
    assert not asked.takes(f"{subjects.EVENTS}.tenant.budget.exhausted.rival")


def test_a_frame_names_place_type_and_event() -> None:
    event = StoredEvent(7, f"{subjects.EVENTS}.tenant.budget.exhausted.acme", b'{"a":1}')
    assert event.frame == b'id: 7\nevent: tenant.budget.exhausted\ndata: {"a":1}\n\n'


class FakeStream:
    """A stream whose events a test says."""

    def __init__(self, first: int, last: int) -> None:
        self.bounds_now = Bounds(datetime(2026, 7, 1, tzinfo=UTC), first, last)
        self.begun_after: list[int] = []
        self.pieces: asyncio.Queue[Piece | None] = asyncio.Queue()

    async def bounds(self) -> Bounds:
        return self.bounds_now

    @asynccontextmanager
    async def reading(self, after: int, _filters: Sequence[str]) -> AsyncIterator[AsyncIterator[Piece]]:
        self.begun_after.append(after)

        async def pieces() -> Any:
            while True:
                piece = await self.pieces.get()
                if piece is None:
                    raise ReadingLost("gone")
                yield piece

        async with aclosing(pieces()) as source:
            yield source

    def say(self, *sequences: int) -> None:
        events = (
            StoredEvent(number, f"{subjects.EVENTS}.model.available.p.m", b"{}") for number in sequences
        )
        self.pieces.put_nowait(Piece(tuple(events), is_all=True))


@asynccontextmanager
async def running(stream: FakeStream, kept: int) -> AsyncIterator[Hub]:
    hub = Hub(cast("EventStream", stream), kept)
    task = asyncio.create_task(hub.run())
    try:
        yield hub
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(hub: Hub, position: int) -> None:
    async with asyncio.timeout(5):
        while hub.position != position:
            await hub.news().wait()


async def test_a_hub_holds_the_newest_and_says_how_far_back_it_goes() -> None:
    stream = FakeStream(1, 0)
    async with running(stream, kept=3) as hub:
        stream.say(1, 2, 3, 4, 5)
        await until(hub, 5)
        assert hub.oldest == 2
        assert [event.sequence for event in hub.after(2, 10)] == [3, 4, 5]
        assert [event.sequence for event in hub.after(2, 2)] == [3, 4]
        assert [event.sequence for event in hub.after(4, 10)] == [5]
        assert hub.after(5, 10) == []


async def test_a_hub_is_ready_when_it_has_read_what_was_there() -> None:
    stream = FakeStream(1, 2)
    async with running(stream, kept=3) as hub:
        assert not hub.is_ready
        stream.say(1)
        await until(hub, 1)
        assert not hub.is_ready
        stream.say(2)
        await until(hub, 2)
        assert hub.is_ready


async def test_a_hub_goes_on_where_it_was_when_its_reading_is_lost() -> None:
    stream = FakeStream(1, 0)
    async with running(stream, kept=8) as hub:
        stream.say(1, 2)
        stream.pieces.put_nowait(None)
        stream.bounds_now = Bounds(stream.bounds_now.created, 1, 3)
        stream.say(3)
        await until(hub, 3)
        assert stream.begun_after == [0, 2]
        assert hub.lives == 1


async def test_a_hub_begins_anew_when_the_stream_was_lost() -> None:
    stream = FakeStream(1, 0)
    async with running(stream, kept=8) as hub:
        stream.say(1, 2)
        await until(hub, 2)
        stream.bounds_now = Bounds(datetime(2026, 7, 2, tzinfo=UTC), 1, 5)
        stream.pieces.put_nowait(None)
        await until(hub, 0)
        assert (hub.lives, hub.oldest, hub.after(0, 9)) == (2, 0, [])


class FakeRegistry:
    """Registries that know one key."""

    async def models(self, request: ModelsRequest) -> ModelsPage:
        if request.key_hash == "known":
            return ModelsPage(tenant_id="acme")
        return ModelsPage(refusal=RefusalCode.INVALID_API_KEY)


async def test_the_registries_say_whose_a_key_is() -> None:
    tenant_of = by_registry(cast("Registry", FakeRegistry()))
    assert await tenant_of("known") == "acme"
    with pytest.raises(ApiError) as refused:
        await tenant_of("unknown")
    assert refused.value.status == 401
