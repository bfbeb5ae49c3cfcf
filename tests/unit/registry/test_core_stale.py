"""What gateways are told when the catalog changes under their plans."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from tests.unit.registry.core_world import NOW, catalog, endpoint, prices, updated

from synaxis_common.contracts.leases import PlansStale
from synaxis_common.slices import at_once
from synaxis_registry.core.catalog import Catalog, Endpoint, EndpointHealth, GlobalModel, Gone, Provider
from synaxis_registry.core.stale import NAMED_AT_MOST, stale

ONE = endpoint("a")
WORLD = catalog(ONE, endpoint("b"))


def told(before: Catalog, after: Catalog) -> PlansStale | None:
    return at_once(stale(before, after, ()))


def names(hint: PlansStale | None) -> list[tuple[str, str]]:
    assert hint is not None
    return [(name.provider_id, name.provider_model_id) for name in hint.endpoints]


def changed(**changes: Any) -> Catalog:
    return updated(WORLD, endpoints=[replace(ONE, **changes)])


def test_nothing_new_is_nothing_to_tell() -> None:
    assert told(WORLD, WORLD) is None
    assert told(WORLD, changed()) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"enabled": False},
        {"is_available": False},
    ],
)
def test_an_endpoint_that_takes_no_requests_now_is_named(changes: dict[str, Any]) -> None:
    hint = told(WORLD, changed(**changes))
    assert names(hint) == [("a", "m")]
    assert hint is not None
    assert not hint.everything


@pytest.mark.parametrize("trouble", ["open_until", "limited_until"])
def test_of_trouble_gateways_tell_each_other(trouble: str) -> None:
    later = NOW + timedelta(seconds=5)
    health = (
        EndpointHealth(open_until=later) if trouble == "open_until" else EndpointHealth(limited_until=later)
    )
    shaky = changed(health=health)
    assert told(WORLD, shaky) is None
    assert told(shaky, WORLD) is None


def test_an_endpoint_that_is_gone_is_named() -> None:
    assert names(told(WORLD, updated(WORLD, gone=Gone(endpoints=frozenset({ONE.key}))))) == [("a", "m")]


def test_all_endpoints_of_a_provider_that_is_off_are_named() -> None:
    world = catalog(endpoint("a", "m1"), endpoint("a", "m2"), endpoint("b"))
    off = Provider("a", "a", "https://a.example/v1", "openai", is_on=False)
    assert names(told(world, updated(world, providers=[off]))) == [("a", "m1"), ("a", "m2")]


def test_what_went_from_one_trouble_to_another_was_out_before() -> None:
    before, after = changed(enabled=False), changed(enabled=False, is_available=False)
    assert told(before, after) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"cost": prices("0.5", "1")},
        {"cost": prices("3", "4")},
        {"model": "m2"},
        {"base_url": "https://elsewhere.example/v1"},
        {"context_window": 4_000},
    ],
)
def test_another_price_model_or_address_makes_everything_be_asked_anew(changes: dict[str, Any]) -> None:
    hint = told(WORLD, updated(WORLD, endpoints=[endpoint("a", **changes)]))
    assert hint == PlansStale(everything=True)


def test_an_endpoint_that_is_new_or_back_makes_everything_be_asked_anew() -> None:
    new = catalog(ONE, endpoint("b"), endpoint("c"))
    assert told(
        WORLD, updated(WORLD, providers=new.providers.values(), endpoints=[endpoint("c")])
    ) == PlansStale(everything=True)
    assert told(changed(is_available=False), WORLD) == PlansStale(everything=True)


@pytest.mark.parametrize(
    "provider",
    [
        Provider("a", "a", "https://moved.example/v1", "openai"),
        Provider("a", "a", "https://a.example/v1", "openai", rate_limit_rpm=5),
    ],
)
def test_a_provider_at_another_address_or_with_limits_makes_everything_be_asked_anew(
    provider: Provider,
) -> None:
    assert told(WORLD, updated(WORLD, providers=[provider])) == PlansStale(everything=True)


def test_a_provider_that_nobody_could_use_may_change_unnoticed() -> None:
    before = changed(enabled=False)
    after = updated(before, providers=[Provider("a", "a", "https://moved.example/v1", "openai")])
    assert told(before, after) is None


def test_a_model_that_is_new_makes_everything_be_asked_anew() -> None:
    assert told(WORLD, updated(WORLD, models=[GlobalModel("n", "n")])) == PlansStale(everything=True)


def test_how_an_endpoint_has_done_lately_is_no_news() -> None:
    measured = EndpointHealth(samples=100, ttft_p95_s=0.3, error_rate=0.01)
    assert told(WORLD, changed(health=measured)) is None


def test_tenants_are_named_in_order() -> None:
    assert at_once(stale(WORLD, WORLD, {"umbra", "acme"})) == PlansStale(tenants=("acme", "umbra"))


def test_too_many_endpoints_are_not_named_one_by_one() -> None:
    def world(count: int, **others: Any) -> list[Endpoint]:
        return [endpoint("a", f"m{number:03}", **others) for number in range(count)]

    few, many = catalog(*world(NAMED_AT_MOST)), catalog(*world(NAMED_AT_MOST + 1))
    hint = told(few, updated(few, endpoints=world(NAMED_AT_MOST, enabled=False)))
    assert hint is not None
    assert (len(hint.endpoints), hint.everything) == (NAMED_AT_MOST, False)
    hint = told(many, updated(many, endpoints=world(NAMED_AT_MOST + 1, enabled=False)))
    assert hint == PlansStale(everything=True)
