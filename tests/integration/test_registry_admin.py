"""The admin API as a gateway asks it: on a real bus, with a real database."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from tests.support.registry import ADMIN_KEY, MODEL, Rig, eventually, report, running_registries

from synaxis_common import ids, subjects
from synaxis_common.contracts.admin import PROOF_HEADER, AdminReply, AdminRequest, AdminStatus, admin_proof
from synaxis_common.contracts.leases import LeaseAsk
from synaxis_common.contracts.routing import RefusalCode, RoutePlan, RouteRefusal
from synaxis_registry.handlers.admin.dead_letters import DEAD_LETTERS


@pytest.fixture
async def rig(fresh_nats_url: str, fresh_database_url: str) -> AsyncIterator[Rig]:
    """One registry: what it was told it knows in its next answer."""
    async with running_registries(fresh_nats_url, fresh_database_url) as running:
        yield running


@pytest.fixture
async def rig_of_two(fresh_nats_url: str, fresh_database_url: str) -> AsyncIterator[Rig]:
    """Two registries, of which either may answer."""
    async with running_registries(fresh_nats_url, fresh_database_url, count=2) as running:
        yield running


@pytest.fixture
async def served(rig: Rig) -> Rig:
    """Two providers that serve one model; `alpha` is the cheaper one."""
    await rig.catalog(datetime.now(UTC), run=1)
    for provider_id in ("alpha", "beta"):
        await rig.put_provider(provider_id)
        await rig.observe(provider_id, (MODEL,))

    async def both() -> bool:
        return await order(rig) == ["alpha", "beta"]

    await eventually(both, "both providers are routed to")
    return rig


async def ask(
    rig: Rig, verb: str, body: Any = None, query: dict[str, str] | None = None, **path: str
) -> AdminReply:
    payload = AdminRequest(path=path, query=query or {}, body=body).to_bytes()
    proof = admin_proof(ADMIN_KEY, verb, payload, int(time.time()))
    return await rig.bus.request_bytes(
        subjects.admin(verb), payload, AdminReply, timeout=10, headers={PROOF_HEADER: proof}
    )


async def answer(
    rig: Rig, verb: str, body: Any = None, query: dict[str, str] | None = None, **path: str
) -> Any:
    """The body of a verb that is carried out."""
    reply = await ask(rig, verb, body, query, **path)
    assert reply.status in {AdminStatus.OK, AdminStatus.CREATED, AdminStatus.ACCEPTED}, reply
    return reply.body


async def data(rig: Rig, verb: str, **path: str) -> list[Any]:
    return list((await answer(rig, verb, None, None, **path))["data"])


async def pages(rig: Rig, verb: str, limit: int, **path: str) -> list[list[Any]]:
    """All pages of a list."""
    found: list[list[Any]] = []
    query = {"limit": str(limit)}
    while True:
        body = await answer(rig, verb, None, query, **path)
        found.append(body["data"])
        if body["next_cursor"] is None:
            return found
        query["cursor"] = body["next_cursor"]


async def plan_for(rig: Rig, model: str = MODEL, **fields: Any) -> Any:
    return await answer(rig, "route", {"model": model, **fields})


async def order(rig: Rig) -> list[str]:
    """The providers of a plan, first choice first."""
    return [one["provider_id"] for one in (await plan_for(rig))["candidates"]]


async def test_a_provider_is_put_shown_and_taken_back(rig: Rig) -> None:
    body = {
        "base_url": "http://127.0.0.1:9/v1/",
        "name": "Mine",
        "tier": 3,
        "headers": {"x-team": "secret"},
        "timeouts": {"first_token_s": 7},
    }
    shown = await answer(rig, "provider.put", body, provider="mine")
    assert shown["base_url"] == "http://127.0.0.1:9/v1"
    assert (shown["id"], shown["name"], shown["tier"], shown["source"]) == ("mine", "Mine", 3, "operator")
    assert (shown["is_on"], shown["off_reason"], shown["headers"]) == (True, None, {"x-team": "***"})
    assert shown["timeouts"] == {
        "connect_s": None, "first_token_s": 7.0, "between_tokens_s": None, "total_s": None
    }  # fmt: skip
    assert shown["next_poll_at"] is not None
    assert [row["id"] for row in await data(rig, "provider.list")] == ["mine"]
    assert await answer(rig, "provider.delete", provider="mine") == {"deleted": "mine"}
    for verb in ("provider.get", "provider.delete"):
        assert (await ask(rig, verb, provider="mine")).status is AdminStatus.NOT_FOUND
    assert await data(rig, "provider.list") == []


async def test_a_provider_without_its_key_is_off_until_discovery_has_the_key(rig: Rig) -> None:
    await rig.catalog(datetime.now(UTC), run=1)
    body = {"base_url": "https://api.alpha.example/v1", "api_key_env": "ALPHA_API_KEY"}

    async def is_taken() -> bool:
        reply = await ask(rig, "provider.put", body, provider="alpha")
        return reply.status is AdminStatus.OK

    await eventually(is_taken, "the registries know the variable that models.dev names")
    shown = await answer(rig, "provider.get", provider="alpha")
    assert (shown["is_on"], shown["off_reason"], shown["key_present"]) == (False, "no_key", False)
    await rig.targets("ALPHA_API_KEY")
    shown = await answer(rig, "provider.get", provider="alpha")
    assert (shown["is_on"], shown["off_reason"], shown["key_present"]) == (True, None, True)
    again = await answer(rig, "provider.put", body, provider="alpha")
    assert again["is_on"], "the key's presence is remembered over a change"


async def test_what_models_dev_says_of_a_provider_cannot_be_deleted_and_comes_back(served: Rig) -> None:
    before = await answer(served, "provider.get", provider="alpha")
    assert (before["source"], before["models"], before["models_available"]) == ("operator", 1, 1)
    await answer(served, "provider.delete", provider="alpha")
    after = await answer(served, "provider.get", provider="alpha")
    assert (after["source"], after["base_url"]) == ("models.dev", "https://api.alpha.example/v1")
    assert (after["is_on"], after["api_key_env"], after["models_available"]) == (False, "ALPHA_API_KEY", 0)
    assert (await ask(served, "provider.delete", provider="alpha")).status is AdminStatus.NOT_FOUND


async def test_a_model_is_found_by_any_name_and_an_unknown_one_gets_the_nearest(served: Rig) -> None:
    for name in (MODEL, "acme/talker-2-mini", "Talker-2-Mini", f"alpha/{MODEL}"):
        shown = await answer(served, "model.get", model=name)
        assert shown["id"] == MODEL
        assert [row["provider_id"] for row in shown["endpoints"]] == ["alpha", "beta"]
    (row,) = await data(served, "model.list")
    assert (row["id"], row["endpoints"], row["endpoints_available"]) == (MODEL, 2, 2)
    assert (row["context_window"], row["max_output"], row["vendor"]) == (128_000, 8_192, "acme")
    missing = await ask(served, "model.get", model="talker-2-min")
    assert missing.status is AdminStatus.NOT_FOUND
    assert MODEL in (missing.error or "")


async def test_an_operators_alias_is_a_name_at_once_and_can_be_taken_back(served: Rig) -> None:
    patched = await answer(
        served, "model.patch", {"aliases": ["chatty"], "status": "deprecated"}, model=MODEL
    )
    assert (patched["aliases"], patched["status"]) == (["chatty"], "deprecated")
    assert (await answer(served, "model.get", model="chatty"))["id"] == MODEL
    taken_back = await answer(served, "model.patch", {"aliases": None, "status": None}, model=MODEL)
    assert (taken_back["aliases"], taken_back["status"]) == (["acme/talker-2-mini"], "active")


async def test_a_new_name_of_a_model_is_known_to_whichever_registry_is_asked(rig_of_two: Rig) -> None:
    await rig_of_two.catalog(datetime.now(UTC), run=1)
    for number in range(10):
        name = f"chatty-{number}"
        await answer(rig_of_two, "model.patch", {"aliases": [name]}, model=MODEL)
        shown = await asyncio.gather(*(answer(rig_of_two, "model.get", model=name) for _ in range(6)))
        assert {one["id"] for one in shown} == {MODEL}


async def test_provider_models_are_filtered_and_paged(served: Rig) -> None:
    await served.observe("alpha", (MODEL, "another-1", "another-2"))

    async def listed() -> bool:
        return len(await data(served, "provider-model.list")) == 4

    await eventually(listed, "the new models are there")
    found = await pages(served, "provider-model.list", 3)
    assert [len(page) for page in found] == [3, 1]
    assert [(row["provider_id"], row["provider_model_id"]) for page in found for row in page] == [
        ("alpha", "another-1"), ("alpha", "another-2"), ("alpha", MODEL), ("beta", MODEL),
    ]  # fmt: skip

    async def keys(**query: str) -> list[tuple[str, str]]:
        rows = (await answer(served, "provider-model.list", None, query))["data"]
        return [(row["provider_id"], row["provider_model_id"]) for row in rows]

    assert await keys(provider="beta") == [("beta", MODEL)]
    assert await keys(model="acme/Talker-2-Mini") == [("alpha", MODEL), ("beta", MODEL)]
    assert await keys(model="nobody-has-this") == []
    assert await keys(available="false") == []
    assert len(await keys(available="true")) == 4
    wrong = await ask(served, "provider-model.list", None, {"available": "maybe"})
    assert (wrong.status, wrong.field) == (AdminStatus.INVALID, "available")


async def test_an_override_of_prices_changes_the_order_of_a_plan_and_can_be_taken_back(served: Rig) -> None:
    key: dict[str, Any] = {"provider": "beta", "provider_model_id": MODEL}
    patched = await answer(
        served, "provider-model.patch", {"input_price": "0.01", "output_price": "0.02"}, **key
    )
    assert (patched["input_price"], patched["output_price"]) == ("0.01", "0.02")
    assert await order(served) == ["beta", "alpha"]
    back = await answer(served, "provider-model.patch", {"input_price": None, "output_price": None}, **key)
    assert (back["input_price"], back["output_price"]) == ("0.20", "0.40")


async def test_a_pin_names_a_known_model_and_is_undone_by_null(served: Rig) -> None:
    await served.observe("alpha", (MODEL, "mystery"))
    key: dict[str, Any] = {"provider": "alpha", "provider_model_id": "mystery"}

    async def is_there() -> bool:
        return (await ask(served, "provider-model.get", **key)).status is AdminStatus.OK

    await eventually(is_there, "the new model is there")
    nowhere = await ask(served, "provider-model.patch", {"global_model_id": "no-such-model"}, **key)
    assert nowhere.status is AdminStatus.NOT_FOUND
    pinned = await answer(served, "provider-model.patch", {"global_model_id": "acme/talker-2-mini"}, **key)
    assert (pinned["global_model_id"], pinned["resolved_by"], pinned["pinned"]) == (MODEL, "pin", True)
    undone = await answer(served, "provider-model.patch", {"global_model_id": None}, **key)
    assert (undone["global_model_id"], undone["pinned"]) == ("mystery", False)
    missing = await ask(served, "provider-model.patch", {}, provider="alpha", provider_model_id="a/b/c")
    assert missing.status is AdminStatus.NOT_FOUND


async def test_a_disabled_provider_model_takes_no_requests(served: Rig) -> None:
    patched = await answer(
        served, "provider-model.patch", {"enabled": False}, provider="alpha", provider_model_id=MODEL
    )
    assert (patched["enabled"], patched["is_available"]) == (False, False)
    assert await order(served) == ["beta"]
    assert [(out["provider_id"], out["reason"]) for out in (await plan_for(served))["excluded"]] == [
        ("alpha", "disabled")
    ]


async def test_tenants_come_and_go_and_an_id_is_never_used_again(rig: Rig) -> None:
    made = await ask(rig, "tenant.create", {"id": "acme", "name": "Acme"})
    assert made.status is AdminStatus.CREATED
    assert await answer(rig, "tenant.get", tenant="acme") == made.body
    twice = await ask(rig, "tenant.create", {"id": "acme", "name": "Other"})
    assert (twice.status, twice.field) == (AdminStatus.CONFLICT, "id")
    for name in ("b", "c"):
        await answer(rig, "tenant.create", {"id": name, "name": name})
    assert [[row["id"] for row in page] for page in await pages(rig, "tenant.list", 2)] == [
        ["acme", "b"],
        ["c"],
    ]
    await answer(rig, "tenant.delete", tenant="acme")
    for verb, body in (
        ("tenant.get", None), ("tenant.delete", None), ("key.list", None), ("limit.list", None),
        ("key.create", {"name": "", "key_id": "k", "key_hash": "h"}),
        ("route", {"model": MODEL, "tenant_id": "acme"}),
    ):  # fmt: skip
        assert (await ask(rig, verb, body, tenant="acme")).status is AdminStatus.NOT_FOUND, verb
    again = await ask(rig, "tenant.create", {"id": "acme", "name": "Acme"})
    assert again.status is AdminStatus.CONFLICT


async def test_a_tenant_can_be_renamed_and_have_all_of_its_requests_hedged(served: Rig) -> None:
    key = await served.new_key("acme")
    plain = await served.route(key)
    assert isinstance(plain, RoutePlan)
    assert not plain.hedge
    changed = await answer(served, "tenant.patch", {"hedge": True}, tenant="acme")
    assert (changed["name"], changed["hedge"]) == ("acme", True)
    async with asyncio.timeout(10):
        while not (isinstance(found := await served.route(key), RoutePlan) and found.hedge):
            await asyncio.sleep(0.05)
    renamed = await answer(served, "tenant.patch", {"name": "Acme"}, tenant="acme")
    assert (renamed["name"], renamed["hedge"]) == ("Acme", True)
    nobody = await ask(served, "tenant.patch", {"hedge": True}, tenant="nobody")
    assert nobody.status is AdminStatus.NOT_FOUND


async def test_a_key_is_stored_once_listed_without_its_hash_and_revoked(served: Rig) -> None:
    await answer(served, "tenant.create", {"id": "acme", "name": "Acme"})
    body = {"name": "first", "key_id": "key-1", "key_hash": "k1:one"}
    made = await ask(served, "key.create", body, tenant="acme")
    assert made.status is AdminStatus.CREATED
    assert set(made.body) == {"key_id", "name", "created_at"}  # type: ignore[arg-type]
    assert await answer(served, "key.create", body, tenant="acme") == made.body, "an answer may be lost"
    for other in ({"key_id": "key-1", "key_hash": "k1:two"}, {"key_id": "key-2", "key_hash": "k1:one"}):
        refused = await ask(served, "key.create", {"name": "other", **other}, tenant="acme")
        assert refused.status is AdminStatus.CONFLICT
    assert await data(served, "key.list", tenant="acme") == [{**made.body, "is_limited": False}]  # type: ignore[dict-item]
    assert isinstance(await served.route("k1:one"), RoutePlan)
    assert await answer(served, "key.delete", tenant="acme", key_id="key-1") == {"deleted": "key-1"}
    assert (await ask(served, "key.delete", tenant="acme", key_id="key-1")).status is AdminStatus.NOT_FOUND
    assert await data(served, "key.list", tenant="acme") == []

    routed = await served.route("k1:one")
    assert isinstance(routed, RouteRefusal)
    assert routed.code is RefusalCode.INVALID_API_KEY


async def test_no_key_outlives_a_tenant_that_is_deleted_while_keys_are_made(rig_of_two: Rig) -> None:
    await answer(rig_of_two, "tenant.create", {"id": "acme", "name": "Acme"})

    def make(number: int) -> Any:
        body = {"name": "", "key_id": f"key-{number}", "key_hash": f"k1:{number}"}
        return ask(rig_of_two, "key.create", body, tenant="acme")

    first = [make(number) for number in range(10)]
    last = [make(number) for number in range(10, 20)]
    replies = await asyncio.gather(*first, ask(rig_of_two, "tenant.delete", tenant="acme"), *last)
    assert {reply.status for reply in replies} <= {AdminStatus.OK, AdminStatus.CREATED, AdminStatus.NOT_FOUND}
    assert await rig_of_two.database.fetchval("SELECT count(*) FROM api_key WHERE revoked_at IS NULL") == 0


async def test_limits_are_set_by_any_name_shown_with_their_use_and_removed(served: Rig) -> None:
    key_hash = await served.new_key("acme")
    limit = {"allowed_rpm": 5, "monthly_budget_usd": "12.50"}
    put = await answer(served, "limit.put", limit, tenant="acme", model="acme/talker-2-mini")
    assert (put["model"], put["allowed_rpm"], put["monthly_budget_usd"]) == (MODEL, 5, "12.50")
    await answer(served, "limit.put", {"allowed_tpm": 100_000}, tenant="acme", model="*")
    assert isinstance(await served.route(key_hash, input_tokens=100, max_output_tokens=10), RoutePlan)

    async def rows() -> dict[str, Any]:
        return {row["model"]: row for row in await data(served, "limit.list", tenant="acme")}

    shown = await rows()
    assert set(shown) == {"*", MODEL}
    assert shown[MODEL]["global_model_id"] == MODEL
    assert (shown[MODEL]["allowed_rpm"], shown[MODEL]["used_requests"]) == (5, 1)
    assert (shown[MODEL]["monthly_budget_usd"], shown[MODEL]["spent_usd"]) == ("12.50", "0")
    assert float(shown[MODEL]["reserved_usd"]) > 0
    assert (shown["*"]["allowed_tpm"], shown["*"]["used_requests"]) == (100_000, 1)
    assert shown["*"]["used_tokens"] > 0
    planned = await plan_for(served, tenant_id="acme", needs={"input_tokens": 100, "max_output_tokens": 10})
    assert set(planned["booking"]["limits"]) == {"t/acme/*", f"t/acme/{MODEL}"}
    assert (await rows())[MODEL]["used_requests"] == 1, "a plan that is only shown books nothing"
    unknown = await ask(served, "limit.put", {}, tenant="acme", model="talker-2-min")
    assert unknown.status is AdminStatus.NOT_FOUND
    assert MODEL in (unknown.error or "")
    assert await answer(served, "limit.delete", tenant="acme", model="*") == {"deleted": "*"}
    assert (await ask(served, "limit.delete", tenant="acme", model="*")).status is AdminStatus.NOT_FOUND
    assert set(await rows()) == {MODEL}


async def test_a_limit_shows_what_is_held_spent_and_unconfirmed_now(served: Rig) -> None:
    key_hash = await served.new_key("acme")
    limit = {"allowed_rpm": 100, "allowed_concurrency": 7, "monthly_budget_usd": "0.0012"}
    put = await answer(served, "limit.put", limit, tenant="acme", model="*")
    assert put["allowed_concurrency"] == 7

    async def shown() -> Any:
        (row,) = await data(served, "limit.list", tenant="acme")
        return row

    fresh = await shown()
    now = await served.database.fetchval("SELECT clock_timestamp()")
    resets_at = datetime.fromisoformat(fresh["budget_resets_at"])
    assert resets_at == datetime(now.year + now.month // 12, now.month % 12 + 1, 1, tzinfo=UTC)
    assert (fresh["requests_at_once"], fresh["unconfirmed_usd"], fresh["budget_percent"]) == (0, "0", 0.0)

    ask_of = LeaseAsk(lease_id=ids.uuid7(), gateway_id="gw", permits=1, slots={"t/acme/*": 3})
    plan = await served.route(key_hash, lease=ask_of, input_tokens=100, max_output_tokens=10)
    assert isinstance(plan, RoutePlan)
    held = await shown()
    assert (held["used_requests"], held["used_tokens"], held["requests_at_once"]) == (1, 110, 3)
    assert Decimal(held["reserved_usd"]) > 0

    call = report(plan, input=100, output=10)
    await served.store(subjects.USAGE, call, str(call.request_id))

    async def is_spent() -> bool:
        return Decimal((await shown())["spent_usd"]) == Decimal("0.000012")

    await eventually(is_spent, "what the request cost is spent")
    assert (await shown())["budget_percent"] == 1.0
    await served.database.execute("UPDATE budget SET unconfirmed = 0.000004 WHERE scope = 't/acme/*'")
    await served.database.execute("UPDATE slot SET expires_at = now() - interval '1 second'")
    await served.database.execute("UPDATE rate_bucket SET second = second - 70")
    late = await shown()
    assert late["unconfirmed_usd"] == "0.000004"
    assert (late["used_requests"], late["used_tokens"], late["requests_at_once"]) == (0, 0, 0)
    await served.database.execute("UPDATE budget SET month = month - interval '1 month'")
    assert ((await shown())["spent_usd"], (await shown())["budget_percent"]) == ("0", 0.0)


async def test_a_key_has_limits_of_its_own_with_its_own_use(served: Rig) -> None:
    key_hash = await served.new_key("acme")
    (key,) = await data(served, "key.list", tenant="acme")
    assert key["is_limited"] is False
    whose: dict[str, Any] = {"tenant": "acme", "key_id": key["key_id"]}
    without = await answer(served, "key-limit.get", **whose)
    assert (without["is_limited"], without["allowed_rpm"], without["budget_percent"]) == (False, None, None)
    assert (await ask(served, "key-limit.delete", **whose)).status is AdminStatus.NOT_FOUND

    limits = {
        "allowed_rpm": 1,
        "allowed_tpm": 5_000,
        "allowed_concurrency": 2,
        "monthly_budget_usd": "1.50",
    }
    assert await answer(served, "key-limit.put", limits, **whose) == {
        "tenant_id": "acme", "key_id": key["key_id"], **limits
    }  # fmt: skip
    assert isinstance(await served.route(key_hash, input_tokens=10, max_output_tokens=1), RoutePlan)
    refused = await served.route(key_hash, input_tokens=10, max_output_tokens=1)
    assert isinstance(refused, RouteRefusal)
    assert refused.code is RefusalCode.RATE_LIMIT_EXCEEDED
    shown = await answer(served, "key-limit.get", **whose)
    assert {name: shown[name] for name in limits} == limits
    assert (shown["is_limited"], shown["used_requests"], shown["used_tokens"]) == (True, 1, 11)
    assert (await data(served, "key.list", tenant="acme"))[0]["is_limited"] is True
    assert await data(served, "limit.list", tenant="acme") == [], "they are not the tenant's"

    assert await answer(served, "key-limit.delete", **whose) == {"deleted": key["key_id"]}
    assert isinstance(await served.route(key_hash, input_tokens=10, max_output_tokens=1), RoutePlan)
    assert (await data(served, "key.list", tenant="acme"))[0]["is_limited"] is False


async def test_the_limits_of_a_key_are_those_of_a_key_that_is_there(served: Rig) -> None:
    await served.new_key("acme")
    await served.new_key("other")
    (key,) = await data(served, "key.list", tenant="acme")
    verbs: tuple[tuple[str, Any], ...] = (
        ("key-limit.get", None), ("key-limit.put", {"allowed_rpm": 1}), ("key-limit.delete", None),
    )  # fmt: skip
    for verb, body in verbs:
        for tenant, key_id in (("other", key["key_id"]), ("acme", "no-such-key"), ("none", key["key_id"])):
            reply = await ask(served, verb, body, tenant=tenant, key_id=key_id)
            assert reply.status is AdminStatus.NOT_FOUND, (verb, tenant, key_id)
    await answer(served, "key.delete", tenant="acme", key_id=key["key_id"])
    for verb, body in verbs:
        reply = await ask(served, verb, body, tenant="acme", key_id=key["key_id"])
        assert reply.status is AdminStatus.NOT_FOUND, verb
    assert await served.database.fetchval("SELECT count(*) FROM key_limit") == 0


async def test_a_model_that_a_tenant_may_not_use_is_refused_in_its_plan(served: Rig) -> None:
    await answer(served, "tenant.create", {"id": "acme", "name": "Acme"})
    await answer(served, "limit.put", {"allowed": False}, tenant="acme", model=MODEL)

    assert (await plan_for(served, tenant_id="acme"))["refusal"]["code"] == "model_not_allowed"
    assert (await plan_for(served))["refusal"] is None, "others may use it"


async def test_a_plan_shows_ranks_costs_and_prices_and_a_refusal_the_nearest(served: Rig) -> None:
    plan = await plan_for(served, needs={"input_tokens": 1_000_000, "max_output_tokens": 1_000})
    assert plan["model"] is None
    assert plan["refusal"]["code"] == "context_length_exceeded"
    assert {out["reason"] for out in plan["excluded"]} == {"context_too_small"}
    plan = await plan_for(served, needs={"input_tokens": 1_000, "max_output_tokens": 1_000})
    assert (plan["model"], plan["refusal"]) == (MODEL, None)
    assert [(one["rank"], one["provider_id"]) for one in plan["candidates"]] == [(1, "alpha"), (2, "beta")]
    first = plan["candidates"][0]
    assert first["prices"]["input"] == "0.10"
    assert "." in first["expected_cost_usd"]
    assert "e" not in first["expected_cost_usd"].lower()
    assert (first["cost_known"], first["tier"], first["samples"]) == ("known", 0, 0)
    assert plan["booking"] == {"limits": [], "requests": 1, "tokens": 0, "usd": "0"}
    missing = await plan_for(served, "talker-2-min")
    assert (missing["refusal"]["code"], missing["refusal"]["nearest"]) == ("model_not_found", [MODEL])


async def test_usage_is_summed_exactly_by_any_group(served: Rig) -> None:
    nothing = await answer(served, "usage.query")
    assert [row["requests"] for row in nothing["data"]] == [0]
    key_hash = await served.new_key("acme")
    for tokens in (100, 200):
        plan = await served.route(key_hash)
        assert isinstance(plan, RoutePlan)
        call = report(plan, input=tokens, output=tokens // 10)
        await served.store(subjects.USAGE, call, str(call.request_id))

    async def rows(**query: str) -> list[Any]:
        return list((await answer(served, "usage.query", None, query))["data"])

    async def are_settled() -> bool:
        return bool((await rows())[0]["requests"] == 2)

    await eventually(are_settled, "both reports are in the ledger")
    # 300 tokens at 0.10 and 30 at 0.20 USD a million.
    sums = {
        "requests": 2,
        "input_tokens": 300,
        "output_tokens": 30,
        "cost_usd": "0.000036",
        "requests_without_price": 0,
        "requests_estimated": 0,
    }

    def rounded(row: dict[str, Any]) -> dict[str, Any]:
        return row | {"cost_usd": row["cost_usd"].rstrip("0")}

    assert [rounded(row) for row in await rows()] == [sums]
    today = datetime.now(UTC).date()
    (row,) = await rows(group_by="tenant,model,provider,day")
    assert rounded(row) == {
        "tenant": "acme", "model": MODEL, "provider": "alpha", "day": today.isoformat(), **sums
    }  # fmt: skip
    assert set((await rows(group_by="key"))[0]) == {"key", *sums}
    assert await rows(group_by="tenant", tenant="other") == []
    assert (await rows(model="acme/talker-2-mini", provider="alpha"))[0]["requests"] == 2
    assert (await rows(**{"from": (today + timedelta(days=2)).isoformat()}))[0]["requests"] == 0
    yesterday, tomorrow = f"{today - timedelta(days=1)}T23:59:59Z", f"{today + timedelta(days=1)}T00:00:00Z"
    assert (await rows(**{"from": yesterday}))[0]["requests"] == 2
    assert (await rows(to=yesterday))[0]["requests"] == 0
    key_id = (await rows(group_by="key"))[0]["key"]
    assert (await rows(key=key_id))[0]["requests"] == 2
    assert (await rows(key="another"))[0]["requests"] == 0
    (hour,) = await rows(group_by="hour", **{"from": yesterday, "to": tomorrow})
    begins = datetime.fromisoformat(hour["hour"])
    assert (begins.minute, begins.date(), hour["requests"]) == (0, today, 2)


LETTERS = (
    """INSERT INTO dead_letter (stream, sequence, subject, payload, reason) VALUES ($1, $2, $3, $4, $5)"""
)


async def set_aside(rig: Rig, payload: bytes, stream: str = subjects.STREAM_USAGE, sequence: int = 1) -> None:
    await rig.database.execute(LETTERS, stream, sequence, subjects.USAGE, payload, "cannot be read")


async def test_messages_that_were_set_aside_are_listed_newest_first(rig: Rig) -> None:
    long = "é" * 5_000
    await set_aside(rig, b'{"a": 1}')
    await set_aside(rig, b"\xff\x00\x01", subjects.STREAM_CATALOG, 2)
    await set_aside(rig, f"x{long}".encode(), sequence=3)
    found = await data(rig, "dead-letter.list")
    assert [(row["stream"], row["sequence"]) for row in found] == [
        (subjects.STREAM_USAGE, 3), (subjects.STREAM_CATALOG, 2), (subjects.STREAM_USAGE, 1),
    ]  # fmt: skip
    cut, binary, plain = found
    assert (plain["payload"], plain["encoding"], plain["size"]) == ('{"a": 1}', "utf-8", 8)
    assert (plain["subject"], plain["reason"]) == (subjects.USAGE, "cannot be read")
    assert datetime.fromisoformat(plain["at"]).tzinfo is not None
    assert (binary["payload"], binary["encoding"], binary["size"]) == ("/wAB", "base64", 3)
    assert (cut["payload"], cut["size"]) == (("x" + long)[:2_048], 10_001), "cut between two characters"
    assert [[row["sequence"] for row in page] for page in await pages(rig, "dead-letter.list", 2)] == [
        [3, 2],
        [1],
    ]
    of_one = await answer(rig, "dead-letter.list", None, {"stream": subjects.STREAM_CATALOG})
    assert [row["sequence"] for row in of_one["data"]] == [2]
    assert (await answer(rig, "dead-letter.list", None, {"stream": "none"}))["data"] == []


async def test_many_large_messages_that_were_set_aside_come_in_pages_that_the_bus_can_carry(rig: Rig) -> None:
    for number in range(250):
        await set_aside(rig, b"\x01" * 10_000, sequence=number)
    found = await pages(rig, "dead-letter.list", 1_000)
    assert len(found) > 1
    assert [row["sequence"] for page in found for row in page] == list(range(250))[::-1]


async def test_a_report_that_was_set_aside_is_replayed_once_into_the_ledger_and_gone(served: Rig) -> None:
    plan = await served.route(await served.new_key("acme"))
    assert isinstance(plan, RoutePlan)
    call = report(plan, input=100, output=10)
    await set_aside(served, call.to_bytes())
    (row,) = await data(served, "dead-letter.list")
    before = (await served.bus.jetstream.stream_info(subjects.STREAM_USAGE)).state.last_seq
    # As after a crash between the two steps: it was sent, and is still here.
    (letter,) = await served.database.fetch("SELECT * FROM dead_letter")
    replayed = await answer(served, "dead-letter.replay", id=str(row["id"]))
    assert replayed == {"replayed": row["id"], "subject": subjects.USAGE, "sequence": before + 1}
    assert await data(served, "dead-letter.list") == []

    async def is_recorded() -> bool:
        return bool(await served.database.fetchval("SELECT count(*) FROM usage_ledger") == 1)

    await eventually(is_recorded, "the report is in the ledger")
    columns = "stream, sequence, subject, payload, reason, at, id"
    await served.database.execute(
        f"INSERT INTO dead_letter ({columns}) OVERRIDING SYSTEM VALUE VALUES ($1, $2, $3, $4, $5, $6, $7)",
        *(letter[name] for name in columns.split(", ")),
    )
    again = await answer(served, "dead-letter.replay", id=str(row["id"]))
    assert again["sequence"] == before + 1, "the stream knows it by its id"
    await served.store(subjects.USAGE, call)  # and the ledger by its request, whatever the id

    async def all_are_handled() -> bool:
        info = await served.bus.jetstream.consumer_info(subjects.STREAM_USAGE, "registry-usage")
        return bool(info.num_pending == 0 and info.num_ack_pending == 0)

    await eventually(all_are_handled, "both are handled")
    assert await served.database.fetchval("SELECT count(*) FROM usage_ledger") == 1
    (sums,) = (await answer(served, "usage.query"))["data"]
    assert (sums["requests"], sums["input_tokens"]) == (1, 100)


async def test_what_is_still_wrong_when_replayed_is_set_aside_again(rig: Rig) -> None:
    await set_aside(rig, b'{"request_id": 7}')
    (first,) = await data(rig, "dead-letter.list")
    await answer(rig, "dead-letter.replay", id=str(first["id"]))

    async def is_back() -> bool:
        return len(await data(rig, "dead-letter.list")) == 1

    await eventually(is_back, "it is set aside again")
    (second,) = await data(rig, "dead-letter.list")
    assert second["id"] > first["id"]
    assert second["payload"] == first["payload"]
    assert "not a valid message" in second["reason"]


async def test_a_message_that_no_stream_takes_stays_where_it_is(rig: Rig) -> None:
    await rig.database.execute(LETTERS, "GONE", 1, "nobody.listens.here", b"{}", "unknown")
    (row,) = await data(rig, "dead-letter.list")
    reply = await ask(rig, "dead-letter.replay", id=str(row["id"]))
    assert reply.status is AdminStatus.UNAVAILABLE
    assert "still here" in (reply.error or "")
    assert await data(rig, "dead-letter.list") == [row]


async def test_a_message_that_was_set_aside_can_be_thrown_away(rig: Rig) -> None:
    await set_aside(rig, b"one")
    await set_aside(rig, b"two", sequence=2)
    newest, oldest = await data(rig, "dead-letter.list")
    assert await answer(rig, "dead-letter.delete", id=str(oldest["id"])) == {"deleted": oldest["id"]}
    assert await data(rig, "dead-letter.list") == [newest]
    for verb in ("dead-letter.delete", "dead-letter.replay"):
        assert (await ask(rig, verb, id=str(oldest["id"]))).status is AdminStatus.NOT_FOUND
    (gauge,) = DEAD_LETTERS.collect()
    assert {one.labels["stream"]: one.value for one in gauge.samples} == {subjects.STREAM_USAGE: 1.0}


async def test_a_job_is_run_by_hand_wakes_its_workers_and_is_listed(rig: Rig) -> None:
    job = "models-dev-sync"
    woken = await rig.bus.client.subscribe(subjects.job_wake(job))
    await rig.bus.client.flush()
    assert [(row["name"], row["last_run"]) for row in await data(rig, "job.list")] == [
        (job, None),
        ("provider-discovery", None),
    ]
    runs = []
    for _ in range(3):
        reply = await ask(rig, "job.run", job=job)
        assert reply.status is AdminStatus.ACCEPTED
        runs.append(reply.body)
        await woken.next_msg(timeout=5)
    assert [(run["status"], run["trigger"]) for run in runs] == [("running", "manual")] * 3  # type: ignore[index,call-overload]
    found = await pages(rig, "job.runs", 2, job=job)
    assert [len(page) for page in found] == [2, 1]
    assert [run for page in found for run in page] == runs[::-1], "newest first"
    assert (await data(rig, "job.list"))[0]["last_run"] == runs[-1]
    for cursor in ("x", "WyJub3QgYSB0aW1lIl0="):
        wrong = await ask(rig, "job.runs", None, {"cursor": cursor}, job=job)
        assert (wrong.status, wrong.field) == (AdminStatus.INVALID, "cursor")


async def test_a_list_of_large_rows_comes_in_pages_that_the_bus_can_carry(rig: Rig) -> None:
    name = "模" * 6_000
    for number in range(60):
        await answer(rig, "tenant.create", {"id": f"t{number:02}", "name": name})
    found = await pages(rig, "tenant.list", 1_000)
    assert len(found) > 1
    assert [row["id"] for page in found for row in page] == [f"t{number:02}" for number in range(60)]


async def test_a_message_without_a_proof_changes_nothing(rig: Rig) -> None:
    payload = AdminRequest(body={"id": "acme", "name": "Acme"}).to_bytes()
    for headers in (
        None,
        {PROOF_HEADER: admin_proof("another-key", "tenant.create", payload, int(time.time()))},
    ):
        reply = await rig.bus.request_bytes(
            subjects.admin("tenant.create"), payload, AdminReply, timeout=10, headers=headers
        )
        assert reply.status is AdminStatus.FORBIDDEN
    assert await data(rig, "tenant.list") == []


async def test_runs_that_tell_much_come_in_pages_that_the_bus_can_carry(rig: Rig) -> None:
    await rig.database.execute(
        """INSERT INTO job_run (run_id, job, trigger, scheduled_at, attempt, status, lease_expires_at,
               created_at, error)
           SELECT gen_random_uuid(), 'models-dev-sync', 'manual', now(), 1, 'failed', now(),
                  now() - make_interval(secs => n), n || repeat('x', 19000)
           FROM generate_series(0, 99) n"""
    )
    found = await pages(rig, "job.runs", 1_000, job="models-dev-sync")
    assert len(found) > 1
    assert [int(run["error"].rstrip("x")) for page in found for run in page] == list(range(100))


async def test_the_endpoints_of_a_model_that_are_too_many_go_on_in_the_list(served: Rig) -> None:
    await served.database.execute(
        """INSERT INTO provider_model (provider_id, provider_model_id, record)
           SELECT 'beta', id, record || jsonb_build_object('provider_model_id', id, 'is_available', false)
           FROM provider_model,
                (SELECT 'x-' || lpad(n::text, 4, '0') AS id FROM generate_series(0, 1499) n) more
           WHERE provider_id = 'beta'"""
    )
    shown = await answer(served, "model.get", model=MODEL)
    assert shown["endpoints_next_cursor"] is not None
    query = {"model": MODEL, "limit": "1000", "cursor": shown["endpoints_next_cursor"]}
    rest: list[Any] = []
    while query["cursor"] is not None:
        body = await answer(served, "provider-model.list", None, query)
        rest += body["data"]
        query["cursor"] = body["next_cursor"]
    keys = [(row["provider_id"], row["provider_model_id"]) for row in shown["endpoints"] + rest]
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys) == 1502


async def test_usage_in_more_rows_than_the_bus_can_carry_is_refused_with_a_reason(rig: Rig) -> None:
    await rig.database.execute(
        """INSERT INTO usage_ledger (request_id, tenant_id, key_id, global_model_id, operation, stream,
               outcome, http_status, started_at, latency_s, input_tokens, output_tokens, cache_read_tokens,
               cache_write_tokens, reasoning_tokens, cost_usd, is_estimated, attempts)
           SELECT gen_random_uuid(), 'acme', 'key-' || n, 'm', 'chat', false, 'ok', 200, now(), 1, 1, 1,
                  0, 0, 0, 0.1, false, '[]'
           FROM generate_series(1, 6000) n"""
    )
    await rig.database.execute(
        "SELECT add_to_sums(ARRAY(SELECT ROW(request_id, tenant_id, key_id, global_model_id, provider_id,"
        " started_at, input_tokens, output_tokens, cost_usd, is_estimated, 0, NULL, 0, '[]')::new_call"
        " FROM usage_ledger))"
    )
    refused = await ask(rig, "usage.query", None, {"group_by": "key"})
    assert (refused.status, refused.field) == (AdminStatus.INVALID, "group_by")
    (row,) = (await answer(rig, "usage.query", None, {"group_by": "tenant"}))["data"]
    assert (row["tenant"], row["requests"], row["cost_usd"]) == ("acme", 6_000, "600.0")
