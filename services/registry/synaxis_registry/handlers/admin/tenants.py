"""Verbs on tenants, their keys, limits and usage."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import asyncpg

from synaxis_common.contracts.admin import AdminReply, AdminStatus, KeyStore, LimitPut, TenantCreate, page
from synaxis_common.money import plain
from synaxis_registry.core.catalog import ANY_MODEL
from synaxis_registry.handlers.admin.verb import (
    Ask,
    Refused,
    Surroundings,
    canonical_model,
    created,
    invalid,
    not_found,
    ok,
    paged,
)
from synaxis_registry.store import ledger, queries
from synaxis_registry.store.database import Connection

SQL = queries.load("tenants")
GROUPS = ("tenant", "model", "provider", "key", "day")


def _plain_row(row: asyncpg.Record) -> dict[str, Any]:
    """A row as JSON: exact amounts as decimal strings, times in ISO 8601."""
    shown: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Decimal):
            shown[name] = plain(value)
        elif isinstance(value, datetime | date):
            shown[name] = value.isoformat()
        else:
            shown[name] = value
    return shown


async def _of_tenant(connection: Connection, tenant_id: str) -> asyncpg.Record:
    found = await connection.fetchrow(SQL["tenant"], tenant_id)
    if found is None:
        raise not_found(f"no tenant '{tenant_id}'")
    return found


async def list_tenants(around: Surroundings, ask: Ask) -> AdminReply:
    """All tenants."""
    limit = ask.limit()
    rows = await around.database.run(
        lambda connection: connection.fetch(SQL["tenants"], ask.query.get("cursor", ""), limit + 1)
    )
    return paged([_plain_row(row) for row in rows], limit, lambda shown: str(shown["id"]))


async def create_tenant(around: Surroundings, ask: Ask) -> AdminReply:
    """A new tenant."""
    body = ask.body
    assert isinstance(body, TenantCreate)
    made = await around.database.run(
        lambda connection: connection.fetchrow(SQL["create_tenant"], body.id, body.name)
    )
    if made is None:
        raise Refused(AdminStatus.CONFLICT, f"there is or was a tenant '{body.id}'", "id")
    return created(_plain_row(made))


async def get_tenant(around: Surroundings, ask: Ask) -> AdminReply:
    """One tenant."""
    return ok(_plain_row(await around.database.run(lambda c: _of_tenant(c, ask.path["tenant"]))))


async def delete_tenant(around: Surroundings, ask: Ask) -> AdminReply:
    """Remove a tenant and revoke its keys. Its ledger stays."""
    tenant_id = ask.path["tenant"]

    async def change(connection: Connection) -> None:
        if await connection.fetchval(SQL["delete_tenant"], tenant_id) is None:
            raise not_found(f"no tenant '{tenant_id}'")
        await connection.execute(SQL["revoke_keys"], tenant_id)

    await around.database.run(change)
    return ok({"deleted": tenant_id})


async def list_keys(around: Surroundings, ask: Ask) -> AdminReply:
    """A tenant's keys, by their ids: the keys themselves nobody has."""
    limit = ask.limit()

    async def read(connection: Connection) -> list[asyncpg.Record]:
        tenant = await _of_tenant(connection, ask.path["tenant"])
        return await connection.fetch(SQL["keys"], tenant["id"], ask.query.get("cursor", ""), limit + 1)

    rows = await around.database.run(read)
    return paged([_plain_row(row) for row in rows], limit, lambda shown: str(shown["key_id"]))


async def create_key(around: Surroundings, ask: Ask) -> AdminReply:
    """Store a key that a gateway has made, by its hash."""
    body = ask.body
    assert isinstance(body, KeyStore)

    async def change(connection: Connection) -> asyncpg.Record | None:
        tenant = await _of_tenant(connection, ask.path["tenant"])
        return await connection.fetchrow(
            SQL["create_key"], body.key_id, tenant["id"], body.name, body.key_hash
        )

    made = await around.database.run(change)
    assert made is not None
    return created(_plain_row(made))


async def delete_key(around: Surroundings, ask: Ask) -> AdminReply:
    """Revoke a key."""
    key_id = ask.path["key_id"]
    found = await around.database.run(
        lambda connection: connection.fetchval(SQL["revoke_key"], ask.path["tenant"], key_id)
    )
    if found is None:
        raise not_found(f"the tenant '{ask.path['tenant']}' has no key '{key_id}'")
    return ok({"deleted": key_id})


async def list_limits(around: Surroundings, ask: Ask) -> AdminReply:
    """A tenant's limits, with what is used of them now."""
    limit = ask.limit()

    async def read(connection: Connection) -> list[asyncpg.Record]:
        tenant = await _of_tenant(connection, ask.path["tenant"])
        return await connection.fetch(SQL["limits"], tenant["id"], ask.query.get("cursor", ""), limit + 1)

    rows = [_plain_row(row) for row in await around.database.run(read)]
    shown = [{"model": row["global_model_id"], **row} for row in rows]
    return paged(shown, limit, lambda one: str(one["global_model_id"]))


async def put_limit(around: Surroundings, ask: Ask) -> AdminReply:
    """Set what a tenant may use of a model, or of all (`*`)."""
    body = ask.body
    assert isinstance(body, LimitPut)
    model = _limited_model(around, ask)

    async def change(connection: Connection) -> None:
        tenant = await _of_tenant(connection, ask.path["tenant"])
        await connection.execute(
            SQL["save_limit"],
            tenant["id"],
            model,
            body.allowed_rpm,
            body.allowed_tpm,
            body.monthly_budget_usd,
            body.allowed,
        )

    await around.database.run(change)
    return ok({"tenant_id": ask.path["tenant"], "model": model, **body.model_dump(mode="json")})


async def delete_limit(around: Surroundings, ask: Ask) -> AdminReply:
    """Remove a limit."""
    model = _limited_model(around, ask)
    found = await around.database.run(
        lambda connection: connection.fetchval(SQL["delete_limit"], ask.path["tenant"], model)
    )
    if found is None:
        raise not_found(f"the tenant '{ask.path['tenant']}' has no limit for '{model}'")
    return ok({"deleted": model})


async def usage(around: Surroundings, ask: Ask) -> AdminReply:
    """Exact sums of the ledger."""
    groups = [name.strip() for name in ask.query.get("group_by", "").split(",") if name.strip()]
    unknown = [name for name in groups if name not in GROUPS]
    if unknown:
        raise invalid(f"group_by takes {', '.join(GROUPS)}; not {', '.join(unknown)[:100]}", "group_by")
    model = ask.query.get("model")
    rows = await around.database.run(
        lambda connection: connection.fetch(
            ledger.SQL["usage"],
            ask.query.get("tenant"),
            None if model is None else canonical_model(around, model),
            ask.query.get("provider"),
            _moment(ask, "from"),
            _moment(ask, "to"),
            groups,
        )
    )
    shown = [
        {name: value for name, value in _plain_row(row).items() if name not in GROUPS or name in groups}
        for row in rows
    ]
    if not shown and not groups:
        zeros = ("requests", "input_tokens", "output_tokens", "requests_without_price", "requests_estimated")
        shown = [dict.fromkeys(zeros, 0) | {"cost_usd": "0"}]
    return ok(page(shown, None))


def _limited_model(around: Surroundings, ask: Ask) -> str:
    name = ask.path["model"]
    return ANY_MODEL if name == ANY_MODEL else canonical_model(around, name)


def _moment(ask: Ask, name: str) -> datetime | None:
    text = ask.query.get(name)
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise invalid(f"{name} must be a date or a time in ISO 8601", name) from error
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
