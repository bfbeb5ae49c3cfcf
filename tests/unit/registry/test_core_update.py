"""What models.dev says becomes rows: once, in any order, and without trusting it too far."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.registry.core_world import NOW, World, complete, prices, resolve, said

from synaxis_common.contracts.catalog import CatalogProvider, Prices
from synaxis_registry.core.changes import ProviderUpdate
from synaxis_registry.core.records import ProviderRecord
from synaxis_registry.core.trust import provider_state
from synaxis_registry.core.update import apply_complete, apply_provider, vanished

NOTHING = ProviderUpdate()
KEYS = frozenset({"ACME_API_KEY"})


def hear(world: World, *messages: CatalogProvider, keys: frozenset[str] | None = frozenset()) -> World:
    for message in messages:
        world.apply(apply_provider(world.record, world.rows, message, NOW, resolve, keys))
    return world


def later(minutes: int) -> dict[str, Any]:
    return {"observed_at": NOW + timedelta(minutes=minutes), "content_hash": f"h{minutes}"}


def test_a_provider_and_its_models_are_new() -> None:
    world = hear(World(), said("x/a", "b", cost=prices("0.10", "0.123456789")))
    assert world.provider.base_url == "https://api.acme.example/v1"
    assert world.provider.content_hash == "h1"
    assert {key: row.global_model_id for key, row in world.rows.items()} == {"x/a": "a", "b": "b"}
    assert world.rows["b"].prices == prices("0.10", "0.123456789")
    assert world.told() == [], "nobody has a key: nothing to tell"


def test_the_same_again_changes_nothing() -> None:
    world = hear(World(), said("a", "b"))
    assert apply_provider(world.record, world.rows, said("a", "b"), NOW, resolve) == NOTHING


def test_only_rows_that_differ_are_written() -> None:
    world = hear(World(), said("a", "b"))
    update = apply_provider(world.record, world.rows, said("a", "b", "c", **later(5)), NOW, resolve)
    assert [row.provider_model_id for row in update.upserts] == ["c"]


def test_what_is_older_than_what_is_known_changes_nothing() -> None:
    world = hear(World(), said("a", **later(5)))
    assert apply_provider(world.record, world.rows, said("b"), NOW, resolve) == NOTHING


def test_what_vanished_from_models_dev_is_retired_and_comes_back() -> None:
    world = hear(World(), said("a", "b"), said("a", **later(5)))
    assert world.rows["b"].retired_at == NOW
    hear(world, said("a", "b", **later(9)))
    assert world.rows["b"].retired_at is None


def test_a_message_without_any_model_makes_nothing_vanish() -> None:
    world = hear(World(), said("a"), said(**later(5)))
    assert world.rows["a"].in_catalog


def test_events_are_told_of_providers_that_are_on() -> None:
    world = hear(World(), said("a", "b"), keys=KEYS)
    assert world.told() == ["model.discovered a", "model.discovered b"]
    hear(world, said("a", "b", cost=prices("2", "2"), **later(5)), keys=KEYS)
    assert world.told() == ["model.repriced a", "model.repriced b"]


def test_the_parts_of_a_large_provider_may_come_in_any_order_and_twice() -> None:
    old = said("a", "gone")
    parts = [said(name, part=n, parts=3, **later(5)) for n, name in enumerate("abc")]
    for order in itertools.permutations(parts):
        world = hear(World(), old, order[0], order[1], order[0])
        assert world.provider.content_hash == "h1", "not complete, so not applied"
        assert world.rows["gone"].in_catalog
        hear(world, order[2])
        assert world.provider.content_hash == "h5"
        assert world.provider.pending_catalog is None
        assert {key for key, row in world.rows.items() if row.in_catalog} == {"a", "b", "c"}


@given(st.permutations(range(4)), st.integers(0, 3))
def test_messages_in_any_order_lead_to_what_the_newest_says(order: list[int], again: int) -> None:
    messages = [
        said(*names, cost=prices("1", str(n + 1)), **later(n))
        for n, names in enumerate(["a", "ab", "b", "bc"])
    ]
    world = hear(World(), *(messages[n] for n in order), messages[again])
    assert {key for key, row in world.rows.items() if row.in_catalog} == {"b", "c"}
    assert world.rows["c"].prices == prices("1", "4")


def test_a_provider_that_is_on_keeps_what_its_own_list_may_still_have() -> None:
    world = hear(World(), said("a", "b"), said("a", **later(5)), keys=KEYS)
    assert not world.rows["b"].in_catalog
    assert world.rows["b"].retired_at is None


# What models.dev is not trusted with


def test_a_changed_host_detaches_the_key_and_says_so() -> None:
    world = hear(World(), said("a"), keys=KEYS)
    assert world.provider.pinned_host == "api.acme.example"
    world.told()
    stolen = said("a", base_url="https://api.evil.example/v1", **later(5))
    update = world.apply(apply_provider(world.record, world.rows, stolen, NOW, resolve, KEYS))
    assert provider_state(world.provider).off_reason == "host_unconfirmed"
    assert world.told() == ["provider.disabled acme-ai"]
    assert "api.evil.example" in update.events[0].data.reason  # type: ignore[union-attr]
    hear(world, said("a", **later(9)), keys=KEYS)
    assert provider_state(world.provider).is_on
    assert world.told() == ["provider.recovered acme-ai"]


def test_a_host_that_no_key_has_gone_to_yet_is_not_pinned() -> None:
    world = hear(World(), said("a"), said("a", base_url="https://new.acme.example/v1", **later(5)))
    assert (world.provider.pinned_host, world.provider.host_confirmed) == (None, True)


def test_the_shipped_hosts_are_pinned_before_any_use() -> None:
    fake = said("m", provider_id="openai", base_url="https://api.openai.evil.example/v1")
    world = hear(World(), fake, keys=KEYS)
    assert provider_state(world.provider).off_reason == "host_unconfirmed"
    real = said("m", provider_id="openai", base_url=None, npm="@ai-sdk/openai")
    assert hear(World(), real, keys=KEYS).provider.base_url == "https://api.openai.com/v1"


def test_a_model_at_another_host_than_its_providers_is_not_used() -> None:
    world = hear(World(), said("a"), keys=KEYS)
    elsewhere = said("a", **later(5))
    moved = elsewhere.models[0].model_copy(update={"base_url": "https://elsewhere.example/v1"})
    hear(world, elsewhere.model_copy(update={"models": (moved,)}), keys=KEYS)
    assert world.reasons() == {"a": "unsupported"}


def test_a_price_that_jumps_waits_and_the_old_one_stays_in_force() -> None:
    world = hear(World(), said("a", cost=prices("1", "2")), said("a", cost=prices("0.4", "2"), **later(5)))
    assert world.rows["a"].prices == prices("1", "2")
    assert world.rows["a"].held_prices == prices("0.4", "2")
    hear(world, said("a", cost=prices("0.9", "2"), **later(9)))
    assert world.rows["a"] == replace(world.rows["a"], prices=prices("0.9", "2"), held_prices=None)


def test_a_price_that_is_no_longer_named_is_unknown() -> None:
    world = hear(World(), said("a"), said("a", cost=Prices(), **later(5)))
    assert world.rows["a"].prices == Prices()


# The end of a run


def providers(*ids: str) -> dict[str, ProviderRecord]:
    return {one: hear(World(), said("a", provider_id=one)).provider for one in ids}


def test_providers_that_a_run_no_longer_saw_are_retired_with_their_models() -> None:
    known = providers("a", "b", "c")
    rows = {"c": hear(World(), said("m", provider_id="c")).rows}
    message = complete("a", "b")
    assert vanished(known, message, None) == ("c",)
    (update,) = apply_complete(known, rows, message, NOW, None).updates
    assert update.record is not None
    assert provider_state(update.record).off_reason == "retired"
    assert update.record.content_hash is None, "so that it is told again if it comes back unchanged"
    assert [row.retired_at for row in update.upserts] == [NOW]


def test_a_provider_that_comes_back_is_as_before() -> None:
    known = providers("a", "b", "c")
    (update,) = apply_complete(known, {}, complete("a", "b"), NOW, None).updates
    world = hear(World(update.record), said("m", provider_id="c"))
    assert (world.provider.retired_at, world.provider.content_hash) == (None, "h1")


def test_if_most_vanished_nothing_is_retired() -> None:
    found = apply_complete(providers("a", "b", "c"), {}, complete("a"), NOW, None)
    assert found.updates == ()
    assert found.refused == "2 of 3 providers vanished at once: none retired"


def test_a_closing_message_that_comes_late_retires_nothing() -> None:
    known = providers("a", "b", "c")
    old = complete("a", "b", observed_at=NOW - timedelta(days=1))
    assert vanished(known, old, None) == (), "c was told of later than that"
    assert vanished(known, complete("a", "b"), NOW + timedelta(days=1)) == ()


def test_an_operators_provider_outlives_models_dev() -> None:
    known = providers("a", "b", "c")
    known["c"] = replace(known["c"], source="operator", enabled=True, api_key_envs=())
    (update,) = apply_complete(known, {}, complete("a", "b"), NOW, None).updates
    assert update.record is not None
    assert update.record.retired_at is None
    assert update.record.catalog is None
