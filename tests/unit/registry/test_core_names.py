"""Finding a model by what somebody typed."""

from __future__ import annotations

import time

from tests.unit.registry.core_world import catalog, endpoint, updated

from synaxis_registry.core.catalog import Catalog, GlobalModel, Gone
from synaxis_registry.core.lookup import Ambiguous, Found, Missing, lookup

WORLD = catalog(
    endpoint("nvidia", "google/gemma-3-27b-it", model="gemma-3-27b-it"),
    endpoint("openrouter", "google/gemma-3-27b-it:free", model="gemma-3-27b-it"),
    endpoint("openai", "gpt-4.1", model="gpt-4.1"),
    endpoint("off", "gpt-4", model="gpt-4", is_available=False),
    models=[
        GlobalModel("gpt-4.1", "GPT 4.1", aliases=frozenset({"gpt-latest", "shared"})),
        GlobalModel("gpt-4.1-mini", "GPT 4.1 mini", aliases=frozenset({"shared"})),
    ],
)


def found_id(asked: str) -> str:
    found = lookup(WORLD, asked)
    assert isinstance(found, Found), found
    return found.model.id


def test_a_model_is_found_by_its_id_an_alias_and_other_spellings() -> None:
    for asked in ("gpt-4.1", "gpt-latest", "GPT-4.1", "gpt 4.1", "gpt_4-1", " gpt-4.1 ", "GPT-Latest"):
        assert found_id(asked) == "gpt-4.1"


def test_a_provider_and_its_own_id_pin_one_endpoint_even_with_slashes_in_the_id() -> None:
    found = lookup(WORLD, "nvidia/google/gemma-3-27b-it")
    assert isinstance(found, Found)
    assert found.pinned is not None
    assert found.pinned.key == ("nvidia", "google/gemma-3-27b-it")


def test_a_providers_own_id_alone_finds_the_model_at_all_providers() -> None:
    found = lookup(WORLD, "google/gemma-3-27b-it")
    assert isinstance(found, Found)
    assert (found.model.id, found.pinned) == ("gemma-3-27b-it", None)


def test_an_alias_of_two_models_is_not_guessed() -> None:
    assert lookup(WORLD, "shared") == Ambiguous(("gpt-4.1", "gpt-4.1-mini"))


def test_a_wrong_name_gets_the_nearest_ones_those_that_are_served_first() -> None:
    found = lookup(WORLD, "gtp-4.1")
    assert isinstance(found, Missing)
    assert found.nearest[0] == "gpt-4.1"
    assert "gpt-4" in found.nearest[1:]
    assert "gemma-3-27b-it" not in found.nearest


def test_nothing_is_proposed_for_what_is_like_nothing() -> None:
    assert lookup(WORLD, "§§§") == Missing(())


def test_a_very_long_wrong_name_is_answered_quickly() -> None:
    many = catalog(models=[GlobalModel(f"model-{n}-instruct", "") for n in range(2000)])
    started = time.perf_counter()
    lookup(many, "model-instruct-" * 10_000)
    assert time.perf_counter() - started < 0.5


def test_an_updated_catalog_is_the_one_that_would_have_been_built() -> None:
    moved = endpoint("nvidia", "google/gemma-3-27b-it", model="gemma-3-27b")
    changed = updated(
        WORLD,
        endpoints=[moved],
        models=[GlobalModel("gemma-3-27b", "Gemma", aliases=frozenset({"gemma"}))],
        gone=Gone(endpoints=frozenset({("off", "gpt-4")}), models=frozenset({"gpt-4"})),
    )
    built = updated(
        Catalog(),
        providers=WORLD.providers.values(),
        models=changed.models.values(),
        endpoints=changed.endpoints.values(),
        keys=WORLD.keys.values(),
    )
    assert changed == built
    assert isinstance(lookup(changed, "gpt-4"), Missing)
    assert isinstance(lookup(changed, "gemma"), Found)


def test_what_did_not_change_is_shared_with_the_catalog_before() -> None:
    one = WORLD.endpoints[("openai", "gpt-4.1")]
    changed = updated(WORLD, endpoints=[one])
    assert changed.names is WORLD.names
    assert changed.models is WORLD.models
    assert changed.endpoints_by_provider_id is WORLD.endpoints_by_provider_id
    assert changed == WORLD
