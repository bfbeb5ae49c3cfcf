"""Providers, their models, and global models: read, and changed together with the events of the change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime

from asyncpg import Record

from synaxis_common import slices
from synaxis_common.ids import uuid7
from synaxis_registry.core.changes import Event, ProviderUpdate
from synaxis_registry.core.records import GlobalModelRecord, ProviderModelRecord, ProviderRecord
from synaxis_registry.core.trust import provider_state
from synaxis_registry.store import queries
from synaxis_registry.store.database import Connection
from synaxis_registry.store.records import GLOBAL_MODEL, PROVIDER, PROVIDER_MODEL

SQL = queries.load("catalog")

FIRST = "0"
"""A horizon before everything."""

Rows = dict[str, ProviderModelRecord]
Change = Callable[[ProviderRecord | None, Rows], ProviderUpdate]
"""A rule of the core, with all but the stored rows given."""


def _provider_model(row: Record) -> ProviderModelRecord:
    return PROVIDER_MODEL.read(row[0])


def _global_model(row: Record) -> GlobalModelRecord:
    return GLOBAL_MODEL.read(row[0])


async def read_provider(connection: Connection, provider_id: str) -> tuple[ProviderRecord | None, Rows]:
    """A provider with all its models."""
    found = await connection.fetchval(SQL["provider"], provider_id)
    if found is None:
        return None, {}
    rows = await slices.each(_provider_model, await connection.fetch(SQL["provider_models"], provider_id))
    return PROVIDER.read(found), {row.provider_model_id: row for row in rows}


async def change_provider(provider_id: str, change: Change, connection: Connection) -> ProviderUpdate:
    """Apply a rule to a provider that nobody else changes meanwhile, and store what it says.

    The rows and the events of their change are stored in the caller's transaction, so that neither can be
    without the other.
    """
    await connection.execute(SQL["lock_provider"], provider_id)
    record, rows = await read_provider(connection, provider_id)
    update = change(record, rows)
    await store_update(connection, update, rows)
    return update


async def store_update(
    connection: Connection, update: ProviderUpdate, rows: Mapping[str, ProviderModelRecord]
) -> None:
    """Store what a rule says. `rows`: what was stored before, to tell whose prices have changed."""
    if update.record is not None:
        await save_provider(connection, update.record)
    if update.upserts:
        await save_provider_models(connection, update.upserts, rows)
    await add_events(connection, update.events)


async def save_provider(connection: Connection, record: ProviderRecord) -> None:
    """Insert or replace a provider's row."""
    state = provider_state(record)
    await connection.execute(
        SQL["save_provider"],
        record.provider_id,
        PROVIDER.write(record),
        state.is_on,
        state.off_reason,
        record.next_poll_at,
    )


async def save_provider_models(
    connection: Connection, upserts: Iterable[ProviderModelRecord], rows: Mapping[str, ProviderModelRecord]
) -> None:
    """Insert or replace rows, in the order of their keys, and note new prices."""
    ordered = sorted(upserts, key=lambda row: row.key)
    await connection.execute(
        SQL["save_provider_models"],
        [row.provider_id for row in ordered],
        [row.provider_model_id for row in ordered],
        await slices.each(PROVIDER_MODEL.write, ordered),
    )
    repriced = [
        row
        for row in ordered
        if (before := rows.get(row.provider_model_id)) is None or before.prices != row.prices
    ]
    if repriced:
        await connection.execute(
            SQL["save_prices"],
            [row.provider_id for row in repriced],
            [row.provider_model_id for row in repriced],
            await slices.each(lambda row: row.prices.model_dump_json(exclude_none=True), repriced),
        )


async def add_events(connection: Connection, events: Iterable[Event]) -> None:
    """Put events into the outbox, in order."""
    rows = await slices.each(
        lambda event: (uuid7(), event.type.value, event.data.model_dump_json()), list(events)
    )
    if rows:
        await connection.executemany(SQL["add_event"], rows)


async def read_providers(connection: Connection) -> dict[str, ProviderRecord]:
    """All providers by id."""
    found = [PROVIDER.read(row[0]) for row in await connection.fetch(SQL["providers"])]
    return {record.provider_id: record for record in found}


async def read_models(connection: Connection) -> dict[str, GlobalModelRecord]:
    """All global models by id."""
    found = await slices.each(_global_model, await connection.fetch(SQL["models"]))
    return {record.id: record for record in found}


async def current_horizon(connection: Connection) -> str:
    """The horizon to ask with next time: what is not committed yet comes after it."""
    found: str = await connection.fetchval(SQL["horizon"])
    return found


async def read_models_since(connection: Connection, horizon: str) -> tuple[str, list[GlobalModelRecord]]:
    """The global models written since `horizon`, and the horizon to ask with next time."""
    new_horizon = await current_horizon(connection)
    return new_horizon, await slices.each(_global_model, await connection.fetch(SQL["models_since"], horizon))


async def save_models(connection: Connection, records: Iterable[GlobalModelRecord]) -> None:
    """Insert or replace global models; a row that is the same already is not touched."""
    ordered = sorted(records, key=lambda record: record.id)
    if ordered:
        await connection.execute(
            SQL["save_models"],
            [one.id for one in ordered],
            await slices.each(GLOBAL_MODEL.write, ordered),
        )


async def add_models(connection: Connection, records: Iterable[GlobalModelRecord]) -> None:
    """Insert global models that are not there yet."""
    ordered = sorted(records, key=lambda record: record.id)
    if ordered:
        await connection.execute(
            SQL["add_models"],
            [one.id for one in ordered],
            await slices.each(GLOBAL_MODEL.write, ordered),
        )


async def due_providers(connection: Connection) -> list[ProviderRecord]:
    """The providers whose poll is due, taken for this registry."""
    return [PROVIDER.read(row[0]) for row in await connection.fetch(SQL["due_providers"])]


async def keys_present(connection: Connection) -> frozenset[str]:
    """The names of the key variables that discovery last said are set."""
    return frozenset(row["name"] for row in await connection.fetch(SQL["key_variables"]) if row["is_set"])


async def checkpoint(connection: Connection) -> dict[str, str]:
    """What of models.dev has been applied, as sync wants to know it."""
    found = {row["name"]: row["value"] for row in await connection.fetch(SQL["sources"])}
    for provider_id, record in (await read_providers(connection)).items():
        if record.content_hash is not None:
            found[f"provider/{provider_id}"] = record.content_hash
    return found


async def save_source(connection: Connection, name: str, value: str, observed_at: datetime) -> None:
    """Note what has been applied; an older word does not replace a newer one."""
    await connection.execute(SQL["save_source"], name, value, observed_at)
