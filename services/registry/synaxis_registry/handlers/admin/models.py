"""Verbs on global models."""

from __future__ import annotations

from typing import Any

from synaxis_common.contracts.admin import AdminReply, ModelPatch
from synaxis_registry.core.effective import effective_model
from synaxis_registry.core.operators import patch_global
from synaxis_registry.core.records import GlobalModelRecord
from synaxis_registry.handlers.admin.paging import MAX_LIMIT, after, cursor_after, fitting, limit_of, paged
from synaxis_registry.handlers.admin.provider_models import KEY, provider_model_row
from synaxis_registry.handlers.admin.verb import Ask, Surroundings, known_model, not_found, ok
from synaxis_registry.store import admin, catalog
from synaxis_registry.store.database import Connection
from synaxis_registry.store.records import GLOBAL_MODEL


def model_row(record: GlobalModelRecord, endpoints: int, available: int) -> dict[str, Any]:
    """A global model as operators see it, with how many provider models it has."""
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
        "endpoints": endpoints,
        "endpoints_available": available,
    }


async def list_all(around: Surroundings, ask: Ask) -> AdminReply:
    """All global models, in the order of their ids."""
    limit = limit_of(ask)
    (model_id,) = after(ask, 1)
    found = await around.database.run(lambda connection: admin.models(connection, model_id, limit + 1))
    return paged([model_row(*one) for one in found], limit, "id")


async def get(around: Surroundings, ask: Ask) -> AdminReply:
    """One global model by any of its names, with its endpoints."""
    return ok(await shown(around, await known_model(around, ask.path["model"])))


async def patch(around: Surroundings, ask: Ask) -> AdminReply:
    """Change what an operator may change of a global model."""
    body = ask.body
    assert isinstance(body, ModelPatch)
    model_id = await known_model(around, ask.path["model"])

    async def change(connection: Connection) -> None:
        found = await connection.fetchval(catalog.SQL["model_for_update"], model_id)
        if found is None:
            raise not_found(f"no model '{model_id}'")
        await catalog.save_models(connection, [patch_global(GLOBAL_MODEL.read(found), body)])

    await around.database.run(change)
    return ok(await shown(around, model_id))


async def shown(around: Surroundings, model_id: str) -> dict[str, Any]:
    """The model with its endpoints; of very many the first, and a cursor for `/provider-models?model=`."""

    async def read(connection: Connection) -> dict[str, Any]:
        found = await admin.model(connection, model_id)
        if found is None:
            raise not_found(f"no model '{model_id}'")
        stored = await admin.provider_models(connection, None, model_id, None, ("", ""), MAX_LIMIT + 1)
        rows = [provider_model_row(*one) for one in stored]
        shown = fitting(rows, MAX_LIMIT)
        more = cursor_after(*(rows[shown - 1][name] for name in KEY)) if shown < len(rows) else None
        return model_row(*found) | {"endpoints": rows[:shown], "endpoints_next_cursor": more}

    return await around.database.run(read)
