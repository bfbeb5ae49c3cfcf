"""Who goes behind the others after a failure, for how long, and how it comes back."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise

import pytest
from prometheus_client import REGISTRY
from structlog.testing import CapturingLogger

from synaxis_common.contracts.health import Sighting
from synaxis_common.contracts.routing import Candidate
from synaxis_gateway.dispatch import classify, cooldown
from synaxis_gateway.dispatch.classify import ACCOUNT_REST_S, NO_KEY, Verdict
from synaxis_gateway.dispatch.cooldown import (
    FIRST_S,
    LEAST_SHARE,
    LONGEST_S,
    PROVIDER_AFTER,
    TRIAL_S,
    TRIP_AFTER,
    UNREACHABLE_AFTER,
    Cooldowns,
)
from synaxis_gateway.dispatch.rates import AT_LEAST, FORGIVEN_AFTER_S, WINDOW_S
from synaxis_gateway.upstream.errors import NoConnection

NOW = datetime(2026, 11, 23, tzinfo=UTC)
SILENT = classify.failure(TimeoutError())
FAILED = classify.malformed("x")
UNREACHABLE = classify.failure(NoConnection("cannot be reached"))
KEY_REFUSED = classify.status(401, {}, b'{"error":{"code":"invalid_api_key"}}', NOW)
OUT_OF_CREDIT = classify.status(402, {}, b'{"error":{"message":"Insufficient Balance"}}', NOW)
MODEL_GONE = classify.status(404, {}, b'{"error":{"code":"model_not_found"}}', NOW)


def candidate(provider: str, model: str = "m") -> Candidate:
    return Candidate(
        provider_id=provider,
        provider_model_id=model,
        global_model_id=model,
        base_url="https://x.example/v1",
        kind="openai",
    )


FIRST, SECOND = candidate("a"), candidate("b")
SIBLING = candidate("a", "other")


def longest() -> float:
    return 1.0


@dataclass
class Scene:
    """Two candidates; chance makes every rest as long as it can be."""

    cooldowns: Cooldowns = field(default_factory=lambda: Cooldowns(chance=longest))

    def fail(self, verdict: Verdict = SILENT, at: float = 0.0, who: Candidate = FIRST) -> None:
        self.cooldowns.failed(who, verdict, at)

    def succeed(self, at: float = 0.0, who: Candidate = FIRST) -> None:
        self.cooldowns.succeeded(who, at)

    def order(self, now: float, *who: Candidate) -> list[str]:
        return [each.provider_id for each in self.cooldowns.order(who or (FIRST, SECOND), now)]


@pytest.fixture
def world() -> Scene:
    return Scene()


def test_a_candidate_that_failed_goes_behind_the_others_and_comes_back(world: Scene) -> None:
    assert world.order(0) == ["a", "b"]
    world.fail()
    assert world.order(0.5) == ["b", "a"]
    assert world.order(1.5) == ["a", "b"], "one request tries it"
    assert world.order(1.6) == ["b", "a"], "the others wait for what comes of it"
    assert world.order(1.6 + TRIAL_S) == ["a", "b"], "a trial that nothing is heard of is made again"
    world.succeed()
    assert [world.order(9), world.order(9)] == [["a", "b"], ["a", "b"]]


@pytest.mark.parametrize(("verdict", "enough"), [(FAILED, TRIP_AFTER), (UNREACHABLE, UNREACHABLE_AFTER)])
def test_it_takes_several_failures_in_a_row(world: Scene, verdict: Verdict, enough: int) -> None:
    for _ in range(5):
        for _ in range(enough - 1):
            world.fail(verdict)
        assert world.order(0.1) == ["a", "b"]
        world.succeed()
    for _ in range(enough):
        world.fail(verdict)
    assert world.order(0.1) == ["b", "a"]


def test_one_failure_in_a_hundred_keeps_nobody_out(world: Scene) -> None:
    for tick in range(2_000):
        assert world.order(tick / 1_000) == ["a", "b"]
        if tick % 100 == 0:
            world.fail(FAILED, tick / 1_000)
        else:
            world.succeed(tick / 1_000)


def test_each_failed_trial_makes_the_rest_longer_up_to_8_seconds(world: Scene) -> None:
    now, rests = 0.0, []
    for _ in range(8):
        world.fail(at=now)
        begun = now
        while world.order(now)[0] == "b":
            now += 0.25
        rests.append(now - begun)
    assert rests == [1, 2, 4, 8, 8, 8, 8, 8]
    assert LONGEST_S + TRIAL_S <= 10, "back within 10 s of recovering"


def test_who_was_under_way_when_the_rest_began_does_not_make_it_longer(world: Scene) -> None:
    for _ in range(60):
        world.fail(at=0)
    assert world.order(FIRST_S + 0.01) == ["a", "b"]


@pytest.mark.parametrize(("chance", "rest_s"), [(0.0, FIRST_S * LEAST_SHARE), (0.5, 0.75), (1.0, FIRST_S)])
def test_a_rest_is_partly_chance_so_that_gateways_do_not_come_back_at_once(
    chance: float, rest_s: float
) -> None:
    world = Scene(Cooldowns(chance=lambda: chance))
    world.fail()
    assert world.order(rest_s - 0.01) == ["b", "a"]
    assert world.order(rest_s + 0.01) == ["a", "b"]


@pytest.mark.parametrize("status", [429, 503])
def test_a_wait_that_was_asked_for_is_kept(world: Scene, status: int) -> None:
    world.fail(classify.status(status, {"retry-after": "120"}, b"", NOW))
    assert world.order(119) == ["b", "a"]
    assert world.order(121) == ["a", "b"]


def test_a_wait_of_nothing_still_rests_and_grows(world: Scene) -> None:
    verdict = classify.status(429, {"retry-after": "0"}, b"", NOW)
    world.fail(verdict)
    assert world.order(0.5) == ["b", "a"]
    assert world.order(1.1) == ["a", "b"]
    world.fail(verdict, 1.1)
    assert world.order(3) == ["b", "a"]


@pytest.mark.parametrize("body", [b"", b'{"error":{"code":"context_length_exceeded"}}', b"content_filter"])
def test_a_request_of_its_own_fault_says_nothing_about_the_candidate(world: Scene, body: bytes) -> None:
    for _ in range(20):
        world.fail(classify.status(400, {}, body, NOW))
    assert world.order(0.1) == ["a", "b"]


def test_when_all_rest_they_are_tried_in_order_of_who_is_ready_first(world: Scene) -> None:
    world.fail(classify.status(429, {"retry-after": "50"}, b"", NOW))
    world.fail(classify.status(429, {"retry-after": "20"}, b"", NOW), who=SECOND)
    assert world.order(1) == ["b", "a"]


@pytest.mark.parametrize("verdict", [FAILED, UNREACHABLE, KEY_REFUSED, OUT_OF_CREDIT, MODEL_GONE, NO_KEY])
def test_a_lone_candidate_is_never_left_out(world: Scene, verdict: Verdict) -> None:
    for _ in range(10):
        world.fail(verdict)
        assert world.order(0, FIRST) == ["a"]


def test_a_404_for_one_model_touches_that_model_alone(world: Scene) -> None:
    for _ in range(20):
        world.fail(MODEL_GONE)
    assert world.order(0.1) == ["b", "a"]
    assert world.order(0.1, SIBLING, SECOND) == ["a", "b"]


@pytest.mark.parametrize("verdict", [KEY_REFUSED, OUT_OF_CREDIT, NO_KEY])
def test_a_provider_that_refuses_us_rests_with_all_its_models_until_a_stated_time(
    world: Scene, verdict: Verdict
) -> None:
    world.fail(verdict)
    for models in ((FIRST, SECOND), (SIBLING, SECOND)):
        assert world.order(ACCOUNT_REST_S - 0.1, *models) == ["b", "a"]
    assert world.order(ACCOUNT_REST_S + 0.1) == ["a", "b"], "one request tries one of its models"
    assert world.order(ACCOUNT_REST_S + 0.2, SIBLING, SECOND) == ["b", "a"]
    world.fail(verdict, ACCOUNT_REST_S + 0.3)
    assert world.order(2 * ACCOUNT_REST_S, SIBLING, SECOND) == ["b", "a"]
    world.succeed(who=SIBLING)
    assert world.order(2 * ACCOUNT_REST_S) == ["a", "b"]


def stops(provider: str) -> float:
    labels = {"provider": provider, "condition": "key"}
    return REGISTRY.get_sample_value("synaxis_gateway_providers_stopped_total", labels) or 0.0


def test_a_provider_that_refuses_us_is_named_loudly_once_an_incident(
    world: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = CapturingLogger()
    monkeypatch.setattr(cooldown, "_log", log)
    loud = candidate("loud")
    before = stops("loud")
    for number in range(5):
        world.fail(KEY_REFUSED, number * 10.0, loud)
    world.succeed(who=loud)
    world.fail(KEY_REFUSED, 60, loud)
    errors = [call.kwargs for call in log.calls if call.method_name == "error"]
    assert [(said["provider"], said["reason"]) for said in errors] == [("loud", "refused our key")] * 2
    assert stops("loud") - before == 2


def test_a_provider_that_cannot_be_reached_again_and_again_rests_with_all_its_models(world: Scene) -> None:
    models = [candidate("a", f"m{number}") for number in range(PROVIDER_AFTER)]
    for model in models[:-1]:
        world.fail(UNREACHABLE, 0, model)
    assert world.order(0.1, SIBLING, SECOND) == ["a", "b"]
    world.fail(UNREACHABLE, 0, models[-1])
    assert world.order(0.1, SIBLING, SECOND) == ["b", "a"]
    assert world.order(1.1, SIBLING, SECOND) == ["a", "b"]


def test_an_answer_in_between_says_that_the_provider_is_there(world: Scene) -> None:
    for _ in range(10):
        world.fail(UNREACHABLE)
        world.succeed(who=SIBLING)
    assert world.order(0.1, SIBLING, SECOND) == ["a", "b"]


def test_a_candidate_whose_streams_break_off_rests_longer_though_they_begin_well(world: Scene) -> None:
    cut = classify.cut("fell silent")
    for now in (0.0, 2.0, 5.0):
        world.succeed(now)
        world.fail(cut, now)
    assert world.order(8) == ["b", "a"]
    world.cooldowns.completed(FIRST)
    world.fail(cut, 20)
    assert world.order(21.1) == ["a", "b"], "a stream that was complete begins the count anew"


def test_a_dead_candidate_gets_one_request_a_trial_and_a_live_one_all_others() -> None:
    world = Scene()
    asked = {"a": 0, "b": 0}
    for tick in range(600):
        first = world.order(tick / 10)[0]
        asked[first] += 1
        if first == "a":
            world.fail(at=tick / 10)
    assert asked["a"] <= 12, "a minute of fast failures attracts no traffic"


def test_a_candidate_that_recovers_is_used_again_within_10_seconds() -> None:
    for recovers in range(5, 60, 7):
        world = Scene(Cooldowns())
        now = 0.0
        while now < recovers or world.order(now)[0] != "a":
            if now < recovers and world.order(now)[0] == "a":
                world.fail(at=now)
            now += 0.1
        assert now - recovers <= 10, f"was dead until {recovers}"


# Who fails often, but not in a row


def half_fails(world: Scene, who: Candidate, begin: float, requests: int = AT_LEAST) -> None:
    """Every other request to `who` fails, a hundred a second."""
    for number in range(requests):
        at = begin + number / 100
        if number % 2:
            world.fail(FAILED, at, who)
        else:
            world.succeed(at, who)


def test_who_fails_every_other_time_rests_though_it_never_fails_twice_in_a_row(world: Scene) -> None:
    half_fails(world, FIRST, 0, AT_LEAST - 1)
    assert world.order(0.2) == ["a", "b"], "that is not enough to judge"
    world.fail(FAILED, 0.2)
    assert world.order(0.3) == ["b", "a"]
    world.succeed(0.4)
    assert world.order(0.5) == ["b", "a"], "an answer proves nothing of who answers every other time"
    assert world.order(1.3) == ["a", "b"], "one request tries it"
    assert world.order(1.4) == ["b", "a"]
    world.succeed(1.5)
    assert world.order(1.6) == ["a", "b"], "and it is judged anew"


def test_its_rests_grow_while_that_happens_again_and_again(world: Scene) -> None:
    now, rests = 0.0, []
    for _ in range(6):
        half_fails(world, FIRST, now)
        begun = now = now + AT_LEAST / 100
        world.fail(FAILED, now)
        while world.order(now)[0] == "b":
            now += 0.125
        rests.append(round(now - begun))
        world.succeed(now)
    assert rests == [1, 2, 4, 8, 8, 8]
    half_fails(world, FIRST, now + FORGIVEN_AFTER_S)
    assert world.order(now + FORGIVEN_AFTER_S + 1.25) == ["a", "b"], "after a quiet minute it begins anew"


def test_who_fails_less_often_does_not_rest(world: Scene) -> None:
    for number in range(3_000):
        if number % 5 in (0, 2):
            world.fail(FAILED, number / 100)
        else:
            world.succeed(number / 100)
        assert world.order(number / 100) == ["a", "b"]


def test_failures_of_half_a_minute_ago_do_not_count(world: Scene) -> None:
    half_fails(world, FIRST, 0, AT_LEAST - 2)
    half_fails(world, FIRST, WINDOW_S + 5, 2)
    assert world.order(WINDOW_S + 5.1) == ["a", "b"]


@pytest.mark.parametrize(
    ("candidates", "order"),
    [("a", "a"), ("ax", "xa"), ("abx", "axb"), ("abxy", "xyab"), ("abcdx", "abxcd")],
)
def test_no_more_than_half_of_the_candidates_rest_for_failing_often(
    world: Scene, candidates: str, order: str
) -> None:
    """`x` and `y` are well."""
    for name in candidates.replace("x", "").replace("y", ""):
        half_fails(world, candidate(name), 0)
    assert world.order(0.3, *map(candidate, candidates)) == list(order)


def test_others_hear_of_who_fails_often() -> None:
    fleet = Fleet(2)
    for number in range(AT_LEAST):
        if number % 2:
            fleet.gateways[0].failed(FIRST, FAILED, 0)
        else:
            fleet.gateways[0].succeeded(FIRST, 0)
    assert fleet.gateways[1].order((FIRST, SECOND), 0.1) == [SECOND, FIRST]


# What other gateways see


class Fleet:
    """Gateways that hear each other at once, each with chances of its own."""

    def __init__(self, number: int) -> None:
        self.dice = random.Random(7)
        self.told: list[Sighting] = []
        self.gateways: list[Cooldowns] = []
        for place in range(number):
            self.gateways.append(Cooldowns(partial(self._tell, place), self.dice.random))
        self.now = 0.0

    def _tell(self, teller: int, sighting: Sighting) -> None:
        self.told.append(sighting)
        for place, gateway in enumerate(self.gateways):
            if place != teller:
                gateway.heard(sighting, self.now)


def test_a_dead_candidate_is_out_everywhere_after_a_few_requests_and_back_everywhere_at_once() -> None:
    fleet = Fleet(5)
    asked, trials = 0, []
    for tick in range(3_000):  # a request every 20 ms, at each gateway in turn; dead for 40 of 60 seconds
        fleet.now = tick / 50
        gateway = fleet.gateways[tick % 5]
        if gateway.order((FIRST, SECOND), fleet.now)[0] is not FIRST:
            continue
        if fleet.now >= 40:
            gateway.succeeded(FIRST, fleet.now)
            asked += 1
        else:
            trials.append(fleet.now)
            gateway.failed(FIRST, FAILED, fleet.now)
    assert [moment < 0.1 for moment in trials[:TRIP_AFTER]] == [True] * TRIP_AFTER
    assert len([moment for moment in trials if moment < 0.4]) <= 5
    assert all(later - earlier >= 0.5 for earlier, later in pairwise(trials[TRIP_AFTER - 1 :])), (
        "one at a time"
    )
    assert len(trials) <= TRIP_AFTER + 14
    assert asked >= 500, "back within 10 s of the 20 that are left, with all gateways"


def test_gateways_do_not_talk_of_what_works() -> None:
    fleet = Fleet(2)
    for _ in range(100):
        fleet.gateways[0].order((FIRST, SECOND), 0)
        fleet.gateways[0].succeeded(FIRST, fleet.now)
        fleet.gateways[0].completed(FIRST)
    assert not fleet.told


@pytest.mark.parametrize("verdict", [KEY_REFUSED, OUT_OF_CREDIT])
def test_a_key_that_is_refused_at_one_gateway_is_not_tried_at_the_others(verdict: Verdict) -> None:
    fleet = Fleet(3)
    fleet.gateways[0].failed(FIRST, verdict, 0)
    for gateway in fleet.gateways:
        assert gateway.order((SIBLING, SECOND), 1) == [SECOND, SIBLING]


def test_a_wait_that_one_gateway_was_asked_for_is_kept_by_all() -> None:
    fleet = Fleet(2)
    fleet.gateways[0].failed(FIRST, classify.status(429, {"retry-after": "30"}, b"", NOW), 0)
    assert fleet.gateways[1].order((FIRST, SECOND), 29) == [SECOND, FIRST]
    assert fleet.gateways[1].order((FIRST, SECOND), 31) == [FIRST, SECOND]


def test_streams_that_break_off_here_and_there_are_counted_together() -> None:
    fleet = Fleet(2)
    for number, gateway in enumerate((*fleet.gateways, *fleet.gateways)):
        fleet.now = number * 10.0
        gateway.succeeded(FIRST, fleet.now)
        gateway.failed(FIRST, classify.cut("fell silent"), fleet.now)
    assert fleet.gateways[0].order((FIRST, SECOND), fleet.now + 3.9) == [SECOND, FIRST]
