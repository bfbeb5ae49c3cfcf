"""Operators decide which models are one and which are two, and every decision can be explained."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.integration.test_registry_admin import answer, ask
from tests.support.registry import MODEL, Rig, eventually, running_registries

from synaxis_common.contracts.admin import AdminStatus
from synaxis_common.contracts.routing import RefusalCode, RoutePlan

OTHER = "whisperer-9-large"


@pytest.fixture
async def served(fresh_nats_url: str, fresh_database_url: str) -> AsyncIterator[Rig]:
    """Two providers; both serve one model, `beta` another one too. One registry."""
    async with running_registries(fresh_nats_url, fresh_database_url) as rig:
        await rig.catalog(datetime.now(UTC), run=1)
        await rig.put_provider("alpha")
        await rig.put_provider("beta")
        await rig.observe("alpha", (MODEL,))
        await rig.observe("beta", (MODEL, f"acme/{OTHER}"))

        async def listed() -> bool:
            return len((await answer(rig, "provider-model.list", query={"available": "true"}))["data"]) == 3

        await eventually(listed, "three provider models are available")
        yield rig


async def of_model(rig: Rig, name: str) -> set[tuple[str, str]]:
    rows = (await answer(rig, "model.get", model=name))["endpoints"]
    return {(row["provider_id"], row["provider_model_id"]) for row in rows}


async def one(rig: Rig, provider: str, provider_model_id: str) -> Any:
    return await answer(rig, "provider-model.get", provider=provider, provider_model_id=provider_model_id)


async def test_a_decision_is_explained_with_its_rule_evidence_and_runners_up(served: Rig) -> None:
    why = (await one(served, "beta", f"acme/{OTHER}"))["resolution"]
    assert (why["global_model_id"], why["rule"]) == (OTHER, "same-model")
    why = (await one(served, "alpha", MODEL))["resolution"]
    assert why["global_model_id"] == MODEL
    assert why["evidence"]
    assert set(why) >= {"confidence", "runners_up", "attributes"}


async def test_merged_models_are_one_under_every_name_and_stay_so(served: Rig) -> None:
    merged = await answer(served, "model.merge", {"into": MODEL}, model=OTHER)
    assert OTHER in merged["aliases"]
    everywhere = {("alpha", MODEL), ("beta", MODEL), ("beta", f"acme/{OTHER}")}
    assert await of_model(served, OTHER) == await of_model(served, MODEL) == everywhere
    await served.catalog(
        datetime.now(UTC) + timedelta(days=1), run=2, prices={"alpha": "0.11", "beta": "0.21"}
    )
    await served.observe("beta", (MODEL, f"acme/{OTHER}", f"other/{OTHER}"))

    async def joined() -> bool:
        return ("beta", f"other/{OTHER}") in await of_model(served, MODEL)

    await eventually(joined, "a provider model that comes later joins the merged model")
    key_hash = await served.new_key("acme")
    plan = await served.route(key_hash, OTHER)
    assert isinstance(plan, RoutePlan)
    assert plan.global_model_id == MODEL
    again = await ask(served, "model.merge", {"into": MODEL}, model=OTHER)
    assert again.status is AdminStatus.INVALID


async def test_a_split_provider_model_is_another_model_and_survives_a_sync(served: Rig) -> None:
    chosen = [{"provider_id": "beta", "provider_model_id": MODEL}]
    split = await answer(
        served, "model.split", {"id": "talker-2-mini-b", "provider_models": chosen}, model=MODEL
    )
    assert (split["id"], split["vendor"]) == ("talker-2-mini-b", "acme")
    assert await of_model(served, "talker-2-mini-b") == {("beta", MODEL)}
    assert await of_model(served, MODEL) == {("alpha", MODEL)}
    await served.catalog(
        datetime.now(UTC) + timedelta(days=1), run=2, prices={"alpha": "0.11", "beta": "0.21"}
    )
    row = await one(served, "beta", MODEL)
    assert (row["global_model_id"], row["resolved_by"], row["pinned"]) == ("talker-2-mini-b", "pin", True)
    assert row["resolution"]["global_model_id"] == MODEL, "what the rules say is shown beside the pin"
    await answer(
        served, "provider-model.patch", {"global_model_id": None}, provider="beta", provider_model_id=MODEL
    )
    assert await of_model(served, MODEL) == {("alpha", MODEL), ("beta", MODEL)}


async def test_a_split_of_what_is_not_there_changes_nothing(served: Rig) -> None:
    chosen = [
        {"provider_id": "beta", "provider_model_id": MODEL},
        {"provider_id": "beta", "provider_model_id": "x"},
    ]
    reply = await ask(
        served, "model.split", {"id": "talker-2-mini-b", "provider_models": chosen}, model=MODEL
    )
    assert reply.status is AdminStatus.NOT_FOUND
    assert await of_model(served, MODEL) == {("alpha", MODEL), ("beta", MODEL)}
    assert (await ask(served, "model.get", model="talker-2-mini-b")).status is AdminStatus.NOT_FOUND


async def test_the_review_list_shows_the_unsure_ones_first_and_not_those_that_are_pinned(served: Rig) -> None:
    async def review() -> list[Any]:
        rows: list[Any] = []
        query = {"review": "true", "limit": "1"}
        while True:
            body = await answer(served, "provider-model.list", query=query)
            rows += body["data"]
            if body["next_cursor"] is None:
                return rows
            query["cursor"] = body["next_cursor"]

    rows = await review()
    assert len(rows) == 3
    sure = [row["resolution_confidence"] for row in rows]
    assert sure == sorted(sure)
    pin = {"global_model_id": MODEL}
    await answer(served, "provider-model.patch", pin, provider="beta", provider_model_id=f"acme/{OTHER}")
    assert len(await review()) == 2


@pytest.mark.parametrize(
    "typed", [MODEL, "Talker 2 Mini", "TALKER_2_MINI", "acme/talker-2-mini", "talker-2-mini-latest"]
)
async def test_a_model_is_found_by_what_people_type(served: Rig, typed: str) -> None:
    plan = await served.route(await served.new_key("acme"), typed)
    assert isinstance(plan, RoutePlan), plan
    assert plan.global_model_id == MODEL


async def test_what_is_another_size_is_never_found_for_a_model(served: Rig) -> None:
    refused = await served.route(await served.new_key("acme"), "talker-2")
    assert not isinstance(refused, RoutePlan)
    assert (refused.code, refused.nearest) == (RefusalCode.MODEL_NOT_FOUND, (MODEL,))
