"""A catalog that was changed bit by bit is the one that would have been built, in whichever order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from operator import attrgetter
from typing import Any, Protocol

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.registry.core_world import endpoint, prices, updated

from synaxis_common.contracts.leases import EndpointName, PlansStale
from synaxis_common.slices import at_once
from synaxis_registry.core.catalog import (
    ApiKey,
    Catalog,
    Changes,
    Endpoint,
    GlobalModel,
    Gone,
    KeyLimit,
    Limit,
    Provider,
)
from synaxis_registry.core.curation import merge, split_off
from synaxis_registry.core.effective import effective_model
from synaxis_registry.core.identity import KnownModel, ModelFacts, Offering, Resolver
from synaxis_registry.core.identity.index import ModelIndex
from synaxis_registry.core.limits import applicable, is_allowed
from synaxis_registry.core.lookup import lookup
from synaxis_registry.core.names import NameIndex
from synaxis_registry.core.records import GlobalModelRecord
from synaxis_registry.core.shards import MEMBERS_AT_ONCE, PostingsDraft, Shards, ShardsDraft
from synaxis_registry.core.stale import stale

NAMES = (
    "gpt-4",
    "gpt-4.1",
    "GPT 4.1",
    "gpt-4.1-2025-04-14",
    "gpt-4-1-mini",
    "o3",
    "o3-pro",
    "qwen3-8b",
    "Qwen3 8B",
)
PROVIDERS = ("openai", "azure", "groq")
TENANTS = ("acme", "umbra")
MODELS = st.sampled_from(NAMES)
LIMITED = st.tuples(st.sampled_from(TENANTS), st.sampled_from(("*", *NAMES)))
SOME = settings(max_examples=40)
ASKED = (*NAMES, *(f"{one}/gpt-4" for one in PROVIDERS), "openai/gpt-4.1", "nothing-like-it")


class Draw(Protocol):
    """What hypothesis hands to a composite strategy."""

    def __call__(self, strategy: st.SearchStrategy[Any]) -> Any: ...


models = st.builds(
    GlobalModel,
    id=st.sampled_from(NAMES),
    name=st.just("n"),
    vendor=st.sampled_from((None, "openai", "alibaba")),
    aliases=st.frozensets(st.sampled_from(NAMES), max_size=3),
)
endpoints = st.builds(
    lambda provider, name, model, cost: endpoint(provider, name, model=model, cost=prices(cost, cost)),
    st.sampled_from(PROVIDERS),
    st.sampled_from(NAMES),
    st.sampled_from(NAMES),
    st.sampled_from(("1", "2")),
)
providers = st.builds(
    Provider,
    provider_id=st.sampled_from(PROVIDERS),
    name=st.just("p"),
    base_url=st.just("https://p.example"),
    kind=st.just("openai"),
    is_on=st.booleans(),
)
limits = st.builds(
    Limit,
    tenant_id=st.sampled_from(TENANTS),
    global_model_id=st.sampled_from(("*", *NAMES)),
    allowed_rpm=st.sampled_from((None, 5)),
    allowed=st.booleans(),
)
key_limits = st.builds(KeyLimit, key_id=st.sampled_from(TENANTS), allowed_rpm=st.integers(1, 3))
keys = st.builds(
    lambda tenant, hedge: ApiKey(f"key-{tenant}", f"hash-{tenant}", tenant, hedge),
    st.sampled_from(TENANTS),
    st.booleans(),
)


@st.composite
def changes(draw: Draw) -> Changes:
    """Some rows of every kind, each once, and some that are gone."""
    gone = Gone(
        providers=draw(st.frozensets(st.sampled_from(PROVIDERS), max_size=1)),
        models=draw(st.frozensets(st.sampled_from(NAMES), max_size=2)),
        endpoints=draw(st.frozensets(st.tuples(st.sampled_from(PROVIDERS), MODELS), max_size=2)),
        keys=draw(st.frozensets(st.sampled_from([f"hash-{one}" for one in TENANTS]), max_size=1)),
        limits=draw(st.frozensets(LIMITED, max_size=2)),
        key_limits=draw(st.frozensets(st.sampled_from(TENANTS), max_size=1)),
    )
    return Changes(
        providers=draw(st.lists(providers, max_size=2, unique_by=attrgetter("provider_id"))),
        models=draw(st.lists(models, max_size=3, unique_by=attrgetter("id"))),
        endpoints=draw(st.lists(endpoints, max_size=3, unique_by=attrgetter("key"))),
        keys=draw(st.lists(keys, max_size=2, unique_by=attrgetter("key_hash"))),
        limits=draw(st.lists(limits, max_size=2, unique_by=attrgetter("scope"))),
        key_limits=draw(st.lists(key_limits, max_size=2, unique_by=attrgetter("key_id"))),
        gone=gone,
    )


class Rows:
    """The rows by their keys, changed in the plainest way."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[Any, Any]] = {name: {} for name in Gone.__slots__}

    def change(self, some: Changes) -> None:
        key_of: dict[str, Callable[[Any], Any]] = {
            "providers": lambda one: one.provider_id,
            "models": lambda one: one.id,
            "endpoints": lambda one: one.key,
            "keys": lambda one: one.key_hash,
            "limits": lambda one: (one.tenant_id, one.global_model_id),
            "key_limits": lambda one: one.key_id,
        }
        for name, table in self.tables.items():
            table |= {key_of[name](one): one for one in getattr(some, name)}
            for key in getattr(some.gone, name):
                table.pop(key, None)

    def built(self) -> Catalog:
        return updated(Catalog(), **{name: table.values() for name, table in self.tables.items()})


@SOME
@given(st.lists(changes(), max_size=6))
def test_a_catalog_changed_bit_by_bit_is_the_one_that_would_be_built(steps: list[Changes]) -> None:
    changed, rows = Catalog(), Rows()
    for some in steps:
        before, was = changed, rows.built()
        changed = at_once(changed.changing(some))
        rows.change(some)
        assert before == was, "a change showed in the catalog before it"
        assert changed == rows.built()
    built = rows.built()
    for asked in ASKED:
        assert lookup(changed, asked) == lookup(built, asked)
    for tenant in TENANTS:
        assert applicable(changed.limits, tenant, NAMES) == applicable(built.limits, tenant, NAMES)
        assert [is_allowed(changed.limits, tenant, one) for one in NAMES] == [
            is_allowed(built.limits, tenant, one) for one in NAMES
        ]


@SOME
@given(st.lists(changes(), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_changes_of_different_rows_may_come_in_any_order(steps: list[Changes], random: Any) -> None:
    together = Rows()
    for some in steps:
        together.change(some)
    rows = [(name, one) for name, table in together.tables.items() for one in table.values()]
    random.shuffle(rows)
    changed = Catalog()
    for name, one in rows:
        row: dict[str, Any] = {name: [one]}
        changed = at_once(changed.changing(Changes(**row)))
    assert changed == together.built()


@SOME
@given(st.lists(changes(), min_size=2, max_size=4))
def test_what_gateways_hear_of_a_change_is_what_all_rows_say(steps: list[Changes]) -> None:
    before = Catalog()
    for some in steps:
        after = at_once(before.changing(some))
        assert at_once(stale(before, after, ())) == said_by_all_rows(before, after)
        before = after


def said_by_all_rows(before: Catalog, after: Catalog) -> PlansStale | None:
    def taking(world: Catalog, key: tuple[str, str]) -> tuple[Endpoint, Provider] | None:
        one, provider = world.endpoints.get(key), world.providers.get(key[0])
        if one is None or provider is None or not (provider.is_on and one.enabled and one.is_available):
            return None
        return one, provider

    gone, is_better = list[EndpointName](), before.models != after.models
    for key in sorted({*before.endpoints, *after.endpoints}):
        was, now = taking(before, key), taking(after, key)
        if was is not None and now is None:
            gone.append(EndpointName(provider_id=key[0], provider_model_id=key[1]))
        is_better |= now is not None and was != now
    return PlansStale(endpoints=tuple(gone), everything=is_better) if gone or is_better else None


def test_merges_and_splits_bit_by_bit_are_what_would_be_built() -> None:
    one = GlobalModelRecord(id="gpt-4.1", name="GPT 4.1", aliases=frozenset({"gpt-4-1"}))
    other = GlobalModelRecord(id="gpt-41", name="GPT 41", aliases=frozenset({"gpt41"}))
    rows = [endpoint("openai", "gpt-4.1", model="gpt-4.1"), endpoint("azure", "gpt-41", model="gpt-41")]
    world = updated(Catalog(), models=[effective_model(one), effective_model(other)], endpoints=rows)
    _, survivor = merge(other, one)
    merged = updated(
        world,
        models=[effective_model(survivor)],
        endpoints=[replace(rows[1], global_model_id="gpt-4.1")],
        gone=Gone(models=frozenset({"gpt-41"})),
    )
    assert merged == updated(Catalog(), models=merged.models.values(), endpoints=merged.endpoints.values())
    new = split_off(survivor, "gpt-4.1-azure", None)
    split = updated(
        merged, models=[effective_model(new)], endpoints=[replace(rows[1], global_model_id="gpt-4.1-azure")]
    )
    assert split == updated(Catalog(), models=split.models.values(), endpoints=split.endpoints.values())
    assert split.models_called("GPT-41") == {"gpt-4.1-azure"}


known = st.builds(
    KnownModel,
    id=st.sampled_from(("gpt-4", "gpt-4-1", "gpt-4-1-mini", "o3", "qwen3-8b", "qwen3-8b-2025-04")),
    vendor=st.sampled_from((None, "openai")),
    source_id=st.sampled_from((None, "openai/gpt-4.1", "alibaba/qwen3-8b")),
    facts=st.builds(ModelFacts, name=st.sampled_from((None, "GPT-4.1", "Qwen3 8B"))),
    aliases=st.frozensets(st.sampled_from(NAMES), max_size=2),
)


@SOME
@given(
    st.lists(
        st.tuples(st.lists(known, max_size=3), st.frozensets(st.sampled_from(("gpt-4", "o3")))), max_size=5
    )
)
def test_a_resolver_changed_bit_by_bit_decides_as_one_that_is_new(
    steps: list[tuple[list[KnownModel], frozenset[str]]],
) -> None:
    resolver, rows = Resolver([]), dict[str, KnownModel]()
    for some, gone in steps:
        resolver = at_once(resolver.changing(some, gone))
        for model_id in gone:
            rows.pop(model_id, None)
        rows |= {one.id: one for one in some}
    assert resolver.index == ModelIndex(rows.values())
    new = Resolver(rows.values())
    for name in NAMES:
        offering = Offering("openai", name)
        assert resolver.resolve(offering) == new.resolve(offering)


def test_what_is_learnt_leaves_the_index_before_as_it_was() -> None:
    resolver = Resolver([KnownModel("gpt-4")])
    before = resolver.index
    resolver.learn(KnownModel("o3"))
    assert "o3" in resolver.index.models
    assert "o3" not in before.models


@SOME
@given(st.lists(st.tuples(st.integers(0, 2_000), st.one_of(st.none(), st.integers())), max_size=60))
def test_a_draft_changes_a_mapping_as_a_dict_would_be(steps: list[tuple[int, int | None]]) -> None:
    plain = dict.fromkeys(range(0, 1_500, 3), -1)
    before = Shards(plain)
    draft = ShardsDraft(before)
    for key, value in steps:
        if value is None:
            plain.pop(key, None)
            draft.discard(key)
        else:
            plain[key] = draft[key] = value
    after = draft.frozen()
    assert (dict(after), len(after), after) == (plain, len(plain), Shards(plain))
    assert before == dict.fromkeys(range(0, 1_500, 3), -1)
    assert set(after.differing(before)) == {
        key for key in plain.keys() | before.keys() if plain.get(key) is not before.get(key)
    }


def test_a_mapping_that_nothing_changed_is_the_same_one() -> None:
    before = Shards({"a": frozenset({1})})
    assert ShardsDraft(before).frozen() is before
    draft = PostingsDraft(before)
    draft.add("a", 1)
    draft.discard("b", 2)
    assert at_once(draft.freezing()) is before


def test_a_set_of_thousands_is_changed_in_steps_and_comes_to_the_same() -> None:
    before = Shards({"many": frozenset(range(3_000)), "few": frozenset({1})})
    draft = PostingsDraft(before)
    for member in range(1_000, 6_500):
        if member % 2:
            draft.add("many", member)
        else:
            draft.discard("many", member)
    draft.discard("few", 1)
    steps = list[None]()
    work = draft.freezing()
    while True:
        try:
            steps.append(next(work))
        except StopIteration as done:
            after = done.value
            break
    assert dict(after) == {"many": frozenset({*range(1_000), *range(1_001, 6_500, 2)})}
    assert len(steps) >= 6_500 // MEMBERS_AT_ONCE


def test_a_frozen_draft_can_be_changed_on_without_what_was_taken_from_it() -> None:
    draft = ShardsDraft(Shards({"a": 1}))
    draft["b"] = 2
    first = draft.frozen()
    draft["c"] = 3
    assert (dict(first), dict(draft.frozen())) == ({"a": 1, "b": 2}, {"a": 1, "b": 2, "c": 3})


def test_the_nearest_names_are_found_among_thousands_that_are_alike() -> None:
    index = NameIndex.build({f"model-{number}-instruct": () for number in range(10_000)})
    assert index.nearest("model-4711-instrct")[0] == "model-4711-instruct"


def test_a_changed_endpoint_of_a_model_is_the_one_that_is_planned_with() -> None:
    world = updated(
        Catalog(),
        models=[GlobalModel("m", "m")],
        endpoints=[endpoint("a"), endpoint("b", cost=prices("3", "3"))],
    )
    cheaper: Endpoint = endpoint("b", cost=prices("0.1", "0.1"))
    assert updated(world, endpoints=[cheaper]).endpoints_of("m") == (endpoint("a"), cheaper)
