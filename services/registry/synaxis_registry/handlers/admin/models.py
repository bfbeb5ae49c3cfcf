"""Verbs on global models and on provider models."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from synaxis_common.contracts.admin import AdminReply, ModelPatch, ProviderModelPatch
from synaxis_common.money import plain
from synaxis_registry.core.changes import ProviderUpdate
from synaxis_registry.core.effective import effective_endpoint, effective_model, last_seen
from synaxis_registry.core.operators import patch_global, patch_model
from synaxis_registry.core.records import GlobalModelRecord, ProviderModelRecord, ProviderRecord
from synaxis_registry.handlers.admin.verb import (
    Ask,
    Surroundings,
    canonical_model,
    invalid,
    not_found,
    ok,
    paged,
)
from synaxis_registry.store import admin, catalog
from synaxis_registry.store.database import Connection
from synaxis_registry.store.records import GLOBAL_MODEL


def model_row(record: GlobalModelRecord, endpoints: int, available: int) -> dict[str, Any]:
    """A global model as operators see it."""
    model = effective_model(record)
    facts = record.facts
    return {
        "id": record.id,
        "name": model.name,
        "vendor": record.vendor,
        "aliases": sorted(model.aliases),
        "status": model.status,
        "source_id": record.source_id,
        "family": facts.family,
        "release_date": facts.release_date,
        "knowledge_cutoff": facts.knowledge_cutoff,
        "context_window": facts.context_window,
        "max_input": facts.max_input,
        "max_output": facts.max_output,
        "input_modalities": list(facts.input_modalities),
        "output_modalities": list(facts.output_modalities),
        "capabilities": facts.capabilities.model_dump(),
        "open_weights": facts.open_weights,
        "provider_models": endpoints,
        "provider_models_available": available,
    }


def provider_model_row(row: ProviderModelRecord, provider: ProviderRecord) -> dict[str, Any]:
    """A provider model as operators see it: what is in force, and what is held back."""
    endpoint = effective_endpoint(row, provider)
    prices = endpoint.prices
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
        "held_prices": (
            None if row.held_prices is None else row.held_prices.model_dump(mode="json", exclude_none=True)
        ),
        "context_window": endpoint.context_window,
        "max_output": endpoint.max_output,
        "quantization": row.quantization,
        "rate_limit_rpm": row.rate_limit_rpm,
        "rate_limit_tpm": row.rate_limit_tpm,
        "in_catalog": row.in_catalog,
        "first_seen_at": row.first_seen_at.isoformat(),
        "last_seen_at": last_seen(row, provider).isoformat(),
    }


async def list_models(around: Surroundings, ask: Ask) -> AdminReply:
    """All global models, in the order of their ids."""
    limit = ask.limit()
    found = await around.database.run(
        lambda connection: admin.models(connection, ask.query.get("cursor", ""), limit + 1)
    )
    return paged([model_row(*one) for one in found], limit, lambda shown: str(shown["id"]))


async def get_model(around: Surroundings, ask: Ask) -> AdminReply:
    """One global model by any of its names, with its endpoints."""
    return ok(await _shown_model(around, canonical_model(around, ask.path["model"])))


async def patch_one_model(around: Surroundings, ask: Ask) -> AdminReply:
    """Change what an operator may change of a global model."""
    body = ask.body
    assert isinstance(body, ModelPatch)
    model_id = canonical_model(around, ask.path["model"])

    async def change(connection: Connection) -> None:
        found = await connection.fetchval(catalog.SQL["model_for_update"], model_id)
        if found is None:
            raise not_found(f"no model '{model_id}'")
        await catalog.save_models(connection, [patch_global(GLOBAL_MODEL.read(found), body)])

    await around.database.run(change)
    return ok(await _shown_model(around, model_id))


async def list_provider_models(around: Surroundings, ask: Ask) -> AdminReply:
    """Provider models, by provider, model and availability."""
    limit = ask.limit()
    model = ask.query.get("model")
    wanted = None if model is None else canonical_model(around, model)
    after = _cursor(ask.query.get("cursor"))
    available = ask.flag("available")
    found = await around.database.run(
        lambda connection: admin.provider_models(
            connection, ask.query.get("provider"), wanted, available, after, limit + 1
        )
    )
    rows = [provider_model_row(*one) for one in found]
    return paged(rows, limit, lambda shown: json.dumps([shown["provider_id"], shown["provider_model_id"]]))


async def get_provider_model(around: Surroundings, ask: Ask) -> AdminReply:
    """One provider model."""
    row, provider = await _one(around, ask)
    return ok(provider_model_row(row, provider))


async def patch_provider_model(around: Surroundings, ask: Ask) -> AdminReply:
    """Pin, price, limit or disable a provider model."""
    body = ask.body
    assert isinstance(body, ProviderModelPatch)
    provider_id, provider_model_id = ask.path["provider"], ask.path["provider_model_id"]
    if body.global_model_id is not None:
        body = body.model_copy(update={"global_model_id": canonical_model(around, body.global_model_id)})

    async def change(connection: Connection) -> None:
        await connection.execute(catalog.SQL["lock_provider"], provider_id)
        record, rows = await catalog.read_provider(connection, provider_id)
        row = rows.get(provider_model_id)
        if record is None or row is None:
            raise not_found(f"the provider '{provider_id}' has no model '{provider_model_id}'")
        async with around.resolving.session(connection) as resolve:
            update: ProviderUpdate = patch_model(record, row, body, around.clock.now(), resolve)
        await catalog.store_update(connection, update, rows)

    await around.database.run(change)
    return await get_provider_model(around, ask)


async def _shown_model(around: Surroundings, model_id: str) -> dict[str, Any]:
    async def read(connection: Connection) -> dict[str, Any]:
        found = await admin.model(connection, model_id)
        if found is None:
            raise not_found(f"no model '{model_id}'")
        rows = await admin.provider_models(connection, None, model_id, None, ("", ""), 1_000)
        return model_row(*found) | {"endpoints": [provider_model_row(*one) for one in rows]}

    return await around.database.run(read)


async def _one(around: Surroundings, ask: Ask) -> tuple[ProviderModelRecord, ProviderRecord]:
    provider_id, provider_model_id = ask.path["provider"], ask.path["provider_model_id"]
    found = await around.database.run(partial(admin.provider_model, provider_id, provider_model_id))
    if found is None:
        raise not_found(f"the provider '{provider_id}' has no model '{provider_model_id}'")
    return found


def _cursor(text: str | None) -> tuple[str, str]:
    if text is None:
        return "", ""
    try:
        provider_id, provider_model_id = json.loads(text)
    except (ValueError, TypeError) as error:
        raise invalid("this cursor is none of ours", "cursor") from error
    return str(provider_id), str(provider_model_id)
