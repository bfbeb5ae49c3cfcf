"""What models.dev says becomes changes of rows: idempotent, and in whichever order it arrives."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from synaxis_common.contracts.catalog import CatalogComplete, CatalogProvider, CatalogProviderModel
from synaxis_common.contracts.events import Cause
from synaxis_common.contracts.observation import WireKind
from synaxis_registry.core.availability import resolved
from synaxis_registry.core.changes import ProviderUpdate
from synaxis_registry.core.effective import with_said_prices
from synaxis_registry.core.judgement import NO_RESULT, Rows, serves_catalog, settle
from synaxis_registry.core.records import (
    CatalogSaid,
    PendingCatalog,
    ProviderModelRecord,
    ProviderRecord,
    Resolve,
)
from synaxis_registry.core.trust import (
    KNOWN_PROVIDERS,
    NPM_KINDS,
    RESPONSES_ONLY,
    host_of,
    is_key_present,
    key_envs,
    normal_url,
    provider_state,
    switching_variables,
)


@dataclass(frozen=True, slots=True)
class CompleteUpdate:
    """What a closing message changes."""

    updates: tuple[ProviderUpdate, ...] = ()
    """One a provider that vanished, in the order of their ids."""
    refused: str | None = None
    """Why nothing was retired although something vanished."""


def from_catalog(
    record: ProviderRecord, said: CatalogSaid, keys_present: Container[str] | None
) -> ProviderRecord:
    """`record` as models.dev has it; an operator's provider only notes what models.dev says.

    What we ship about a provider goes before models.dev, except that a host that models.dev has changed
    shows, so that the key is held back. `keys_present`: the variables that discovery has; None: not known
    now, so `key_present` stays while the variables that count are the same.
    """
    record = replace(record, catalog=said)
    if record.source == "operator":
        return record
    shipped = KNOWN_PROVIDERS.get(record.provider_id)
    kind = NPM_KINDS.get(said.npm) if said.npm is not None else "openai"
    base_url = None if said.base_url is None else normal_url(said.base_url)
    discovery_kind: WireKind = kind or "openai"
    discovery_base_url, discover = None, True
    if shipped is not None and shipped.base_url and (base_url is None or host_of(base_url) == shipped.host):
        kind, base_url = "openai", shipped.base_url
        discovery_kind, discovery_base_url = shipped.discovery_kind, shipped.discovery_base_url
        discover = shipped.discover
    after = replace(
        record,
        name=said.name,
        base_url=base_url,
        kind=None if record.provider_id in RESPONSES_ONLY else kind,
        discovery_kind=discovery_kind,
        discovery_base_url=discovery_base_url,
        api_key_envs=key_envs(said.api_key_envs),
        discover=discover,
        retired_at=None,
    )
    return with_key(record, after, keys_present)


def with_key(
    before: ProviderRecord | None, after: ProviderRecord, keys_present: Container[str] | None
) -> ProviderRecord:
    """`after` with `key_present` renewed. None: kept while the variables that count are the same."""
    if keys_present is not None:
        return replace(after, key_present=is_key_present(after, keys_present))
    kept = before is not None and switching_variables(before) == switching_variables(after)
    return replace(after, key_present=before is not None and kept and before.key_present)


def apply_provider(
    known: ProviderRecord | None,
    rows: Rows,
    message: CatalogProvider,
    now: datetime,
    resolve: Resolve,
    keys_present: Container[str] | None = None,
) -> ProviderUpdate:
    """Apply what models.dev says of one provider. `rows`: all its rows.

    A message that is older than what was applied, or says what was applied already, changes nothing. Each
    part of a large provider brings its own models; when all parts with one content hash have come, what
    none of them had has vanished from models.dev, and the content hash counts as applied. A message without
    any model makes nothing vanish. Events are told only of providers that are on: see `model_events`.
    """
    if known is not None and _is_old_news(known, message):
        return NO_RESULT
    record = known or ProviderRecord(provider_id=message.provider_id, name=message.name, source="models.dev")
    said = CatalogSaid(
        name=message.name, base_url=message.base_url, api_key_envs=message.api_key_envs, npm=message.npm
    )
    after = from_catalog(record, said, keys_present)
    changed = {
        model.provider_model_id: new
        for model in message.models
        if (new := _listed(rows.get(model.provider_model_id), model, message, resolve)) is not None
    }
    pending = _with_part(after.pending_catalog, message)
    if len(pending.seen) < message.parts:
        after = replace(after, pending_catalog=pending)
    else:
        seen = {key for part in pending.seen.values() for key in part}
        if seen:
            changed |= {
                key: _vanished(after, row, now)
                for key, row in rows.items()
                if row.in_catalog and key not in seen
            }
        after = replace(
            after,
            pending_catalog=None,
            content_hash=message.content_hash,
            catalog_observed_at=pending.observed_at,
        )
    return settle(known, after, rows, changed, now, Cause(kind="sync", id=str(message.run_id)))


def _is_old_news(known: ProviderRecord, message: CatalogProvider) -> bool:
    if known.content_hash == message.content_hash and known.catalog is not None:
        return True
    return any(message.observed_at < moment for moment in _heard_at(known))


def _heard_at(record: ProviderRecord) -> list[datetime]:
    """When models.dev said what has been applied of this provider, in whole or in part."""
    pending = None if record.pending_catalog is None else record.pending_catalog.observed_at
    return [moment for moment in (record.catalog_observed_at, pending) if moment is not None]


def _with_part(pending: PendingCatalog | None, message: CatalogProvider) -> PendingCatalog:
    if pending is None or (pending.content_hash, pending.parts) != (message.content_hash, message.parts):
        pending = PendingCatalog(
            run_id=message.run_id,
            observed_at=message.observed_at,
            content_hash=message.content_hash,
            parts=message.parts,
        )
    ids = tuple(model.provider_model_id for model in message.models)
    return pending.model_copy(
        update={
            "observed_at": max(pending.observed_at, message.observed_at),
            "seen": {**pending.seen, message.part: ids},
        }
    )


def _listed(
    row: ProviderModelRecord | None, model: CatalogProviderModel, message: CatalogProvider, resolve: Resolve
) -> ProviderModelRecord | None:
    """The row of a model that models.dev lists; None: it stays as it is."""
    if row is None:
        new = ProviderModelRecord(
            provider_id=message.provider_id,
            provider_model_id=model.provider_model_id,
            global_model_id="",
            resolved_by="",
            resolution_confidence=0.0,
            first_seen_at=message.observed_at,
            last_seen_at=message.observed_at,
            in_catalog=True,
            catalog_facts=model.facts,
            catalog_prices=model.prices,
            catalog_base_url=model.base_url,
            catalog_npm=model.npm,
        )
        return with_said_prices(resolved(new, resolve))
    new = replace(
        row,
        in_catalog=True,
        catalog_facts=model.facts,
        catalog_prices=model.prices,
        catalog_base_url=model.base_url,
        catalog_npm=model.npm,
        retired_at=None,
    )
    if new.catalog_facts != row.catalog_facts and row.pinned_model_id is None:
        new = resolved(new, resolve)
    new = with_said_prices(new)
    return None if new == row else new


def _vanished(record: ProviderRecord, row: ProviderModelRecord, now: datetime) -> ProviderModelRecord:
    """A row that models.dev no longer lists: retired, unless its provider's own list may still have it."""
    is_listed = provider_state(record).is_on and not serves_catalog(record) and row.listed is not False
    return replace(row, in_catalog=False, retired_at=row.retired_at if is_listed else row.retired_at or now)


def vanished(
    providers: Mapping[str, ProviderRecord], message: CatalogComplete, applied_at: datetime | None
) -> tuple[str, ...]:
    """The ids of the providers that `message` no longer has: those whose rows `apply_complete` needs.

    `applied_at`: `observed_at` of the newest closing message applied so far; an older one says nothing.
    """
    if applied_at is not None and message.observed_at < applied_at:
        return ()
    seen = {provider.provider_id for provider in message.providers}
    return tuple(
        provider_id
        for provider_id, record in sorted(providers.items())
        if record.catalog is not None
        and provider_id not in seen
        and all(moment <= message.observed_at for moment in _heard_at(record))
    )


def apply_complete(
    providers: Mapping[str, ProviderRecord],
    rows: Mapping[str, Rows],
    message: CatalogComplete,
    now: datetime,
    applied_at: datetime | None,
) -> CompleteUpdate:
    """Retire the providers that a run no longer saw. `rows`: by provider id, of those in `vanished(...)`.

    If more than half of all vanished, that is a broken document rather than news: nothing is retired. A
    provider that an operator has put keeps going on its own list.
    """
    gone = vanished(providers, message, applied_at)
    known = sum(record.catalog is not None for record in providers.values())
    if len(gone) * 2 > known:
        return CompleteUpdate(refused=f"{len(gone)} of {known} providers vanished at once: none retired")
    cause = Cause(kind="sync", id=str(message.run_id))
    updates = []
    for provider_id in gone:
        record = providers[provider_id]
        after = replace(record, catalog=None, content_hash=None, pending_catalog=None)
        if record.source == "models.dev":
            after = replace(after, retired_at=now)
        stored = rows.get(provider_id, {})
        changed = {key: _vanished(after, row, now) for key, row in stored.items() if row.in_catalog}
        updates.append(settle(record, after, stored, changed, now, cause))
    return CompleteUpdate(updates=tuple(updates))
