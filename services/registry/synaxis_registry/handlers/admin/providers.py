"""Verbs on providers."""

from __future__ import annotations

import re
from dataclasses import asdict
from datetime import datetime
from functools import partial
from typing import Any

from pydantic import TypeAdapter, ValidationError

from synaxis_common import egress, key_variables
from synaxis_common.contracts.admin import AdminReply, ProviderPut, Slug
from synaxis_registry.core.changes import ProviderUpdate
from synaxis_registry.core.operators import drop_provider, put_provider
from synaxis_registry.core.records import ProviderRecord, Suspension
from synaxis_registry.core.trust import provider_state
from synaxis_registry.handlers.admin.paging import after, limit_of, paged
from synaxis_registry.handlers.admin.verb import Ask, Surroundings, invalid, not_found, ok
from synaxis_registry.store import admin, catalog
from synaxis_registry.store.database import Connection

_SLUG: TypeAdapter[str] = TypeAdapter(Slug)
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_OURS = frozenset(
    {"authorization", "x-api-key", "api-key", "x-goog-api-key", "proxy-authorization", "cookie",
     "host", "connection", "content-length", "content-type", "content-encoding", "transfer-encoding", "te",
     "trailer", "upgrade", "keep-alive", "accept-encoding", "expect"}
)  # fmt: skip
"""Headers that an operator cannot set: keys have their variable, the others are the connection's own."""

MAX_HEADERS = 8_000
"""Characters of all headers together, names and values: what servers commonly take at most is 8 KiB."""


def row(record: ProviderRecord, models: int, available: int) -> dict[str, Any]:
    """A provider as operators see it. Values of headers may be secret, so only their names are shown."""
    state = provider_state(record)
    return {
        "id": record.provider_id,
        "provider_id": record.provider_id,
        "name": record.name,
        "base_url": record.base_url,
        "kind": record.kind,
        "api_key_env": record.api_key_envs[0] if record.api_key_envs else None,
        "api_key_envs": list(record.api_key_envs),
        "enabled": record.enabled is not False,
        "is_on": state.is_on,
        "off_reason": state.off_reason,
        "source": record.source,
        "tier": record.tier,
        "rate_limit_rpm": record.rate_limit_rpm,
        "rate_limit_tpm": record.rate_limit_tpm,
        "discover": record.discover,
        "timeouts": asdict(record.timeouts),
        "headers": dict.fromkeys(record.headers, "***"),
        "key_present": record.key_present,
        "pinned_host": record.pinned_host,
        "host_confirmed": record.host_confirmed,
        "suspension": None if record.suspension is None else _suspension(record.suspension),
        "last_poll_at": _iso(record.last_poll_at),
        "last_poll_outcome": record.last_poll_outcome,
        "last_poll_error": record.last_poll_error,
        "next_poll_at": _iso(record.next_poll_at),
        "models": models,
        "models_available": available,
    }


def _suspension(suspension: Suspension) -> dict[str, Any]:
    return {
        "since": _iso(suspension.since),
        "last_until": _iso(suspension.until),
        "requests": suspension.requests,
        "failures": suspension.failures,
    }


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


async def list_all(around: Surroundings, ask: Ask) -> AdminReply:
    """All providers, in the order of their ids."""
    limit = limit_of(ask)
    (provider_id,) = after(ask, 1)
    found = await around.database.run(lambda connection: admin.providers(connection, provider_id, limit + 1))
    return paged([row(*one) for one in found], limit, "id")


async def get(around: Surroundings, ask: Ask) -> AdminReply:
    """One provider."""
    return ok(await _shown(around, ask.path["provider"]))


async def put(around: Surroundings, ask: Ask) -> AdminReply:
    """Add a provider or change one; it is polled at once."""
    body = ask.body
    assert isinstance(body, ProviderPut)
    provider_id = ask.path["provider"]
    _check(around, provider_id, body)

    async def change(connection: Connection) -> ProviderUpdate:
        present = await catalog.keys_present(connection)

        def rule(record: ProviderRecord | None, rows: catalog.Rows) -> ProviderUpdate:
            return put_provider(
                record,
                provider_id,
                body,
                rows,
                around.clock.now(),
                allow_private=around.settings.allow_private_providers,
                keys_present=present,
            )

        return await catalog.change_provider(provider_id, rule, connection)

    await around.database.run(change)
    return ok(await _shown(around, provider_id))


async def delete(around: Surroundings, ask: Ask) -> AdminReply:
    """Take back what operators said of a provider; one that models.dev does not know is gone with that."""
    provider_id = ask.path["provider"]

    async def change(connection: Connection) -> ProviderUpdate:
        present = await catalog.keys_present(connection)

        def rule(record: ProviderRecord | None, rows: catalog.Rows) -> ProviderUpdate:
            if record is None or record.source != "operator" or record.retired_at is not None:
                raise not_found(f"no operator has put the provider '{provider_id}'")
            return drop_provider(record, rows, around.clock.now(), present)

        return await catalog.change_provider(provider_id, rule, connection)

    await around.database.run(change)
    return ok({"deleted": provider_id})


async def _shown(around: Surroundings, provider_id: str) -> dict[str, Any]:
    found = await around.database.run(partial(admin.provider, provider_id))
    if found is None:
        raise not_found(f"no provider '{provider_id}'")
    return row(*found)


def _check(around: Surroundings, provider_id: str, body: ProviderPut) -> None:
    try:
        _SLUG.validate_python(provider_id)
    except ValidationError as error:
        raise invalid(
            "a provider's id begins with a-z or 0-9 and is made of these, '.', '_' and '-', "
            "at most 100 of them",
            "provider",
        ) from error
    if not body.base_url.isprintable() or " " in body.base_url:
        raise invalid("the URL must not have white space or control characters", "base_url")
    private = around.settings.allow_private_providers
    try:
        egress.check_url(body.base_url, allow_private=private)
    except egress.ForbiddenAddress as error:
        hint = "" if private else "; SYNAXIS_ALLOW_PRIVATE_PROVIDERS allows http:// and private addresses"
        raise invalid(f"{error}{hint}", "base_url") from error
    if body.api_key_env is not None:
        _check_variable(around, body.api_key_env)
    if sum(len(name) + len(value) for name, value in body.headers.items()) > MAX_HEADERS:
        raise invalid(f"the headers have more than {MAX_HEADERS} characters", "headers")
    for name, value in body.headers.items():
        if not _HEADER.fullmatch(name) or name.lower() in _OURS:
            raise invalid(f"the header {name[:100]!r} cannot be set", f"headers.{name[:100]}")
        if not value.isprintable():
            raise invalid("a header's value must not have control characters", f"headers.{name}")


def _check_variable(around: Surroundings, name: str) -> None:
    if key_variables.is_forbidden(name):
        raise invalid(f"{name[:100]} may never hold a provider's key", "api_key_env")
    known = {
        variable
        for record in around.snapshot.providers.values()
        if record.catalog is not None
        for variable in record.catalog.api_key_envs
    }
    if name not in known | around.settings.allowed_key_variables:
        raise invalid(
            f"{name[:100]} is no variable that models.dev names for a provider; "
            "SYNAXIS_KEY_VARIABLES (of the registry) allows others",
            "api_key_env",
        )
