"""What operators say, and how they take it back."""

from __future__ import annotations

from dataclasses import replace

from tests.unit.registry.core_world import CONFIRM, NOW, World, poll, prices, resolve, said, usd

from synaxis_common.contracts.admin import ModelPatch, ProviderModelPatch, ProviderPut
from synaxis_registry.core.availability import observe
from synaxis_registry.core.changes import ProviderUpdate
from synaxis_registry.core.effective import effective_endpoint, effective_model, effective_provider
from synaxis_registry.core.operators import drop_provider, patch_global, patch_model, put_provider
from synaxis_registry.core.records import GlobalModelRecord
from synaxis_registry.core.trust import provider_state
from synaxis_registry.core.update import apply_provider

LOCAL = ProviderPut(base_url="http://127.0.0.1:9000/v1/")


def put(world: World, body: ProviderPut = LOCAL) -> World:
    world.apply(put_provider(world.record, "acme-ai", body, world.rows, NOW, allow_private=True))
    return world


def polled(world: World, at_s: float, *ids: str) -> World:
    world.apply(observe(world.provider, world.rows, poll(at_s, *ids), NOW, CONFIRM, resolve))
    return world


def patch(world: World, model_id: str, **fields: object) -> World:
    body = ProviderModelPatch.model_validate(fields)
    world.apply(patch_model(world.provider, world.rows[model_id], body, NOW, resolve))
    return world


def test_a_provider_that_is_put_is_on_and_polled_at_once() -> None:
    world = put(World())
    assert world.provider.base_url == "http://127.0.0.1:9000/v1"
    assert provider_state(world.provider).is_on
    assert world.provider.next_poll_at == NOW
    assert effective_provider(world.provider).allow_private


def test_putting_the_same_again_keeps_its_models_and_polls_it() -> None:
    world = polled(put(World()), 1, "a")
    put(world)
    assert world.available() == {"a"}
    assert world.provider.next_poll_at == NOW


def test_a_provider_that_is_disabled_is_off_with_all_its_models() -> None:
    world = polled(put(World()), 1, "a")
    world.told()
    put(world, LOCAL.model_copy(update={"enabled": False}))
    assert world.told() == ["provider.disabled acme-ai", "model.unavailable a"]


def test_a_provider_that_is_dropped_is_retired_with_its_models() -> None:
    world = polled(put(World()), 1, "a")
    world.told()
    world.apply(drop_provider(world.provider, world.rows, NOW))
    assert world.rows["a"].retired_at == NOW
    assert world.told() == ["provider.disabled acme-ai", "model.unavailable a"]
    assert provider_state(put(world).provider).is_on, "it can be put again"


def test_a_provider_of_models_dev_goes_back_to_models_devs_word() -> None:
    world = World()
    world.apply(apply_provider(None, {}, said("a"), NOW, resolve, {"ACME_API_KEY"}))
    before = world.provider
    put(world)
    assert (world.provider.source, world.provider.pinned_host) == ("operator", "127.0.0.1:9000")
    world.apply(drop_provider(world.provider, world.rows, NOW, {"ACME_API_KEY"}))
    assert world.provider.base_url == before.base_url
    assert world.provider.api_key_envs == ("ACME_API_KEY",)
    assert provider_state(world.provider).is_on, "the host that the operator had put is forgotten"
    assert drop_provider(before, world.rows, NOW) == ProviderUpdate()


def test_a_pin_wins_over_the_resolver_and_can_be_taken_back() -> None:
    world = polled(put(World()), 1, "a")
    patch(world, "a", global_model_id="other")
    assert (world.rows["a"].global_model_id, world.rows["a"].resolved_by) == ("other", "pin")
    polled(world, 60, "a")
    assert world.rows["a"].global_model_id == "other"
    patch(world, "a", global_model_id=None)
    assert (world.rows["a"].global_model_id, world.rows["a"].resolved_by) == ("a", "test")


def test_a_price_override_reprices_and_can_be_taken_back() -> None:
    world = put(World())
    world.apply(observe(world.provider, {}, poll(1, "a", cost=prices("1", "2")), NOW, CONFIRM, resolve))
    world.told()
    patch(world, "a", input_price="5", output_price="6")
    assert effective_endpoint(world.rows["a"], world.provider).prices == prices("5", "6")
    patch(world, "a", input_price=None, output_price=None)
    assert effective_endpoint(world.rows["a"], world.provider).prices == prices("1", "2")
    assert world.told() == ["model.repriced a", "model.repriced a"]


def test_naming_the_held_prices_confirms_them() -> None:
    world = put(World())
    for at, price in ((1, "9"), (60, "1")):
        update = observe(
            world.provider, world.rows, poll(at, "a", cost=prices(price, price)), NOW, CONFIRM, resolve
        )
        world.apply(update)
    assert world.rows["a"].held_prices == prices("1", "1")
    patch(world, "a", input_price="1", output_price="1")
    patch(world, "a", input_price=None, output_price=None)
    assert world.rows["a"] == replace(world.rows["a"], prices=prices("1", "1"), held_prices=None)


def test_limits_of_an_endpoint_can_be_corrected() -> None:
    world = patch(polled(put(World()), 1, "a"), "a", context_window=4096, max_output=100, rate_limit_rpm=5)
    found = effective_endpoint(world.rows["a"], world.provider)
    assert (found.context_window, found.max_output, found.rate_limit_rpm) == (4096, 100, 5)


def test_a_model_can_be_disabled_and_enabled() -> None:
    world = polled(put(World()), 1, "a")
    world.told()
    patch(world, "a", enabled=False)
    assert world.reasons() == {"a": "disabled"}
    patch(world, "a", enabled=None)
    assert world.told() == ["model.unavailable a", "model.available a"]


def test_what_an_operator_leaves_out_stays() -> None:
    world = patch(polled(put(World()), 1, "a"), "a", enabled=False, context_window=5)
    patch(world, "a", rate_limit_tpm=7)
    assert (world.rows["a"].enabled, world.rows["a"].override_context_window) == (False, 5)


def test_a_global_models_name_aliases_and_status_can_be_set_and_taken_back() -> None:
    known = GlobalModelRecord("m", "M", aliases=frozenset({"one"}))
    patched = patch_global(known, ModelPatch(name="New", aliases=("two",), status="deprecated"))
    seen = effective_model(patched)
    assert (seen.name, seen.aliases, seen.status) == ("New", frozenset({"two"}), "deprecated")
    back = patch_global(patched, ModelPatch.model_validate({"name": None, "aliases": None, "status": None}))
    assert effective_model(back) == effective_model(known)


def test_zero_by_an_operators_word_is_free() -> None:
    world = polled(put(World()), 1, "a")
    patch(world, "a", input_price=usd(0), output_price=usd(0))
    assert not effective_endpoint(world.rows["a"], world.provider).is_flat_rate
