"""What the admin API refuses before it looks into the database."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from decimal import Decimal
from itertools import product
from typing import Any
from unittest.mock import AsyncMock

import pytest
from pydantic import SecretStr

from synaxis_common.bus import Bus
from synaxis_common.clock import SystemClock
from synaxis_common.contracts.admin import ADMIN_ROUTES, AdminReply, AdminRequest, AdminStatus, admin_proof
from synaxis_common.contracts.catalog import Prices
from synaxis_common.settings import ServiceSettings
from synaxis_registry.core.records import CatalogSaid, ProviderModelRecord, ProviderRecord
from synaxis_registry.handlers.admin import VERBS, AdminVerbs
from synaxis_registry.handlers.admin.limits import budget_percent
from synaxis_registry.handlers.admin.paging import cursor_after
from synaxis_registry.handlers.admin.provider_models import provider_model_row
from synaxis_registry.handlers.admin.providers import row as provider_row
from synaxis_registry.resolving import Resolving
from synaxis_registry.settings import RegistrySettings
from synaxis_registry.snapshot import Snapshot
from synaxis_registry.store.database import Database

ADMIN_KEY = "admin-key"
NOW = datetime(2026, 7, 1, tzinfo=UTC)
PUBLIC = {"base_url": "https://api.example.com/v1"}


def admin_verbs(**settings: Any) -> AdminVerbs:
    """The verbs of a registry whose database is away: what is not refused first is `unavailable`."""
    database, clock = Database("", 2), SystemClock()
    snapshot = Snapshot(database, clock, AsyncMock())
    catalog = CatalogSaid(name="Groq", api_key_envs=("GROQ_API_KEY",))
    snapshot.providers["groq"] = ProviderRecord("groq", "Groq", "models.dev", catalog=catalog)
    configured = RegistrySettings(
        nats_url=SecretStr("nats://127.0.0.1:9"),
        database_url=SecretStr("postgresql://127.0.0.1:9/none"),
        admin_key=SecretStr(ADMIN_KEY),
        **settings,
    )
    bus = Bus(ServiceSettings(nats_url=SecretStr("nats://127.0.0.1:9")), "test")
    return AdminVerbs(database, snapshot, Resolving(), configured, clock, bus)


async def ask(
    verb: str,
    body: Any = None,
    path: dict[str, str] | None = None,
    query: dict[str, str] | None = None,
    **settings: Any,
) -> AdminReply:
    payload = AdminRequest(path=path or {}, query=query or {}, body=body).to_bytes()
    proof = admin_proof(ADMIN_KEY, verb, payload, int(time.time()))
    return await admin_verbs(**settings).answer(verb, payload, proof)


async def put(provider_id: str = "mine", settings: dict[str, Any] | None = None, **fields: Any) -> AdminReply:
    return await ask("provider.put", {**PUBLIC, **fields}, {"provider": provider_id}, **(settings or {}))


def test_every_verb_of_the_contract_has_a_handler_and_no_other_does() -> None:
    assert set(VERBS) == {route.verb for route in ADMIN_ROUTES}


@pytest.mark.parametrize("proof", ["", "nonsense", "1700000000.é", "9" * 5000 + ".00"])
async def test_who_cannot_prove_the_admin_key_is_forbidden(proof: str) -> None:
    reply = await admin_verbs().answer("provider.list", AdminRequest().to_bytes(), proof)
    assert reply.status is AdminStatus.FORBIDDEN


async def test_a_proof_is_for_one_verb_and_one_payload_and_for_a_short_time() -> None:
    payload = AdminRequest().to_bytes()
    verbs, now = admin_verbs(), int(time.time())
    other_verb = await verbs.answer("tenant.list", payload, admin_proof(ADMIN_KEY, "job.list", payload, now))
    assert other_verb.status is AdminStatus.FORBIDDEN
    other_payload = await verbs.answer("job.list", b"{}", admin_proof(ADMIN_KEY, "job.list", payload, now))
    assert other_payload.status is AdminStatus.FORBIDDEN
    old = await verbs.answer("job.list", payload, admin_proof(ADMIN_KEY, "job.list", payload, now - 60))
    assert old.status is AdminStatus.FORBIDDEN


async def test_without_the_database_the_answer_is_unavailable() -> None:
    reply = await ask("provider.list")
    assert (reply.status, reply.error) == (
        AdminStatus.UNAVAILABLE,
        "Postgres cannot be reached at the moment",
    )


async def test_a_failure_nobody_thought_of_is_told_without_its_details(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fail(*_: object) -> AdminReply:
        raise RuntimeError("a detail")

    monkeypatch.setitem(VERBS, "provider.list", fail)
    reply = await ask("provider.list")
    assert (reply.status, reply.error) == (AdminStatus.UNAVAILABLE, "internal error")


async def test_what_is_written_is_told_also_when_the_snapshot_cannot_be_renewed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def written(*_: object) -> AdminReply:
        return AdminReply(status=AdminStatus.CREATED, body={"id": "t"})

    monkeypatch.setitem(VERBS, "tenant.create", written)
    assert (await ask("tenant.create", {"id": "t", "name": "T"})).status is AdminStatus.CREATED


async def test_a_payload_that_is_no_request_is_invalid() -> None:
    proof = admin_proof(ADMIN_KEY, "job.list", b"no JSON", int(time.time()))
    assert (await admin_verbs().answer("job.list", b"no JSON", proof)).status is AdminStatus.INVALID


@pytest.mark.parametrize(
    ("verb", "path", "body", "field"),
    [
        ("provider.put", {"provider": "p"}, None, "base_url"),
        ("provider.put", {"provider": "p"}, [1], "body"),
        ("provider.put", {"provider": "p"}, {**PUBLIC, "basurl": 1}, "basurl"),
        ("provider.put", {"provider": "p"}, {**PUBLIC, "headers": {"a": 1}}, "headers.a"),
        ("provider.put", {}, PUBLIC, "provider"),
        ("tenant.create", {}, {"id": "Not A Slug", "name": "n"}, "id"),
        ("tenant.create", {}, {"id": "t", "name": "NUL \x00"}, "name"),
        ("key.create", {"tenant": "t"}, {"name": "n", "key_id": "k"}, "key_hash"),
        ("limit.put", {"tenant": "t", "model": "*"}, {"allowed_rpm": -1}, "allowed_rpm"),
        ("limit.put", {"tenant": "t", "model": "*"}, {"monthly_budget_usd": "NaN"}, "monthly_budget_usd"),
        ("tenant.get", {"tenant": "a\x00b"}, None, "tenant"),
        ("dead-letter.replay", {}, None, "id"),
        ("dead-letter.delete", {"id": "one"}, None, "id"),
        ("dead-letter.replay", {"id": "-1"}, None, "id"),
        ("dead-letter.replay", {"id": "٣"}, None, "id"),
        ("dead-letter.delete", {"id": "9" * 30}, None, "id"),
        ("model.get", {"model": "m" * 5000}, None, "model"),
        ("route", {}, {"model": "m", "needs": {"input_tokens": -1}}, "needs.input_tokens"),
    ],
)
async def test_what_is_wrong_with_an_input_is_named(
    verb: str, path: dict[str, str], body: Any, field: str
) -> None:
    reply = await ask(verb, body, path)
    assert (reply.status, reply.field) == (AdminStatus.INVALID, field), reply
    assert reply.error


WRONG_NUMBERS: tuple[Any, ...] = (-1, 1.5, "many", 2**53, 10**30, [1])
WRONG_AMOUNTS: tuple[Any, ...] = (
    "NaN", "Infinity", "-0.01", "1e12", "1e400", 10**12, "0.0000000000001", "ten", {},
)  # fmt: skip
WRONG_LIMITS = [
    *product(("allowed_rpm", "allowed_tpm", "allowed_concurrency"), WRONG_NUMBERS),
    *product(("monthly_budget_usd",), WRONG_AMOUNTS),
]


@pytest.mark.parametrize(("name", "value"), WRONG_LIMITS)
@pytest.mark.parametrize(
    ("verb", "path"),
    [
        ("limit.put", {"tenant": "t", "model": "*"}),
        ("key-limit.put", {"tenant": "t", "key_id": "k"}),
    ],
)
async def test_a_limit_that_makes_no_sense_is_refused_by_its_name(
    verb: str, path: dict[str, str], name: str, value: Any
) -> None:
    reply = await ask(verb, {name: value}, path)
    assert (reply.status, reply.field) == (AdminStatus.INVALID, name)
    assert name in (reply.error or "")


@pytest.mark.parametrize(
    ("verb", "path"),
    [
        ("limit.put", {"tenant": "t", "model": "*"}),
        ("key-limit.put", {"tenant": "t", "key_id": "k"}),
    ],
)
async def test_a_limit_may_be_nothing_at_all_or_very_much(verb: str, path: dict[str, str]) -> None:
    limits: tuple[dict[str, Any], ...] = (
        {"allowed_rpm": 0, "allowed_tpm": 0, "allowed_concurrency": 0, "monthly_budget_usd": "0"},
        {"allowed_rpm": 2**31 - 1, "allowed_tpm": 2**53 - 1, "allowed_concurrency": 2**31 - 1},
        {"monthly_budget_usd": "999999999999.999999999999"},
        {"monthly_budget_usd": 12.5, "allowed_rpm": None},
        {},
    )
    for body in limits:
        assert (await ask(verb, body, path)).status is AdminStatus.UNAVAILABLE, body


async def test_a_key_cannot_be_kept_from_models_by_its_limits() -> None:
    reply = await ask("key-limit.put", {"allowed": False}, {"tenant": "t", "key_id": "k"})
    assert (reply.status, reply.field) == (AdminStatus.INVALID, "allowed")


@pytest.mark.parametrize(
    ("spent", "budget", "percent"),
    [
        ("1", None, None),
        ("0", "12.50", 0.0),
        ("5", "12", 41.66),
        ("99.99999", "100", 99.99),
        ("100", "100", 100.0),
        ("150", "100", 150.0),
        ("0", "0", 100.0),
        ("999999999999", "0.000000000001", 999999999999e14),
    ],
)
def test_a_budget_is_said_to_be_spent_only_when_it_is(
    spent: str, budget: str | None, percent: float | None
) -> None:
    assert budget_percent(Decimal(spent), None if budget is None else Decimal(budget)) == percent


@pytest.mark.parametrize("limit", ["0", "1001", "-1", "ten", "", "٣", "9" * 5000])
async def test_a_limit_is_a_number_from_1_to_1000(limit: str) -> None:
    reply = await ask("tenant.list", query={"limit": limit})
    assert (reply.status, reply.field) == (AdminStatus.INVALID, "limit")


@pytest.mark.parametrize(
    "verb", ["provider.list", "model.list", "provider-model.list", "tenant.list", "dead-letter.list"]
)
@pytest.mark.parametrize(
    "cursor", ["", "x", "é", "bnVsbA==", "WzFd", "WyJhIiwiYiIsImMiXQ==", "WyJcdWQ4MDAiXQ=="]
)
async def test_a_cursor_that_no_page_gave_is_invalid(verb: str, cursor: str) -> None:
    reply = await ask(verb, query={"cursor": cursor})
    assert (reply.status, reply.field) == (AdminStatus.INVALID, "cursor")


async def test_usage_groups_by_what_it_knows_and_takes_iso_times() -> None:
    for name, value in (
        ("group_by", "tenant,colour"),
        ("from", "yesterday"),
        ("to", "0001-01-01T00:00+10:00"),
    ):
        reply = await ask("usage.query", query={name: value})
        assert (reply.status, reply.field) == (AdminStatus.INVALID, name)


@pytest.mark.parametrize("key", ["x", "-1", "9" * 30, "1.5"])
async def test_a_cursor_of_dead_letters_holds_a_number(key: str) -> None:
    reply = await ask("dead-letter.list", query={"cursor": cursor_after(key)})
    assert (reply.status, reply.field) == (AdminStatus.INVALID, "cursor")


async def test_usage_needs_ends_in_order_and_by_the_hour_few_days() -> None:
    reply = await ask("usage.query", query={"from": "2026-02-02", "to": "2026-02-01"})
    assert (reply.status, reply.field) == (AdminStatus.INVALID, "from")
    for ends in (
        {},
        {"from": "2026-02-01"},
        {"to": "2026-02-01"},
        {"from": "2026-02-01", "to": "2026-02-08T00:00:01"},
    ):
        reply = await ask("usage.query", query={"group_by": "tenant,hour", **ends})
        assert (reply.status, reply.field) == (AdminStatus.INVALID, "group_by"), ends
    week = {"group_by": "hour", "from": "2026-02-01", "to": "2026-02-08"}
    assert (await ask("usage.query", query=week)).status is AdminStatus.UNAVAILABLE, "fine, but for Postgres"
    widest = {"from": "0001-01-01", "to": "9999-12-31T23:59:59.999999"}
    assert (await ask("usage.query", query=widest)).status is AdminStatus.UNAVAILABLE


async def test_only_the_jobs_that_exist_can_be_run() -> None:
    reply = await ask("job.run", path={"job": "coffee"})
    assert reply.status is AdminStatus.NOT_FOUND
    assert "models-dev-sync" in (reply.error or "")


async def test_a_provider_at_a_public_address_is_accepted() -> None:
    assert (await put()).status is AdminStatus.UNAVAILABLE


@pytest.mark.parametrize("provider_id", ["Mine", "-mine", "a/b", "mine\n", "m" * 101])
async def test_a_provider_id_is_a_slug(provider_id: str) -> None:
    reply = await put(provider_id)
    assert (reply.status, reply.field) == (AdminStatus.INVALID, "provider")


@pytest.mark.parametrize("url", ["http://api.example.com/v1", "https://127.0.0.1/v1", "https://localhost/v1"])
async def test_private_addresses_need_the_setting_that_the_refusal_names(url: str) -> None:
    reply = await put(base_url=url)
    assert (reply.status, reply.field) == (AdminStatus.INVALID, "base_url")
    assert "SYNAXIS_ALLOW_PRIVATE_PROVIDERS" in (reply.error or "")
    allowed = await put(base_url=url, settings={"allow_private_providers": True})
    assert allowed.status is AdminStatus.UNAVAILABLE


@pytest.mark.parametrize(
    "url", ["https://169.254.169.254/v1", "https://u:p@h.example/v1", "https://h.example/\r\nv1", "ftp://h"]
)
async def test_some_urls_are_never_taken(url: str) -> None:
    reply = await put(base_url=url, settings={"allow_private_providers": True})
    assert (reply.status, reply.field) == (AdminStatus.INVALID, "base_url")


@pytest.mark.parametrize("name", ["SYNAXIS_ADMIN_KEY", "DATABASE_URL", "PATH", "MY_OWN_KEY"])
async def test_a_key_variable_must_be_one_that_may_hold_a_providers_key(name: str) -> None:
    reply = await put(api_key_env=name)
    assert (reply.status, reply.field) == (AdminStatus.INVALID, "api_key_env")


async def test_variables_of_models_dev_and_of_the_setting_may_hold_a_key() -> None:
    assert (await put(api_key_env="GROQ_API_KEY")).status is AdminStatus.UNAVAILABLE
    allowed = await put(api_key_env="MY_OWN_KEY", settings={"key_variables": "MY_OWN_KEY"})
    assert allowed.status is AdminStatus.UNAVAILABLE


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer x"},
        {"X-API-Key": "x"},
        {"Host": "x"},
        {"Connection": "close"},
        {"bad name": "x"},
        {"x-fine": "a\r\nb: c"},
        {"x-long": "x" * 10_000},
    ],
)
async def test_headers_hold_no_keys_and_do_no_mischief(headers: dict[str, str]) -> None:
    reply = await put(headers=headers)
    assert reply.status is AdminStatus.INVALID
    assert (reply.field or "").startswith("headers")


def test_the_values_of_headers_are_not_shown() -> None:
    record = ProviderRecord("p", "P", "operator", headers={"x-team": "secret"})
    shown = provider_row(record, 3, 2)
    assert shown["headers"] == {"x-team": "***"}
    assert (shown["models"], shown["models_available"], shown["api_key_env"]) == (3, 2, None)


def test_a_provider_model_shows_the_prices_in_force_as_plain_decimals() -> None:
    row = ProviderModelRecord(
        provider_id="p",
        provider_model_id="m",
        global_model_id="m",
        resolved_by="id",
        resolution_confidence=1.0,
        first_seen_at=NOW,
        last_seen_at=NOW,
        prices=Prices(input=Decimal("1E-7"), output=Decimal("2.50")),
        held_prices=Prices(input=Decimal(9)),
        override_input_price=Decimal("0.30"),
    )
    shown = provider_model_row(row, ProviderRecord("p", "P", "operator"))
    assert (shown["input_price"], shown["output_price"]) == ("0.30", "2.50")
    assert shown["held_prices"]["input"] == "9"
