"""Verbs that say which models are one and which are two."""

from __future__ import annotations

from collections.abc import Container

from synaxis_common.contracts.admin import AdminReply, ModelMerge, ModelSplit
from synaxis_registry.core.curation import merge, pin_all, split_off
from synaxis_registry.core.records import GlobalModelRecord
from synaxis_registry.handlers.admin.models import shown
from synaxis_registry.handlers.admin.verb import Ask, Surroundings, invalid, known_model, not_found, ok
from synaxis_registry.store import admin, catalog
from synaxis_registry.store.database import Connection
from synaxis_registry.store.records import GLOBAL_MODEL


async def merge_models(around: Surroundings, ask: Ask) -> AdminReply:
    """Make the model in the path another one: its provider models are pinned, its names become aliases."""
    body = ask.body
    assert isinstance(body, ModelMerge)
    gone_id, into_id = await known_model(around, ask.path["model"]), await known_model(around, body.into)
    if gone_id == into_id:
        raise invalid(f"both names mean the model '{into_id}'", "into")

    async def change(connection: Connection) -> None:
        # Locked in the order of their ids, whichever way two operators merge at once.
        locked = {one: await _locked(connection, one) for one in sorted((gone_id, into_id))}
        await _pin(around, connection, gone_id, into_id)
        await catalog.save_models(connection, merge(locked[gone_id], locked[into_id]))

    await around.database.run(change)
    return ok(await shown(around, into_id))


async def split_model(around: Surroundings, ask: Ask) -> AdminReply:
    """Make some provider models of a model another one, which is made if it is not there."""
    body = ask.body
    assert isinstance(body, ModelSplit)
    model_id = await known_model(around, ask.path["model"])
    if body.id == model_id:
        raise invalid(f"they are the model '{model_id}' already", "id")
    wanted: dict[str, set[str]] = {}
    for one in body.provider_models:
        wanted.setdefault(one.provider_id, set()).add(one.provider_model_id)

    async def change(connection: Connection) -> None:
        known = await _locked(connection, model_id)
        await catalog.add_models(connection, [split_off(known, body.id, body.name)])
        target = await _locked(connection, body.id)
        if target.merged_into is not None:
            raise invalid(f"'{body.id}' has been merged into '{target.merged_into}'", "id")
        for provider_id in sorted(wanted):
            pinned = await _pin(around, connection, model_id, body.id, provider_id, wanted[provider_id])
            if missing := wanted[provider_id] - pinned:
                raise not_found(f"'{model_id}' has no {sorted(missing)[0]!r} at the provider '{provider_id}'")

    await around.database.run(change)
    return ok(await shown(around, body.id))


async def _locked(connection: Connection, model_id: str) -> GlobalModelRecord:
    found = await connection.fetchval(catalog.SQL["model_for_update"], model_id)
    if found is None:
        raise not_found(f"no model '{model_id}'")
    return GLOBAL_MODEL.read(found)


async def _pin(
    around: Surroundings,
    connection: Connection,
    of_model: str,
    to_model: str,
    only_provider: str | None = None,
    only: Container[str] | None = None,
) -> set[str]:
    """Pin provider models; answers the ids of those that were."""
    found = await admin.providers_of_model(connection, of_model) if only_provider is None else [only_provider]
    done: set[str] = set()
    for provider_id in found:
        await connection.execute(catalog.SQL["lock_provider"], provider_id)
        record, rows = await catalog.read_provider(connection, provider_id)
        if record is None:
            continue
        update = pin_all(record, rows, of_model, to_model, around.clock.now(), only)
        await catalog.store_update(connection, update, rows)
        done |= {row.provider_model_id for row in update.upserts}
    return done
