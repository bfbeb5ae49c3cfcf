"""A provider that fails most live requests is suspended, and comes back; what is said of it does not flap."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from uuid import UUID

import pytest

from synaxis_common.contracts.events import EventType, ProviderChange
from synaxis_registry.core.effective import effective_provider
from synaxis_registry.core.feedback import (
    APART,
    AT_LEAST,
    DEAD_AFTER,
    DEAD_FOR,
    PROVEN_AFTER,
    QUIET_AFTER,
    RELAPSE,
    REST,
    RULE,
    WINDOW,
    Outcomes,
    bucket_of,
    feedback,
)
from synaxis_registry.core.records import ProviderRecord
from synaxis_registry.outbox import cloud_event

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
HOUR_S = 3_600
JUDGED_EVERY_S = 3
PROVIDER = ProviderRecord(
    "noisy", "Noisy", "operator", "https://noisy.example/v1", "openai", enabled=True, host_confirmed=True
)


@dataclass
class World:
    """One provider and what came of the requests to it. `now` is seconds since `NOW`."""

    record: ProviderRecord = PROVIDER
    now: float = 0.0
    counts: dict[datetime, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))
    told: list[tuple[float, EventType, ProviderChange]] = field(default_factory=list)

    @property
    def moment(self) -> datetime:
        return NOW + timedelta(seconds=self.now)

    def ask(self, *, failing: bool, times: int = 1) -> None:
        count = self.counts[bucket_of(self.moment)]
        count[0] += times
        count[1] += times * failing

    def judge(self) -> None:
        since_when = self.moment - WINDOW
        lately = [Outcomes(since, *count) for since, count in self.counts.items() if since >= since_when]
        update = feedback(self.record, lately, self.moment)
        self.record = update.record or self.record
        for event in update.events:
            row = {"id": 1, "event_id": UUID(int=1), "at": self.moment, "type": event.type.value}
            published = cloud_event({**row, "data": event.data.model_dump_json()}).data
            assert isinstance(published, ProviderChange)
            self.told.append((self.now, event.type, published))

    def is_last(self) -> bool:
        until = effective_provider(self.record).suspended_until
        return until is not None and until > self.moment

    def kinds(self) -> list[EventType]:
        return [kind for _, kind, _ in self.told]


def suspended() -> World:
    world = World()
    world.ask(failing=True, times=AT_LEAST)
    world.judge()
    return world


def test_a_provider_that_fails_most_requests_is_suspended_and_the_event_has_the_numbers() -> None:
    world = World()
    world.ask(failing=False, times=10)
    world.ask(failing=True, times=9)
    world.judge()
    assert world.kinds() == [], "that is not enough to judge"
    world.ask(failing=True)
    world.judge()
    ((_, kind, said),) = world.told
    assert kind is EventType.PROVIDER_DISABLED
    assert said.failures is not None
    assert (said.failures.requests, said.failures.failures, said.failures.window_s) == (20, 10, 300)
    assert (said.cause.kind, said.cause.id) == ("feedback", RULE)
    assert said.before is not None
    assert said.after is not None
    assert (said.before.is_on, said.after.is_on) == (True, False)
    assert world.is_last()


def test_one_that_has_died_is_suspended_within_a_minute_though_it_was_busy_before() -> None:
    """With one trial every six seconds, as circuits let through."""
    world = World()
    world.ask(failing=False, times=10_000)
    for trial in range(12):
        world.now += 6
        world.ask(failing=True)
        world.judge()
        if world.told:
            break
        assert trial < 10, "it is still not suspended"
    ((at, kind, said),) = world.told
    assert kind is EventType.PROVIDER_DISABLED
    assert said.failures is not None
    assert said.failures.failures == said.failures.requests >= DEAD_AFTER
    assert said.failures.window_s == 60
    assert at >= DEAD_FOR.total_seconds(), "a moment of failures is no death"


def test_a_moment_of_failures_suspends_nobody_who_was_well() -> None:
    world = World()
    world.ask(failing=False, times=10_000)
    world.now += 61
    world.ask(failing=True, times=50)
    world.judge()
    world.now += 45
    world.ask(failing=False)
    world.ask(failing=True, times=10)
    world.judge()
    assert world.kinds() == []


def test_it_stands_last_for_a_few_seconds_and_is_on_probation_then() -> None:
    world = suspended()
    world.now += REST.total_seconds()
    assert not world.is_last(), "back within 10 s of recovering"
    for _ in range(RELAPSE - 1):
        world.ask(failing=True)
        world.judge()
    assert not world.is_last()
    world.ask(failing=True)
    world.judge()
    assert world.is_last()
    assert world.kinds() == [EventType.PROVIDER_DISABLED], "nothing new is said"


def test_a_probation_that_goes_well_ends_it() -> None:
    world = suspended()
    world.now += REST.total_seconds() + 5
    for _ in range(int(PROVEN_AFTER.total_seconds())):
        world.ask(failing=False)
        world.judge()
        world.now += 1
    assert world.kinds() == [EventType.PROVIDER_DISABLED, EventType.PROVIDER_RECOVERED]
    assert world.record.suspension is None


def test_one_that_nobody_asks_is_believed_after_a_quiet_while() -> None:
    world = suspended()
    world.now += REST.total_seconds() + QUIET_AFTER.total_seconds() - 1
    world.judge()
    assert world.record.suspension is not None
    world.now += 1
    world.judge()
    assert world.kinds()[-1] is EventType.PROVIDER_RECOVERED


def test_a_provider_that_is_switched_off_is_not_suspended_any_more() -> None:
    world = suspended()
    world.record = replace(world.record, enabled=False)
    world.judge()
    assert world.record.suspension is None
    assert world.kinds() == [EventType.PROVIDER_DISABLED]


def test_old_failures_suspend_nobody() -> None:
    world = World()
    world.ask(failing=True, times=100)
    world.now += WINDOW.total_seconds() + 5
    world.ask(failing=False)
    world.judge()
    assert world.kinds() == []


# A noisy provider, for hours


def simulated(fails: Callable[[float, random.Random], bool], hours: int, per_second: float = 2.0) -> World:
    """Traffic that goes elsewhere while the provider stands last, but for one request in fifty."""
    dice, world = random.Random(5), World()
    for second in range(hours * HOUR_S):
        world.now = float(second)
        arrived, is_last = int(per_second) + (dice.random() < per_second % 1), world.is_last()
        for _ in range(arrived):
            if not is_last or dice.random() < 0.02:
                world.ask(failing=fails(world.now, dice))
        if second % JUDGED_EVERY_S == 0:
            world.judge()
            since_when = world.moment - WINDOW
            for since in [since for since in world.counts if since < since_when]:
                del world.counts[since]
    return world


@pytest.mark.parametrize("share", [0.01, 0.1, 0.3])
def test_noise_suspends_nobody(share: float) -> None:
    assert simulated(lambda _, dice: dice.random() < share, hours=2).kinds() == []


@pytest.mark.parametrize("share", [0.65, 0.8, 1.0])
def test_one_that_fails_for_hours_is_said_to_be_off_once(share: float) -> None:
    assert simulated(lambda _, dice: dice.random() < share, hours=2).kinds() == [EventType.PROVIDER_DISABLED]


@pytest.mark.parametrize("share", [0.4, 0.45, 0.5, 0.55])
def test_one_on_the_border_does_not_flap(share: float) -> None:
    """Over four hours. A rule that ends a suspension where it begins one says something every few minutes."""
    told = simulated(lambda _, dice: dice.random() < share, hours=4).kinds()
    assert len(told) <= 2


@pytest.mark.parametrize("period_s", [5, 10, 60, 300])
def test_one_that_comes_and_goes_is_said_to_be_off_at_most_every_10_minutes(period_s: int) -> None:
    world = simulated(lambda now, _: now // period_s % 2 == 1, hours=3)
    begun = [at for at, kind, _ in world.told if kind is EventType.PROVIDER_DISABLED]
    assert all(later - earlier >= APART.total_seconds() for earlier, later in pairwise(begun))
    assert begun


def test_one_that_recovers_is_used_within_10_seconds_and_said_to_be_well_soon() -> None:
    outage = range(600, 1_500)
    world = simulated(lambda now, _: now in outage, hours=1)
    (disabled_at, _, _), (recovered_at, kind, _) = world.told
    assert 600 <= disabled_at <= 600 + WINDOW.total_seconds()
    assert kind is EventType.PROVIDER_RECOVERED
    assert 1_500 + PROVEN_AFTER.total_seconds() - 5 <= recovered_at <= 1_600
