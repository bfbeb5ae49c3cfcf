"""Verbs on provider models."""

from __future__ import annotations

from dataclasses import asdict
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import Any

from synaxis_common.contracts.admin import AdminReply, ProviderModelPatch
from synaxis_common.money import plain
from synaxis_registry.core import identity
from synaxis_registry.core.effective import effective_endpoint, last_seen
from synaxis_registry.core.operators import patch_model
from synaxis_registry.core.records import ProviderModelRecord, ProviderRecord
from synaxis_registry.handlers.admin.paging import after, limit_of, no_cursor, paged
from synaxis_registry.handlers.admin.verb import (
    Ask,
    Refused,
    Surroundings,
    known_model,
    model_or_literal,
    not_found,
    ok,
)
from synaxis_registry.store import admin, catalog
from synaxis_registry.store.database import Connection

KEY = ("provider_id", "provider_model_id")


def provider_model_row(row: ProviderModelRecord, provider: ProviderRecord) -> dict[str, Any]:
    """A provider model as operators see it: what is in force, and what is held back."""
    endpoint = effective_endpoint(row, provider)
    prices, held = endpoint.prices, row.held_prices
    return {
        "provider_id": row.provider_id,
        "provider_model_id": row.provider_model_id,
        "global_model_id": row.global_model_id,
        "resolved_by": row.resolved_by,
        "resolution_confidence": row.resolution_confidence,
        "pinned": row.pinned_model_id is not None,
        "is_available": row.is_available,
        "unavailable_reason": row.unavailable_reason,
        "enabled": row.enabled,
        "input_price": None if prices.input is None else plain(prices.input),
        "output_price": None if prices.output is None else plain(prices.output),
        "prices": prices.model_dump(mode="json", exclude_none=True),
        "is_flat_rate": endpoint.is_flat_rate,
        "held_prices": None if held is None else held.model_dump(mode="json", exclude_none=True),
        "context_window": endpoint.context_window,
        "max_output": endpoint.max_output,
        "quantization": row.quantization,
        "rate_limit_rpm": row.rate_limit_rpm,
        "rate_limit_tpm": row.rate_limit_tpm,
        "in_catalog": row.in_catalog,
        "first_seen_at": row.first_seen_at.isoformat(),
        "last_seen_at": last_seen(row, provider).isoformat(),
    }


async def list_all(around: Surroundings, ask: Ask) -> AdminReply:
    """Provider models, by provider, model and availability."""
    limit = limit_of(ask)
    if ask.flag("review"):
        return await _unsure(around, ask, limit)
    provider_id, provider_model_id = after(ask, len(KEY))
    available = ask.flag("available")
    model = await model_or_literal(around, ask.query.get("model"))
    found = await around.database.run(
        lambda connection: admin.provider_models(
            connection,
            ask.query.get("provider"),
            model,
            available,
            (provider_id, provider_model_id),
            limit + 1,
        )
    )
    return paged([provider_model_row(*one) for one in found], limit, *KEY)


async def _unsure(around: Surroundings, ask: Ask, limit: int) -> AdminReply:
    """Those that the rules were least sure of first; what an operator has pinned is not among them."""
    confidence, *key = after(ask, 3)
    try:
        least = Decimal(confidence or "-1")
    except InvalidOperation as error:
        raise no_cursor() from error
    found = await around.database.run(
        lambda connection: admin.unsure(
            connection, ask.query.get("provider"), least, key[0], key[1], limit + 1
        )
    )
    rows = [provider_model_row(*one) for one in found]
    return paged(rows, limit, "resolution_confidence", *KEY)


async def get(around: Surroundings, ask: Ask) -> AdminReply:
    """One provider model."""
    found = await around.database.run(partial(admin.provider_model, *_key(ask)))
    if found is None:
        raise _nowhere(ask)
    row, provider = found
    why = await around.database.run(lambda connection: around.resolving.explain(connection, row))
    return ok(provider_model_row(row, provider) | {"resolution": _resolution(why)})


async def patch(around: Surroundings, ask: Ask) -> AdminReply:
    """Pin, price, limit or disable a provider model."""
    body = ask.body
    assert isinstance(body, ProviderModelPatch)
    provider_id, provider_model_id = _key(ask)
    if body.global_model_id is not None:
        model_id = await known_model(around, body.global_model_id)
        body = body.model_copy(update={"global_model_id": model_id})

    async def change(connection: Connection) -> None:
        await connection.execute(catalog.SQL["lock_provider"], provider_id)
        record, rows = await catalog.read_provider(connection, provider_id)
        row = rows.get(provider_model_id)
        if record is None or row is None:
            raise _nowhere(ask)
        async with around.resolving.session(connection) as resolve:
            update = patch_model(record, row, body, around.clock.now(), resolve)
        await catalog.store_update(connection, update, rows)

    await around.database.run(change)
    return await get(around, ask)


def _resolution(found: identity.Resolution) -> dict[str, Any]:
    """What the rules say, for people to judge: an operator's pin goes before it."""
    return {
        "global_model_id": found.global_model_id,
        "rule": found.rule.value,
        "confidence": found.confidence,
        "evidence": list(found.evidence),
        "attributes": asdict(found.attributes) | {"variants": list(found.attributes.variants)},
        "runners_up": [asdict(other) for other in found.runners_up],
    }


def _key(ask: Ask) -> tuple[str, str]:
    return ask.path["provider"], ask.path["provider_model_id"]


def _nowhere(ask: Ask) -> Refused:
    provider_id, provider_model_id = _key(ask)
    return not_found(f"the provider '{provider_id}' has no model '{provider_model_id}'")
