"""A reply that is put together from bytes is the one that would be written anew."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.registry.core_world import NOW, ask, catalog, endpoint, measured, prices, updated

from synaxis_common.contracts.leases import Permit, SlotGrant
from synaxis_common.contracts.routing import Needs, RateLimitView, RouteReply
from synaxis_registry.core import written_plans
from synaxis_registry.core.catalog import Catalog, GlobalModel, Provider
from synaxis_registry.core.plan import Routed, route, to_plan
from synaxis_registry.core.written_plans import WrittenPlans

WORLD = catalog(
    *(endpoint(f"p{n:02}", cost=prices(f"{n + 1}", "1")) for n in range(12)),
    endpoint("p00", "other", model='n","permit":null,"x'),
    models=[GlobalModel('n","permit":null,"x', "n")],
    providers=[
        Provider("p01", 'P","permit":null', "https://a.example/v1", "openai", headers={"permit": "null"})
    ],
)


def routed(world: Catalog = WORLD, model: str = "m", **needs: int) -> Routed:
    found = route(world, ask(model, needs=Needs(**needs)), NOW)
    assert isinstance(found, Routed)
    return found


permits = st.builds(
    Permit,
    lease_id=st.uuids(),
    permits=st.integers(0, 100),
    tokens_each=st.integers(0, 1_000),
    usd_each=st.decimals(0, 10, places=6),
    slots=st.lists(st.builds(SlotGrant, scope=st.just("t/a/*"), slots=st.integers(0, 9)), max_size=2).map(
        tuple
    ),
)
limits = st.builds(
    RateLimitView, limit_requests=st.none() | st.integers(0, 9), reset_tokens_s=st.none() | st.just(1.5)
)


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.uuids(),
            st.sampled_from(("m", 'n","permit":null,"x')),
            st.sampled_from((0, 100)),
            st.none() | permits,
            st.none() | limits,
        ),
        min_size=1,
        max_size=6,
    )
)
def test_a_reply_is_what_would_be_written_anew(
    questions: list[tuple[UUID, str, int, Permit | None, RateLimitView | None]],
) -> None:
    plans = WrittenPlans()
    for request_id, model, tokens, permit, view in questions:
        decided = replace(routed(model=model, input_tokens=tokens), request_id=request_id)
        wanted = RouteReply(answer=to_plan(decided, permit, view)).to_bytes()
        assert plans.reply(decided, permit, view) == wanted


def test_what_has_changed_is_written_anew() -> None:
    plans = WrittenPlans()
    plans.reply(routed())
    for changed in (
        endpoint("p00", cost=prices("0.5", "1")),
        endpoint("p00", cost=prices("0.5", "1"), health=measured(0.3)),
        endpoint("p00", is_available=False),
    ):
        decided = routed(updated(WORLD, endpoints=[changed]))
        assert plans.reply(decided) == RouteReply(answer=to_plan(decided)).to_bytes()


def test_a_plan_for_one_key_is_not_anothers() -> None:
    plans = WrittenPlans()
    mine = routed()
    plans.reply(mine)
    other = replace(mine, asker=replace(mine.asker, key_id="key-2", hedge=True))
    assert plans.reply(other) == RouteReply(answer=to_plan(other)).to_bytes()


def test_only_so_many_plans_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(written_plans, "REMEMBERED", 3)
    plans = WrittenPlans()
    for tokens in range(10):
        plans.reply(routed(input_tokens=tokens))
    assert len(plans._written) == 3
