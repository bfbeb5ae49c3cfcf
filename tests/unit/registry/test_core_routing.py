"""Filter, rank and plan: who serves a request, in which order, and why others don't."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.registry.core_world import (
    NOW,
    REQUEST,
    TENANT,
    ask,
    catalog,
    endpoint,
    measured,
    prices,
    updated,
    usd,
)

from synaxis_common.contracts.catalog import Capabilities, ModelFacts, Prices, PriceTier
from synaxis_common.contracts.routing import (
    ExclusionReason,
    MaxPrice,
    Needs,
    Preferences,
    RefusalCode,
    RouteRefusal,
    Timeouts,
)
from synaxis_common.pricing import PROMPT_OVERHEAD_TOKENS
from synaxis_registry.core.catalog import (
    Catalog,
    Endpoint,
    EndpointHealth,
    GlobalModel,
    Gone,
    KeyLimit,
    Limit,
    Provider,
    TimeoutsSet,
)
from synaxis_registry.core.filter import Eligible, filter_endpoints
from synaxis_registry.core.plan import MAX_CANDIDATES, Routed, route, to_plan
from synaxis_registry.core.rank import EQUALLY_DEAR, Ranked, rank


def provider(provider_id: str, **others: Any) -> Provider:
    given_kind = others.pop("kind", "openai")
    return Provider(provider_id, provider_id, f"https://{provider_id}.example/v1", given_kind, **others)


def routed(world: Catalog, **asked: Any) -> Routed:
    found = route(world, ask(**asked), NOW)
    assert isinstance(found, Routed), found
    return found


def refused(world: Catalog, **asked: Any) -> RouteRefusal:
    found = route(world, ask(**asked), NOW)
    assert isinstance(found, RouteRefusal), found
    return found


def order(world: Catalog, **asked: Any) -> list[str]:
    return [ranked.endpoint.provider_id for ranked in routed(world, **asked).candidates]


def reasons(found: Routed | RouteRefusal) -> dict[str, str]:
    if isinstance(found, Routed):
        return {out.endpoint.provider_id: out.reason.value for out in found.excluded}
    return {out.provider_id: out.reason.value for out in found.excluded}


# Filter


@pytest.mark.parametrize(
    ("change", "needs", "preferences", "reason"),
    [
        ({"enabled": False}, {}, {}, ExclusionReason.DISABLED),
        (
            {"is_available": False, "unavailable_reason": "unreachable"},
            {},
            {},
            ExclusionReason.UNAVAILABLE,
        ),
        ({"is_available": False, "unavailable_reason": "retired"}, {}, {}, ExclusionReason.RETIRED),
        ({"kind": "anthropic"}, {}, {}, ExclusionReason.KIND_UNSUPPORTED),
        ({"context_window": 500}, {}, {}, ExclusionReason.CONTEXT_TOO_SMALL),
        ({"context_window": 1500}, {"max_output_tokens": 501}, {}, ExclusionReason.CONTEXT_TOO_SMALL),
        ({"max_input": 999}, {}, {}, ExclusionReason.CONTEXT_TOO_SMALL),
        ({"max_output": 100}, {"max_output_tokens": 101}, {}, ExclusionReason.CONTEXT_TOO_SMALL),
        (
            {"capabilities": Capabilities(tools=False)},
            {"tools": True},
            {},
            ExclusionReason.CAPABILITY_MISSING,
        ),
        (
            {"capabilities": Capabilities(vision=False)},
            {"vision": True},
            {},
            ExclusionReason.CAPABILITY_MISSING,
        ),
        ({"input_modalities": ("text",)}, {"vision": True}, {}, ExclusionReason.CAPABILITY_MISSING),
        ({}, {}, {"only": ("good",)}, ExclusionReason.NOT_IN_ONLY),
        ({}, {}, {"ignore": ("BAD",)}, ExclusionReason.IGNORED),
        ({}, {}, {"order": ("good",), "allow_fallbacks": False}, ExclusionReason.NO_FALLBACKS),
        ({"quantization": "fp4"}, {}, {"quantizations": ("fp8", "unknown")}, ExclusionReason.QUANTIZATION),
        (
            {"cost": prices("9", "2")},
            {},
            {"max_price": MaxPrice(prompt=usd(8))},
            ExclusionReason.OVER_MAX_PRICE,
        ),
        (
            {"cost": prices("1", "9")},
            {},
            {"max_price": MaxPrice(completion=usd(8))},
            ExclusionReason.OVER_MAX_PRICE,
        ),
        (
            {"cost": prices("1")},
            {},
            {"max_price": MaxPrice(completion=usd(8))},
            ExclusionReason.PRICE_UNKNOWN,
        ),
        (
            {},
            {"parameters": frozenset({"temperature"})},
            {"require_parameters": True},
            ExclusionReason.PARAMETER_UNSUPPORTED,
        ),
    ],
)
def test_who_cannot_serve_is_out_with_the_reason(
    change: dict[str, Any], needs: dict[str, Any], preferences: dict[str, Any], reason: ExclusionReason
) -> None:
    good = endpoint("good", capabilities=Capabilities(tools=True, vision=True, temperature=True))
    bad = endpoint("bad", **{"cost": prices("0.1", "0.1")} | change)
    found = routed(
        catalog(good, bad),
        needs=Needs(input_tokens=1000, **needs),
        preferences=Preferences(**preferences),
    )
    assert [one.endpoint.provider_id for one in found.candidates] == ["good"]
    assert reasons(found) == {"bad": reason.value}


def test_a_provider_that_is_off_or_unknown_is_out() -> None:
    world = catalog(endpoint("a"), endpoint("b"), providers=[provider("a", is_on=False, off_reason="no_key")])
    refusal = refused(updated(world, gone=Gone(providers=frozenset({"b"}))))
    assert refusal.code is RefusalCode.NO_PROVIDER_AVAILABLE
    assert reasons(refusal) == {"a": "provider_off", "b": "provider_off"}
    assert "no_key" in refusal.message


def test_what_nobody_says_of_an_endpoint_is_taken_from_the_model() -> None:
    model = GlobalModel("m", "M", facts=ModelFacts(capabilities=Capabilities(vision=False)))
    world = catalog(endpoint("a"), models=[model])
    assert reasons(refused(world, needs=Needs(vision=True))) == {"a": "capability_missing"}


def test_what_nobody_knows_is_not_held_against_an_endpoint() -> None:
    assert order(catalog(endpoint("a")), needs=Needs(tools=True, vision=True)) == ["a"]


def test_a_request_too_long_for_all_is_refused_as_such() -> None:
    world = catalog(
        endpoint("a", context_window=10), endpoint("b", is_available=False, unavailable_reason="not_listed")
    )
    assert refused(world).code is RefusalCode.CONTEXT_LENGTH_EXCEEDED


def test_max_price_looks_at_the_tier_of_this_request() -> None:
    tiered = prices("1", "2", tiers=(PriceTier(over_tokens=200_000, input=usd(4)),))
    world = catalog(endpoint("a", cost=tiered))
    cheap = Preferences(max_price=MaxPrice(prompt=usd(2)))
    assert order(world, preferences=cheap) == ["a"]
    refusal = refused(world, preferences=cheap, needs=Needs(input_tokens=300_000))
    assert reasons(refusal) == {"a": "over_max_price"}


# Signs of trouble


def test_the_only_endpoint_of_a_model_is_tried_whatever_its_circuit_says() -> None:
    shaky = endpoint("a", health=EndpointHealth(open_until=NOW + timedelta(minutes=1)))
    found = routed(catalog(shaky))
    assert [one.endpoint.provider_id for one in found.candidates] == ["a"]
    assert found.excluded == ()


@pytest.mark.parametrize("trouble", ["open_until", "limited_until"])
def test_who_is_in_trouble_is_tried_after_all_others_have_failed(trouble: str) -> None:
    later = NOW + timedelta(minutes=1)
    health = (
        EndpointHealth(open_until=later) if trouble == "open_until" else EndpointHealth(limited_until=later)
    )
    world = catalog(endpoint("a", health=health), endpoint("b", cost=prices("9", "9")))
    assert order(world) == ["b", "a"]
    found = routed(world, preferences=Preferences(allow_fallbacks=False))
    assert [one.endpoint.provider_id for one in found.candidates] == ["b"]
    assert found.excluded[-1].reason is ExclusionReason.NO_FALLBACKS


def test_if_all_are_in_trouble_the_one_that_is_back_soonest_is_first() -> None:
    late = endpoint("a", cost=prices("1", "1"), health=EndpointHealth(open_until=NOW + timedelta(minutes=2)))
    soon = endpoint("b", cost=prices("9", "9"), health=EndpointHealth(open_until=NOW + timedelta(seconds=2)))
    assert order(catalog(late, soon)) == ["b", "a"]


def test_who_is_in_trouble_goes_behind_the_fallback_models() -> None:
    shaky = endpoint("a", model="m", health=EndpointHealth(open_until=NOW + timedelta(minutes=2)))
    fine = endpoint("b", "n", model="n")
    assert order(catalog(shaky, fine), preferences=Preferences(models=("n",))) == ["b", "a"]


def test_a_circuit_that_was_open_is_forgotten_when_its_time_is_over() -> None:
    world = catalog(
        endpoint("a", health=EndpointHealth(open_until=NOW)), endpoint("b", cost=prices("9", "9"))
    )
    assert order(world) == ["a", "b"]


# Rank


def test_the_cheapest_for_this_request_is_first() -> None:
    long_input = Needs(input_tokens=100_000, max_output_tokens=100)
    long_output = Needs(input_tokens=100, max_output_tokens=500)
    world = catalog(
        endpoint("cheap-in", cost=prices("1", "20")), endpoint("cheap-out", cost=prices("2", "2"))
    )
    assert order(world, needs=long_input) == ["cheap-in", "cheap-out"]
    assert order(world, needs=long_output) == ["cheap-out", "cheap-in"]


def test_unknown_prices_come_last_and_flat_rates_before_them() -> None:
    world = catalog(
        endpoint("a-unknown", cost=Prices()),
        endpoint("b-flat", cost=prices("0", "0"), is_flat_rate=True),
        endpoint("c-dear", cost=prices("99", "99")),
        endpoint("d-free", cost=prices("0", "0")),
    )
    assert order(world) == ["d-free", "c-dear", "b-flat", "a-unknown"]


def test_a_flat_rate_alone_is_served() -> None:
    assert order(catalog(endpoint("nvidia", cost=prices("0", "0"), is_flat_rate=True))) == ["nvidia"]


def test_within_one_percent_tier_latency_and_errors_decide() -> None:
    near = [("a", "1.000"), ("b", "1.004"), ("c", "1.008"), ("d", "1.009")]
    health = {
        "a": measured(3.0, error_rate=0.0),
        "b": measured(1.0, error_rate=0.5),
        "c": measured(1.0, error_rate=0.1),
        "d": measured(0.1, error_rate=0.0),
    }
    world = catalog(
        *(endpoint(name, cost=prices(price, price), health=health[name]) for name, price in near),
        providers=[provider("d", tier=1)],
    )
    assert order(world) == ["c", "b", "a", "d"]


def test_one_percent_is_counted_from_the_cheapest_so_that_small_steps_do_not_add_up() -> None:
    steps = ["1.000", "1.009", "1.018", "1.027"]
    world = catalog(
        *(
            endpoint(f"p{n}", cost=prices(price, price), health=measured(10.0 - n))
            for n, price in enumerate(steps)
        )
    )
    assert order(world) == ["p1", "p0", "p3", "p2"]


def test_measurements_of_a_few_requests_count_as_unknown() -> None:
    world = catalog(
        endpoint("a", health=measured(9.0)), endpoint("b", health=EndpointHealth(samples=3, ttft_p95_s=0.1))
    )
    assert order(world) == ["a", "b"]


def test_sort_by_latency_or_throughput_goes_before_cost() -> None:
    world = catalog(
        endpoint("cheap", cost=prices("1", "1"), health=measured(5.0, tokens_per_s=50.0)),
        endpoint("fast", cost=prices("9", "9"), health=measured(0.5, tokens_per_s=20.0)),
        endpoint("unmeasured", cost=prices("0.1", "0.1")),
    )
    assert order(world, preferences=Preferences(sort="latency")) == ["fast", "cheap", "unmeasured"]
    assert order(world, preferences=Preferences(sort="throughput")) == ["cheap", "fast", "unmeasured"]
    assert order(world, preferences=Preferences(sort="price")) == ["unmeasured", "cheap", "fast"]


def test_order_goes_before_everything_and_the_others_follow_by_cost() -> None:
    world = catalog(*(endpoint(name, cost=prices(str(n), "1")) for n, name in enumerate("abcd", 1)))
    assert order(world, preferences=Preferences(order=("d", "C"))) == ["d", "c", "a", "b"]


def test_without_fallbacks_only_the_best_is_left() -> None:
    world = catalog(endpoint("a", cost=prices("1", "1")), endpoint("b", cost=prices("2", "2")))
    found = routed(world, preferences=Preferences(allow_fallbacks=False))
    assert [one.endpoint.provider_id for one in found.candidates] == ["a"]
    assert reasons(found) == {"b": "no_fallbacks"}


# Models, keys, limits


def test_the_candidates_of_fallback_models_follow_in_the_order_asked() -> None:
    world = catalog(
        endpoint("dear", "m", model="m", cost=prices("9", "9")), endpoint("cheap", "n", model="n")
    )
    assert order(world, preferences=Preferences(models=("missing", "n", "m"))) == ["dear", "cheap"]


def test_an_unknown_model_falls_back_too() -> None:
    world = catalog(endpoint("a", "n", model="n"))
    assert order(world, model="missing", preferences=Preferences(models=("n",))) == ["a"]


def test_a_pin_leaves_only_one_endpoint() -> None:
    world = catalog(endpoint("a", "x/m", cost=prices("9", "9")), endpoint("b", "m"))
    assert order(world, model="a/x/m") == ["a"]


def test_an_unknown_key_is_refused_before_anything_is_told() -> None:
    refusal = refused(catalog(endpoint("a")), key_hash="k1:other", model="secret-model")
    assert refusal.code is RefusalCode.INVALID_API_KEY
    assert refusal.nearest == ()


def test_an_unknown_model_is_refused_with_the_nearest_names() -> None:
    refusal = refused(catalog(endpoint("a", model="llama-3.3-70b")), model="lama-3.3-70b")
    assert refusal.code is RefusalCode.MODEL_NOT_FOUND
    assert refusal.nearest == ("llama-3.3-70b",)


def test_a_model_that_the_tenant_may_not_use_is_refused() -> None:
    world = catalog(endpoint("a"), limits=[Limit(TENANT, "m", allowed=False)])
    assert refused(world).code is RefusalCode.MODEL_NOT_ALLOWED


def test_without_limits_nothing_is_booked() -> None:
    found = routed(catalog(endpoint("a")))
    assert (found.limits, found.booking.usd) == ((), Decimal(0))


def test_a_budget_books_the_worst_case_of_the_dearest_candidate() -> None:
    budget = Limit(TENANT, "*", monthly_budget_usd=usd(10))
    world = catalog(
        endpoint("a", cost=prices("1", "1")), endpoint("b", cost=prices("2", "2")), limits=[budget]
    )
    found = routed(world, needs=Needs(input_tokens=1000, max_output_tokens=1000))
    assert found.limits == (budget,)
    tokens = 4_000 + PROMPT_OVERHEAD_TOKENS + 1_000
    assert found.booking.usd == Decimal(2 * tokens) / 1_000_000
    assert (found.booking.requests, found.booking.tokens) == (1, 2000)


def test_what_has_no_price_cannot_be_used_within_a_budget() -> None:
    budget = Limit(TENANT, "m", monthly_budget_usd=usd(10))
    refusal = refused(catalog(endpoint("a", cost=Prices()), limits=[budget]))
    assert reasons(refusal) == {"a": "price_unknown"}


def test_a_key_has_limits_besides_those_of_its_tenant() -> None:
    of_all, of_model = Limit(TENANT, "*", allowed_rpm=5), Limit(TENANT, "m", allowed_concurrency=2)
    of_key = KeyLimit("key-1", allowed_tpm=9)
    world = catalog(endpoint("a"), limits=[of_all, of_model])
    world = updated(world, key_limits=[of_key, KeyLimit("key-2", allowed_rpm=0)])
    assert routed(world).limits == (of_all, of_model, of_key)
    world = updated(world, gone=Gone(key_limits=frozenset({"key-1"})))
    assert routed(world).limits == (of_all, of_model)


def test_a_key_limit_that_bounds_nothing_is_not_booked() -> None:
    assert routed(updated(catalog(endpoint("a")), key_limits=[KeyLimit("key-1")])).limits == ()


def test_the_budget_of_a_key_books_and_asks_for_prices_as_that_of_a_tenant() -> None:
    world = catalog(endpoint("a", cost=prices("1", "1")), endpoint("b", cost=Prices()))
    world = updated(world, key_limits=[KeyLimit("key-1", monthly_budget_usd=usd(10))])
    found = routed(world, needs=Needs(input_tokens=1000, max_output_tokens=1000))
    assert reasons(found) == {"b": "price_unknown"}
    assert found.booking.usd == Decimal(4_000 + PROMPT_OVERHEAD_TOKENS + 1_000) / 1_000_000


@pytest.mark.parametrize("limited", ["endpoint", "provider", None])
def test_a_candidate_says_whether_its_provider_has_limits_of_its_own(limited: str | None) -> None:
    of_endpoint, of_provider = (1_000 if limited == one else None for one in ("endpoint", "provider"))
    world = catalog(
        endpoint("a", rate_limit_tpm=of_endpoint), providers=[provider("a", rate_limit_rpm=of_provider)]
    )
    candidate = to_plan(routed(world)).candidates[0]
    assert candidate.is_rate_limited == (limited is not None)


def test_a_plan_tells_the_gateway_what_it_needs_and_no_more_candidates_than_it_can_try() -> None:
    world = catalog(*(endpoint(f"p{n:02}", cost=prices(f"{n + 1}", "1")) for n in range(20)))
    found = routed(world)
    plan = to_plan(found)
    assert len(found.candidates) == 20
    assert [one.provider_id for one in plan.candidates] == [f"p{n:02}" for n in range(MAX_CANDIDATES)]
    assert (plan.tenant_id, plan.key_id, plan.request_id) == (TENANT, "key-1", REQUEST)
    first = plan.candidates[0]
    assert first.base_url == "https://p00.example/v1"
    assert first.expected_cost_usd == Decimal("0.0015")


@pytest.mark.parametrize(
    ("health", "stream", "reasoning", "first_token_s"),
    [
        (EndpointHealth(), True, None, 60),
        (measured(4.0), True, None, 12),
        (measured(0.1), True, None, 5),
        (measured(90.0), True, None, 60),
        (measured(90.0), True, True, 270),
        (EndpointHealth(), True, True, 120),
        (measured(4.0), False, None, 12 + 100 / 20),
    ],
)
def test_time_to_the_first_token_follows_from_the_p95(
    health: EndpointHealth, stream: bool, reasoning: bool | None, first_token_s: float
) -> None:
    world = catalog(endpoint("a", health=health, capabilities=Capabilities(reasoning=reasoning)))
    plan = to_plan(routed(world, needs=Needs(stream=stream, max_output_tokens=100)))
    assert plan.candidates[0].timeouts.first_token_s == first_token_s


def test_an_operators_timeouts_win_and_the_rest_follows_from_what_is_measured() -> None:
    is_set = TimeoutsSet(connect_s=0.5, first_token_s=2.0, total_s=30.0)
    world = catalog(endpoint("a", health=measured(4.0)), providers=[provider("a", timeouts=is_set)])
    found = to_plan(routed(world)).candidates[0].timeouts
    assert found == Timeouts(connect_s=0.5, first_token_s=2.0, between_tokens_s=60.0, total_s=30.0)


def test_nothing_is_waited_for_longer_than_the_whole_may_take() -> None:
    world = catalog(endpoint("a"), providers=[provider("a", timeouts=TimeoutsSet(total_s=30.0))])
    assert to_plan(routed(world)).candidates[0].timeouts.first_token_s == 30.0


# What holds for any world

_price = st.sampled_from([None, "0", "0.5", "1", "1.004", "1.009", "1.018", "2", "50"])
_moment = st.sampled_from([None, NOW - timedelta(seconds=1), NOW + timedelta(seconds=9)])


@st.composite
def endpoints_of_m(draw: st.DrawFn) -> Endpoint:
    return Endpoint(
        provider_id=draw(st.sampled_from("abcdef")),
        provider_model_id=draw(st.sampled_from(["m", "x/m", "m-fp8"])),
        global_model_id="m",
        prices=prices(draw(_price), draw(_price)),
        is_flat_rate=draw(st.booleans()),
        context_window=draw(st.sampled_from([None, 100, 100_000])),
        capabilities=Capabilities(tools=draw(st.sampled_from([None, True, False]))),
        quantization=draw(st.sampled_from([None, "fp8"])),
        enabled=draw(st.integers(0, 9)) > 0,
        is_available=draw(st.integers(0, 4)) > 0,
        health=EndpointHealth(
            samples=draw(st.sampled_from([0, 100])),
            ttft_p95_s=draw(st.sampled_from([None, 0.5, 2.0])),
            tokens_per_s=draw(st.sampled_from([None, 30.0, 90.0])),
            error_rate=draw(st.sampled_from([None, 0.0, 0.2])),
            open_until=draw(_moment),
            limited_until=draw(_moment),
        ),
    )


worlds = st.lists(endpoints_of_m(), min_size=1, max_size=12, unique_by=lambda one: one.key)
wishes = st.builds(
    Preferences,
    order=st.lists(st.sampled_from("abcX"), max_size=3).map(tuple),
    only=st.sampled_from([(), (), ("a", "b", "c")]),
    ignore=st.sampled_from([(), ("a",)]),
    sort=st.sampled_from([None, "price", "latency", "throughput"]),
    allow_fallbacks=st.booleans(),
    max_price=st.sampled_from([None, MaxPrice(prompt=usd(1)), MaxPrice(completion=usd(2))]),
)
needs_of_all_kinds = st.builds(
    Needs,
    input_tokens=st.sampled_from([0, 90, 5000]),
    max_output_tokens=st.sampled_from([None, 10, 1000]),
    tools=st.booleans(),
)


def decided(found: Routed | RouteRefusal) -> object:
    if isinstance(found, RouteRefusal):
        return found
    return [one.endpoint.key for one in found.candidates], sorted(
        (out.endpoint.key, out.reason) for out in found.excluded
    )


@given(worlds, needs_of_all_kinds, wishes)
def test_everybody_is_either_a_candidate_or_out_and_nobody_both(
    endpoints: list[Endpoint], needs: Needs, preferences: Preferences
) -> None:
    found = route(catalog(*endpoints), ask(needs=needs, preferences=preferences), NOW)
    if isinstance(found, RouteRefusal):
        out = [(one.provider_id, one.provider_model_id) for one in found.excluded]
    else:
        out = [one.endpoint.key for one in found.excluded]
    candidates = [] if isinstance(found, RouteRefusal) else [one.endpoint.key for one in found.candidates]
    assert sorted(candidates + out) == sorted(one.key for one in endpoints)


@given(worlds, needs_of_all_kinds, wishes)
def test_no_candidate_is_unable_or_unwanted(
    endpoints: list[Endpoint], needs: Needs, preferences: Preferences
) -> None:
    found = route(catalog(*endpoints), ask(needs=needs, preferences=preferences), NOW)
    for one in () if isinstance(found, RouteRefusal) else found.candidates:
        candidate = one.endpoint
        assert candidate.enabled
        assert candidate.is_available
        assert candidate.capabilities.tools is not False or not needs.tools
        assert candidate.provider_id not in preferences.ignore
        assert not preferences.only or candidate.provider_id in preferences.only
        assert candidate.context_window is None or candidate.context_window >= needs.input_tokens


@given(worlds, needs_of_all_kinds, wishes, st.randoms(use_true_random=False))
def test_the_order_does_not_depend_on_the_order_of_the_input(
    endpoints: list[Endpoint], needs: Needs, preferences: Preferences, dice: random.Random
) -> None:
    world = catalog(*endpoints)
    eligible = filter_endpoints(world, tuple(endpoints), needs, Preferences(), NOW).eligible
    shuffled = list(eligible)
    dice.shuffle(shuffled)
    assert rank(shuffled, needs, preferences) == rank(eligible, needs, preferences)
    mixed = list(endpoints)
    dice.shuffle(mixed)
    request = ask(needs=needs, preferences=preferences)
    assert decided(route(catalog(*mixed), request, NOW)) == decided(route(world, request, NOW))


def ranked_by_cost(endpoints: list[Endpoint], needs: Needs) -> tuple[Ranked, ...]:
    return rank([Eligible(one, provider(one.provider_id)) for one in endpoints], needs, Preferences())


@given(worlds, needs_of_all_kinds)
def test_who_is_clearly_cheaper_is_never_behind(endpoints: list[Endpoint], needs: Needs) -> None:
    ranked = ranked_by_cost(endpoints, needs)
    for place, dear in enumerate(ranked):
        for later in ranked[place + 1 :]:
            assert later.knowledge >= dear.knowledge
            if dear.knowledge is later.knowledge and dear.expected_cost_usd and later.expected_cost_usd:
                assert dear.expected_cost_usd <= later.expected_cost_usd * EQUALLY_DEAR


@given(worlds, st.integers(1, 100_000), st.sampled_from(["0.5", "0.9", "0.995", "0.9999"]))
def test_a_cheaper_equal_candidate_never_ranks_below_a_dearer_one(
    endpoints: list[Endpoint], input_tokens: int, factor: str
) -> None:
    dear = replace(endpoints[0], prices=prices("1", "2"), is_flat_rate=False)
    twin = replace(
        dear, provider_id="zz", prices=Prices(input=usd(1) * usd(factor), output=usd(2) * usd(factor))
    )
    ranked = ranked_by_cost([dear, *endpoints[1:], twin], Needs(input_tokens=input_tokens))
    places = [one.endpoint.key for one in ranked]
    assert places.index(twin.key) < places.index(dear.key)
