"""Which models are available, after which polls, keys and live answers."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.registry.core_world import (
    CONFIRM,
    NOW,
    World,
    operators_provider,
    poll,
    prices,
    resolve,
    said,
)

from synaxis_common.contracts.events import Cause, EventType, ModelChange
from synaxis_common.contracts.observation import PollOutcome, ProviderObservation
from synaxis_registry.core.availability import (
    BACK_OFF_KEY_LEAST,
    BACK_OFF_LEAST,
    BACK_OFF_LONGEST,
    FORGIVE_AFTER,
    RETIRE_AFTER,
    discovery_target,
    forgive,
    not_found,
    observe,
    provider_switched,
)
from synaxis_registry.core.changes import ProviderUpdate
from synaxis_registry.core.effective import last_seen
from synaxis_registry.core.update import apply_provider

NOTHING = ProviderUpdate()
OPERATOR = Cause(kind="operator")


def watch(world: World, *polls: ProviderObservation) -> World:
    for one in polls:
        world.apply(
            observe(world.provider, world.rows, one, one.observed_at + timedelta(seconds=1), CONFIRM, resolve)
        )
    return world


def listing(*model_ids: str) -> World:
    """An operator's provider whose first list, at second 0, was good."""
    world = watch(World(operators_provider()), poll(0, *model_ids))
    world.told()
    return world


def from_models_dev(*model_ids: str) -> World:
    """A provider of models.dev with its key there, not yet polled."""
    world = World()
    world.apply(apply_provider(None, {}, said(*model_ids), NOW, resolve, {"ACME_API_KEY"}))
    world.told()
    return world


def next_poll_s(world: World) -> float | None:
    due = world.provider.next_poll_at
    return None if due is None else (due - NOW).total_seconds()


def test_new_models_are_taken_at_once() -> None:
    world = watch(World(operators_provider()), poll(0, "x/a", "b"))
    assert world.available() == {"x/a", "b"}
    assert world.rows["x/a"].global_model_id == "a"
    assert world.told() == [
        "model.discovered b",
        "model.available b",
        "model.discovered x/a",
        "model.available x/a",
    ]
    assert next_poll_s(world) is None


def test_a_missing_model_is_unavailable_when_a_second_list_half_a_minute_later_lacks_it() -> None:
    world = watch(listing("a", "b", "c"), poll(60, "a", "b"))
    assert world.available() == {"a", "b", "c"}, "a first miss is only a suspicion"
    assert next_poll_s(world) == 61 + 30
    watch(world, poll(80, "a", "b"))
    assert world.available() == {"a", "b", "c"}, "too soon to confirm"
    watch(world, poll(91, "a", "b"))
    assert world.available() == {"a", "b"}
    assert world.reasons()["c"] == "not_listed"
    assert world.told() == ["model.unavailable c"]
    watch(world, poll(3600, "a", "b", "c"))
    assert world.told() == ["model.available c"]


def test_a_model_that_is_back_in_the_second_list_was_never_gone() -> None:
    world = watch(listing("a", "b", "c"), poll(60, "a", "b"), poll(91, "a", "b", "c"), poll(130, "a", "b"))
    assert world.available() == {"a", "b", "c"}
    assert world.told() == []


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (PollOutcome.UNREACHABLE, "unreachable"),
        (PollOutcome.UNAUTHORIZED, "unauthorized"),
        (PollOutcome.NOT_A_MODEL_LIST, "not_a_model_list"),
    ],
)
def test_a_failure_counts_when_a_second_poll_confirms_it(outcome: PollOutcome, reason: str) -> None:
    world = watch(listing("a", "b"), poll(60, outcome=outcome))
    assert world.available() == {"a", "b"}
    assert next_poll_s(world) == 61 + 30
    watch(world, poll(92, outcome=outcome))
    assert world.reasons() == {"a": reason, "b": reason}
    assert world.told() == ["model.unavailable a", "model.unavailable b"]
    least = BACK_OFF_KEY_LEAST if outcome is PollOutcome.UNAUTHORIZED else BACK_OFF_LEAST
    assert next_poll_s(world) == 93 + least.total_seconds()
    watch(world, poll(125, "a", "b"))
    assert world.told() == ["model.available a", "model.available b"]
    assert world.provider.failures == 0


def test_a_provider_that_stays_down_is_asked_less_and_less_often_but_at_least_hourly() -> None:
    world = watch(listing("a"), poll(60, outcome=PollOutcome.UNREACHABLE))
    pauses: list[float] = []
    at = 100.0
    while at < 60 + 24 * 3_600:
        watch(world, poll(at, outcome=PollOutcome.UNREACHABLE))
        due = next_poll_s(world)
        assert due is not None
        pauses.append(round(due - at - 1, 3))
        at = due
    assert pauses[0] == BACK_OFF_LEAST.total_seconds()
    assert pauses == sorted(pauses), "less and less often"
    assert len(pauses) < 100
    assert pauses[-1] == BACK_OFF_LONGEST.total_seconds()


@pytest.mark.parametrize("short", [(), ("a",), ("new",)], ids=["empty", "lost most", "another list"])
def test_a_list_without_most_of_its_models_counts_as_a_failed_poll_until_confirmed(
    short: tuple[str, ...],
) -> None:
    world = watch(listing("a", "b", "c"), poll(60, *short))
    assert world.available() == {"a", "b", "c"}
    assert (world.provider.failures, next_poll_s(world)) == (1, 91)
    watch(world, poll(92, *short))
    assert world.available() == set(short)
    assert world.provider.failures == 0


def test_a_short_list_after_a_failure_does_not_bring_all_down() -> None:
    world = watch(listing("a", "b", "c"), poll(60, outcome=PollOutcome.UNREACHABLE), poll(92, "a"))
    assert world.available() == {"a", "b", "c"}
    watch(world, poll(123, "a", "b", "c"))
    assert world.told() == []


def test_a_rate_limited_poll_says_nothing() -> None:
    world = watch(
        listing("a"),
        poll(60, outcome=PollOutcome.UNREACHABLE),
        poll(100, outcome=PollOutcome.RATE_LIMITED),
    )
    assert world.available() == {"a"}
    assert world.provider.suspect_since is not None
    assert next_poll_s(world) is not None, "a suspicion waits for an answer"
    fine = watch(listing("a"), poll(60, outcome=PollOutcome.RATE_LIMITED))
    assert next_poll_s(fine) is None


def test_a_provider_that_was_never_polled_has_nothing_available() -> None:
    world = from_models_dev("a", "b")
    assert world.reasons() == {"a": "not_polled", "b": "not_polled"}
    assert world.provider.next_poll_at == NOW
    watch(world, poll(1, "a"))
    assert world.available() == {"a"}
    assert world.reasons()["b"] == "not_listed"
    assert world.told() == ["model.available a"], "b never was available"


def test_a_provider_that_answers_without_a_list_is_served_from_models_devs() -> None:
    world = watch(from_models_dev("a", "b"), poll(1, outcome=PollOutcome.NOT_A_MODEL_LIST))
    assert world.available() == set()
    watch(world, poll(40, outcome=PollOutcome.NOT_A_MODEL_LIST))
    assert world.available() == {"a", "b"}
    assert next_poll_s(world) is None
    watch(world, poll(3600, outcome=PollOutcome.UNREACHABLE), poll(3640, outcome=PollOutcome.UNREACHABLE))
    assert world.available() == set()
    watch(world, poll(3700, outcome=PollOutcome.NOT_A_MODEL_LIST))
    assert world.available() == {"a", "b"}
    watch(world, poll(7200, "a"))
    assert world.available() == {"a"}, "its own list counts as soon as there is one"


def test_a_key_that_comes_and_goes_switches_all_models() -> None:
    world = watch(from_models_dev("a"), poll(1, "a"))
    world.told()
    later = NOW + timedelta(hours=1)
    cause = Cause(kind="key")
    without = replace(world.provider, key_present=False)
    world.apply(provider_switched(world.provider, without, world.rows, later, cause))
    assert world.reasons() == {"a": "provider_off"}
    assert world.provider.next_poll_at is None
    assert world.told() == ["provider.disabled acme-ai", "model.unavailable a"]
    again = replace(world.provider, key_present=True)
    world.apply(provider_switched(world.provider, again, world.rows, later, cause))
    assert world.reasons() == {"a": "not_polled"}, "what another key was shown says nothing"
    assert world.provider.next_poll_at == later
    assert world.told() == ["provider.recovered acme-ai"]
    watch(world, poll(3700, "a"))
    assert world.told() == ["model.available a"]


def test_a_provider_without_discovery_is_available_from_models_devs_list_while_it_is_on() -> None:
    world = from_models_dev("a")
    off = replace(world.provider, discover=False)
    world.apply(provider_switched(world.provider, off, world.rows, NOW, OPERATOR))
    assert world.available() == {"a"}
    assert watch(world, poll(5)).available() == {"a"}, "polls of it are ignored"


def test_a_provider_that_moves_starts_from_nothing() -> None:
    world = listing("a")
    moved = replace(world.provider, base_url="http://127.0.0.1:9001/v1")
    world.apply(provider_switched(world.provider, moved, world.rows, NOW, OPERATOR))
    assert world.reasons() == {"a": "not_polled"}


def test_observations_of_a_provider_that_is_off_change_nothing() -> None:
    record = operators_provider(enabled=False)
    assert observe(record, {}, poll(0, "a"), NOW, CONFIRM, resolve) == NOTHING


def test_a_live_404_has_the_provider_polled_at_once_but_not_at_every_request() -> None:
    world = listing("a")
    soon = NOW + timedelta(seconds=40)
    world.apply(not_found(world.provider, world.rows["a"], soon, CONFIRM))
    assert world.available() == {"a"}
    assert world.provider.next_poll_at == soon
    assert not_found(world.provider, world.rows["a"], soon + timedelta(seconds=1), CONFIRM) == NOTHING
    watch(world, poll(41, "a"))
    world.apply(not_found(world.provider, world.rows["a"], NOW + timedelta(seconds=42), CONFIRM))
    assert next_poll_s(world) == 41 + 30


def test_a_second_live_404_takes_out_a_model_of_a_provider_without_a_list_for_a_day() -> None:
    world = from_models_dev("a", "b")
    off = replace(world.provider, discover=False)
    world.apply(provider_switched(world.provider, off, world.rows, NOW, OPERATOR))
    world.told()
    for at_s in (0, 10, 31):
        assert world.available() == {"a", "b"}
        at = NOW + timedelta(seconds=at_s)
        world.apply(not_found(world.provider, world.rows["a"], at, CONFIRM))
    assert world.reasons() == {"a": "not_found_live", "b": None}
    assert world.told() == ["model.unavailable a"]
    assert forgive(world.provider, world.rows, NOW + timedelta(hours=1)) == NOTHING
    world.apply(forgive(world.provider, world.rows, NOW + FORGIVE_AFTER + timedelta(minutes=1)))
    assert world.told() == ["model.available a"]


def test_a_model_that_nobody_lists_for_a_week_is_retired() -> None:
    world = watch(listing("a", "b", "c"), poll(60, "a", "b"), poll(91, "a", "b"))
    world.told()
    week = RETIRE_AFTER.total_seconds()
    watch(world, poll(week, "a", "b"))
    assert world.told() == []
    watch(world, poll(week + 100, "a", "b"))
    assert world.told() == ["model.retired c"]
    assert world.reasons()["c"] == "retired"
    watch(world, poll(week + 200, "a", "b", "c"))
    assert world.told() == ["model.discovered c", "model.available c"]


def test_events_tell_the_state_before_and_after_and_the_poll_that_made_it() -> None:
    world = watch(listing("a"), poll(60, outcome=PollOutcome.UNREACHABLE))
    second = poll(91, outcome=PollOutcome.UNREACHABLE)
    (event,) = observe(world.provider, world.rows, second, NOW, CONFIRM, resolve).events
    assert event.type is EventType.MODEL_UNAVAILABLE
    assert isinstance(event.data, ModelChange)
    assert event.data.before is not None
    assert (event.data.before.is_available, event.data.after.is_available) == (True, False)
    assert event.data.after.reason == "unreachable"
    assert event.data.cause == Cause(kind="poll", id=str(second.poll_id), detail="unreachable")


def test_prices_of_the_providers_own_list_are_taken_and_a_jump_is_held() -> None:
    world = watch(World(operators_provider()), poll(0, "a", cost=prices("1", "2")))
    assert world.rows["a"].prices == prices("1", "2")
    world.told()
    watch(world, poll(60, "a", cost=prices("0.9", "2")))
    assert world.told() == ["model.repriced a"]
    watch(world, poll(120, "a", cost=prices("0.1", "2")))
    assert world.told() == []
    assert world.rows["a"].prices == prices("0.9", "2")
    assert world.rows["a"].held_prices == prices("0.1", "2")


def test_a_poll_that_finds_nothing_new_writes_no_model() -> None:
    world = listing("a", "b")
    update = observe(world.provider, world.rows, poll(60, "b", "a"), NOW, CONFIRM, resolve)
    assert (update.upserts, update.events) == ((), ())
    world.apply(update)
    assert last_seen(world.rows["a"], world.provider) == NOW + timedelta(seconds=60)


def test_discovery_is_told_of_providers_that_a_key_would_switch_on() -> None:
    world = from_models_dev("a")
    target = discovery_target(replace(world.provider, key_present=False))
    assert target is not None
    assert (target.poll, target.api_key_envs) == (True, ("ACME_API_KEY",))
    assert discovery_target(replace(world.provider, enabled=False)) is None
    assert discovery_target(replace(world.provider, host_confirmed=False)) is None


# What holds for any history

_ids = st.lists(st.sampled_from("abcdefgh"), max_size=8, unique=True)
_histories = st.lists(
    st.tuples(st.floats(0.5, 120), st.sampled_from(list(PollOutcome)), _ids), min_size=1, max_size=12
)


def history(steps: list[tuple[float, PollOutcome, list[str]]]) -> list[ProviderObservation]:
    polls = []
    at = 0.0
    for pause, outcome, ids in steps:
        at += pause
        polls.append(poll(at, *(ids if outcome is PollOutcome.OK else ()), outcome=outcome))
    return polls


@given(_histories)
def test_an_observation_applied_twice_is_as_if_applied_once(
    steps: list[tuple[float, PollOutcome, list[str]]],
) -> None:
    world = World(operators_provider())
    for one in history(steps):
        watch(world, one)
        assert observe(world.provider, world.rows, one, NOW, CONFIRM, resolve) == NOTHING
        assert world.is_settled()


@given(_histories, st.data())
def test_an_observation_that_comes_late_changes_nothing(
    steps: list[tuple[float, PollOutcome, list[str]]], data: st.DataObject
) -> None:
    polls = history(steps)
    world = watch(World(operators_provider()), *polls)
    late = data.draw(st.sampled_from(polls))
    assert observe(world.provider, world.rows, late, NOW, CONFIRM, resolve) == NOTHING


@given(_histories, st.sampled_from(list(PollOutcome)), _ids)
def test_one_failed_poll_never_makes_anything_unavailable(
    steps: list[tuple[float, PollOutcome, list[str]]], outcome: PollOutcome, ids: list[str]
) -> None:
    everything = list("abcdefgh")
    world = watch(
        World(operators_provider()), *history(steps), poll(10_000, *everything), poll(10_040, *everything)
    )
    before = world.available()
    assert before == set(everything)
    watch(world, poll(20_000, *(ids if outcome is PollOutcome.OK else ()), outcome=outcome))
    assert world.available() == before


@given(_histories)
def test_events_tell_exactly_how_availability_changed(
    steps: list[tuple[float, PollOutcome, list[str]]],
) -> None:
    world = World(operators_provider())
    told: set[str] = set()
    for one in history(steps):
        watch(world, one)
        for event in world.told():
            kind, _, name = event.partition(" ")
            if kind == "model.available":
                assert name not in told, "said twice"
                told.add(name)
            if kind == "model.unavailable":
                told.remove(name)
        assert told == world.available()


@given(_histories)
def test_only_models_that_some_list_had_are_ever_available(
    steps: list[tuple[float, PollOutcome, list[str]]],
) -> None:
    polls = history(steps)
    world = watch(World(operators_provider()), *polls)
    assert world.available() <= {m.provider_model_id for one in polls for m in one.models}
