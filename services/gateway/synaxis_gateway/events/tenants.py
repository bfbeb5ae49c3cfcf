"""Whose a key is, by the registries."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from synaxis_common.contracts.routing import ModelsRequest
from synaxis_gateway.http import errors
from synaxis_gateway.routing import Registry

TenantOf = Callable[[str], Awaitable[str]]
"""The tenant that a key, by its hash, belongs to. Raises ApiError for an invalid one, and BusUnavailable."""


def by_registry(registry: Registry) -> TenantOf:
    """Ask the registries."""

    async def tenant_of(key_hash: str) -> str:
        page = await registry.models(ModelsRequest(key_hash=key_hash, limit=1))
        if page.tenant_id is None:
            raise errors.unauthorized("The API key is not valid.")
        return page.tenant_id

    return tenant_of
