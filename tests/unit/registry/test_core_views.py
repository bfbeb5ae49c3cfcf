"""The models that a tenant sees."""

from __future__ import annotations

from tests.unit.registry.core_world import TENANT, catalog, endpoint, measured

from synaxis_common.contracts.catalog import Capabilities, ModelFacts
from synaxis_common.contracts.routing import RefusalCode
from synaxis_registry.core.catalog import EndpointHealth, GlobalModel, Limit, Provider
from synaxis_registry.core.views import models_page, one_model, usable_model_ids

OFF = Provider("off", "off", "https://off.example/v1", "openai", is_on=False)
WORLD = catalog(
    endpoint("a", model="m1", capabilities=Capabilities(tools=True), context_window=8, health=measured(0.5)),
    endpoint("b", model="m1", is_available=False, health=EndpointHealth(samples=1, ttft_p95_s=9.0)),
    endpoint("off", model="m1"),
    endpoint("a", "y", model="m2"),
    endpoint("a", "z", model="m3", is_available=False),
    endpoint("off", "w", model="m4"),
    endpoint("a", "v", model="m5"),
    providers=[OFF],
    models=[
        GlobalModel(
            "m1",
            "Model one",
            vendor="acme",
            facts=ModelFacts(release_date="2026-03", capabilities=Capabilities(vision=True)),
            aliases=frozenset({"one"}),
        )
    ],
    limits=[Limit(TENANT, "m2", allowed=False)],
)


def test_only_models_that_are_served_and_allowed_are_listed() -> None:
    assert usable_model_ids(WORLD, TENANT) == ["m1", "m5"]
    assert usable_model_ids(WORLD, "other") == ["m1", "m2", "m5"]


def test_pages_follow_each_other_without_gap_or_repetition() -> None:
    seen: list[str] = []
    after: str | None = None
    while True:
        page = models_page(WORLD, "other", after, 2)
        seen += [model.id for model in page.models]
        after = page.next_after
        if after is None:
            break
    assert seen == ["m1", "m2", "m5"]


def test_a_model_is_shown_with_its_endpoints_the_available_ones_first() -> None:
    (view,) = one_model(WORLD, TENANT, "one").models
    assert (view.id, view.vendor, view.created) == ("m1", "acme", 1772323200)
    assert view.capabilities == ("tools", "vision")
    assert view.context_window == 8
    assert [(one.provider_id, one.is_available) for one in view.endpoints] == [("a", True), ("b", False)]
    assert [one.ttft_p95_s for one in view.endpoints] == [0.5, None], "one request is no percentile"


def test_why_a_model_is_not_shown() -> None:
    assert one_model(WORLD, TENANT, "m2").refusal is RefusalCode.MODEL_NOT_ALLOWED
    assert one_model(WORLD, TENANT, "m4").refusal is RefusalCode.MODEL_NOT_FOUND
    missing = one_model(WORLD, TENANT, "m11")
    assert (missing.refusal, missing.nearest[0]) == (RefusalCode.MODEL_NOT_FOUND, "m1")


def test_a_model_whose_endpoints_are_all_away_is_still_shown() -> None:
    (view,) = one_model(WORLD, TENANT, "m3").models
    assert [one.is_available for one in view.endpoints] == [False]
