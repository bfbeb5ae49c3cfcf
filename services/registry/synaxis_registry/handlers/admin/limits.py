"""Verbs on the limits of tenants and of their keys, shown with what is used of them now."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import asyncpg

from synaxis_common.contracts.admin import AdminReply, KeyLimitPut, LimitPut
from synaxis_registry.core.catalog import ANY_MODEL
from synaxis_registry.handlers.admin.paging import after, limit_of, paged
from synaxis_registry.handlers.admin.tenants import SQL, tenant_row
from synaxis_registry.handlers.admin.usage import plain_row
from synaxis_registry.handlers.admin.verb import Ask, Refused, Surroundings, known_model, not_found, ok
from synaxis_registry.store.database import Connection


async def list_limits(around: Surroundings, ask: Ask) -> AdminReply:
    """A tenant's limits, with what is used of them now."""
    limit = limit_of(ask)
    (last,) = after(ask, 1)

    async def read(connection: Connection) -> list[dict[str, Any]]:
        tenant = await tenant_row(connection, ask.path["tenant"])
        found = await connection.fetch(SQL["limits"], tenant["id"], last, limit + 1)
        return await _with_use(connection, found)

    rows = await around.database.run(read)
    return paged([{"model": row["global_model_id"], **row} for row in rows], limit, "global_model_id")


async def put_limit(around: Surroundings, ask: Ask) -> AdminReply:
    """Set what a tenant may use of a model, or of all (`*`)."""
    body = ask.body
    assert isinstance(body, LimitPut)
    model = await _limited_model(around, ask)

    async def change(connection: Connection) -> None:
        tenant = await tenant_row(connection, ask.path["tenant"], "tenant_to_change")
        await connection.execute(
            SQL["save_limit"],
            tenant["id"],
            model,
            body.allowed_rpm,
            body.allowed_tpm,
            body.allowed_concurrency,
            body.monthly_budget_usd,
            body.allowed,
        )

    await around.database.run(change)
    return ok({"tenant_id": ask.path["tenant"], "model": model, **body.model_dump(mode="json")})


async def delete_limit(around: Surroundings, ask: Ask) -> AdminReply:
    """Remove a limit."""
    model = await _limited_model(around, ask)
    found = await around.database.run(
        lambda connection: connection.fetchval(SQL["delete_limit"], ask.path["tenant"], model)
    )
    if found is None:
        raise not_found(f"the tenant '{ask.path['tenant']}' has no limit for '{model}'")
    return ok({"deleted": model})


async def get_key_limit(around: Surroundings, ask: Ask) -> AdminReply:
    """A key's limits, with what is used of them now; a key without any is shown too, with what it spends."""

    async def read(connection: Connection) -> list[dict[str, Any]]:
        found = await connection.fetch(SQL["key_limit"], ask.path["tenant"], ask.path["key_id"])
        return await _with_use(connection, found)

    rows = await around.database.run(read)
    if not rows:
        raise _no_key(ask)
    return ok({"tenant_id": ask.path["tenant"], **rows[0]})


async def put_key_limit(around: Surroundings, ask: Ask) -> AdminReply:
    """Set what a key may use, of all models together."""
    body = ask.body
    assert isinstance(body, KeyLimitPut)
    key_id = ask.path["key_id"]

    async def change(connection: Connection) -> None:
        if await connection.fetchval(SQL["key_to_change"], ask.path["tenant"], key_id) is None:
            raise _no_key(ask)
        await connection.execute(
            SQL["save_key_limit"],
            key_id,
            body.allowed_rpm,
            body.allowed_tpm,
            body.allowed_concurrency,
            body.monthly_budget_usd,
        )

    await around.database.run(change)
    return ok({"tenant_id": ask.path["tenant"], "key_id": key_id, **body.model_dump(mode="json")})


async def delete_key_limit(around: Surroundings, ask: Ask) -> AdminReply:
    """Remove a key's limits; those of its tenant stay."""
    key_id = ask.path["key_id"]
    found = await around.database.run(
        lambda connection: connection.fetchval(SQL["delete_key_limit"], ask.path["tenant"], key_id)
    )
    if found is None:
        raise not_found(f"the tenant '{ask.path['tenant']}' has no key '{key_id}' with limits")
    return ok({"deleted": key_id})


async def _with_use(connection: Connection, limits: Sequence[asyncpg.Record]) -> list[dict[str, Any]]:
    """Each limit with the live use of its scope."""
    found = await connection.fetch(SQL["live_use"], [row["scope"] for row in limits])
    uses = {use["scope"]: use for use in found}
    shown = []
    for limit in limits:
        use = uses[limit["scope"]]
        row = plain_row(limit) | plain_row(use)
        row["budget_percent"] = budget_percent(use["spent_usd"], limit["monthly_budget_usd"])
        del row["scope"]
        shown.append(row)
    return shown


def budget_percent(spent: Decimal, budget: Decimal | None) -> float | None:
    """How much of a budget is spent, rounded down so that 100 is said only when it is; None: no budget."""
    if budget is None:
        return None
    if budget == 0:
        return 100.0
    return int(10_000 * spent / budget) / 100


async def _limited_model(around: Surroundings, ask: Ask) -> str:
    name = ask.path["model"]
    return ANY_MODEL if name == ANY_MODEL else await known_model(around, name)


def _no_key(ask: Ask) -> Refused:
    return not_found(f"the tenant '{ask.path['tenant']}' has no key '{ask.path['key_id']}'")
