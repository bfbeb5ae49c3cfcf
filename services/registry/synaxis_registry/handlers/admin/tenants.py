"""Verbs on tenants and their keys."""

from __future__ import annotations

import asyncpg

from synaxis_common.contracts.admin import AdminReply, KeyStore, TenantCreate, TenantPatch
from synaxis_registry.handlers.admin.paging import after, limit_of, paged
from synaxis_registry.handlers.admin.usage import plain_row
from synaxis_registry.handlers.admin.verb import (
    Ask,
    Surroundings,
    conflict,
    created,
    not_found,
    ok,
)
from synaxis_registry.store import queries
from synaxis_registry.store.database import Connection

SQL = queries.load("tenants")


async def tenant_row(connection: Connection, tenant_id: str, query: str = "tenant") -> asyncpg.Record:
    """A tenant that is there. Raises Refused. `tenant_to_change` keeps it from being deleted meanwhile."""
    found = await connection.fetchrow(SQL[query], tenant_id)
    if found is None:
        raise not_found(f"no tenant '{tenant_id}'")
    return found


async def list_tenants(around: Surroundings, ask: Ask) -> AdminReply:
    """All tenants."""
    limit = limit_of(ask)
    (tenant_id,) = after(ask, 1)
    rows = await around.database.run(
        lambda connection: connection.fetch(SQL["tenants"], tenant_id, limit + 1)
    )
    return paged([plain_row(row) for row in rows], limit, "id")


async def create_tenant(around: Surroundings, ask: Ask) -> AdminReply:
    """A new tenant."""
    body = ask.body
    assert isinstance(body, TenantCreate)
    made = await around.database.run(
        lambda connection: connection.fetchrow(SQL["create_tenant"], body.id, body.name)
    )
    if made is None:
        raise conflict(f"there is or was a tenant '{body.id}'", "id")
    return created(plain_row(made))


async def get_tenant(around: Surroundings, ask: Ask) -> AdminReply:
    """One tenant."""
    return ok(plain_row(await around.database.run(lambda c: tenant_row(c, ask.path["tenant"]))))


async def patch_tenant(around: Surroundings, ask: Ask) -> AdminReply:
    """Rename a tenant, or have its requests hedged."""
    tenant_id, body = ask.path["tenant"], ask.body
    assert isinstance(body, TenantPatch)

    async def change(connection: Connection) -> asyncpg.Record:
        row = await connection.fetchrow(SQL["patch_tenant"], tenant_id, body.name, body.hedge)
        if row is None:
            raise not_found(f"no tenant '{tenant_id}'")
        await connection.execute(SQL["touch_keys"], tenant_id)
        return row

    return ok(plain_row(await around.database.run(change)))


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
    limit = limit_of(ask)
    (last,) = after(ask, 1)

    async def read(connection: Connection) -> list[asyncpg.Record]:
        tenant = await tenant_row(connection, ask.path["tenant"])
        return await connection.fetch(SQL["keys"], tenant["id"], last, limit + 1)

    rows = await around.database.run(read)
    return paged([plain_row(row) for row in rows], limit, "key_id")


async def create_key(around: Surroundings, ask: Ask) -> AdminReply:
    """Store a key that a gateway has made, by its hash. Storing the same key again changes nothing."""
    body = ask.body
    assert isinstance(body, KeyStore)

    async def change(connection: Connection) -> asyncpg.Record | None:
        tenant = await tenant_row(connection, ask.path["tenant"], "tenant_to_change")
        return await connection.fetchrow(
            SQL["create_key"], body.key_id, tenant["id"], body.name, body.key_hash
        )

    try:
        made = await around.database.run(change)
    except asyncpg.UniqueViolationError as error:
        raise conflict("there is such a key under another id", "key_hash") from error
    if made is None:
        raise conflict(f"there is or was another key '{body.key_id}'", "key_id")
    return created(plain_row(made))


async def delete_key(around: Surroundings, ask: Ask) -> AdminReply:
    """Revoke a key."""
    key_id = ask.path["key_id"]
    found = await around.database.run(
        lambda connection: connection.fetchval(SQL["revoke_key"], ask.path["tenant"], key_id)
    )
    if found is None:
        raise not_found(f"the tenant '{ask.path['tenant']}' has no key '{key_id}'")
    return ok({"deleted": key_id})
