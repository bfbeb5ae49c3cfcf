"""What operators say of providers and models, and how they take it back."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace
from datetime import datetime

from synaxis_common.contracts.admin import ModelPatch, ProviderModelPatch, ProviderPut
from synaxis_common.contracts.events import Cause
from synaxis_registry.core.availability import resolved
from synaxis_registry.core.catalog import TimeoutsSet
from synaxis_registry.core.changes import ProviderUpdate
from synaxis_registry.core.curation import pinned
from synaxis_registry.core.judgement import NO_RESULT, Rows, settle
from synaxis_registry.core.records import (
    GlobalModelRecord,
    ProviderModelRecord,
    ProviderRecord,
    Resolve,
)
from synaxis_registry.core.trust import KNOWN_PROVIDERS, host_of, normal_url, provider_state
from synaxis_registry.core.update import from_catalog, with_key

_BY_OPERATOR = Cause(kind="operator")


def put_provider(
    known: ProviderRecord | None,
    provider_id: str,
    body: ProviderPut,
    rows: Rows,
    now: datetime,
    *,
    allow_private: bool,
    keys_present: Container[str] | None = None,
) -> ProviderUpdate:
    """Add a provider, or make a known one the operator's: that confirms its host, and it is polled now.

    `allow_private`: whether private addresses may be used at all here. Checking that the URL and the key's
    variable are allowed is the caller's. `keys_present`: see `update.with_key`.
    """
    record = known or ProviderRecord(provider_id=provider_id, name=provider_id, source="operator")
    base_url = normal_url(body.base_url)
    shipped = KNOWN_PROVIDERS.get(provider_id)
    at_home = shipped is not None and shipped.base_url is not None and host_of(base_url) == shipped.host
    after = replace(
        record,
        source="operator",
        name=body.name or record.name,
        base_url=base_url,
        kind=body.kind,
        discovery_kind=shipped.discovery_kind if at_home and shipped is not None else body.kind,
        discovery_base_url=shipped.discovery_base_url if at_home and shipped is not None else None,
        api_key_envs=() if body.api_key_env is None else (body.api_key_env,),
        enabled=body.enabled,
        tier=body.tier,
        rate_limit_rpm=body.rate_limit_rpm,
        rate_limit_tpm=body.rate_limit_tpm,
        discover=body.discover,
        headers=dict(body.headers),
        allow_private=allow_private,
        timeouts=TimeoutsSet(**body.timeouts.model_dump()),
        retired_at=None,
    )
    after = with_key(known, after, keys_present)
    if provider_state(after).is_on and after.discover:
        after = replace(after, next_poll_at=now)
    return settle(known, after, rows, {}, now, _BY_OPERATOR)


def drop_provider(
    known: ProviderRecord, rows: Rows, now: datetime, keys_present: Container[str] | None = None
) -> ProviderUpdate:
    """Take back what an operator said of a provider: it is as models.dev has it again.

    One that models.dev does not know is retired with its models. Nothing changes for a provider of which no
    operator has said anything.
    """
    if known.source == "models.dev":
        return NO_RESULT
    after = replace(
        known,
        source="models.dev",
        enabled=None,
        tier=0,
        rate_limit_rpm=None,
        rate_limit_tpm=None,
        headers={},
        allow_private=False,
        timeouts=TimeoutsSet(),
        pinned_host=None,  # the operator's; models.dev's is pinned anew at its next use
        host_confirmed=True,
    )
    if known.catalog is not None:
        return settle(known, from_catalog(after, known.catalog, keys_present), rows, {}, now, _BY_OPERATOR)
    after = replace(after, source="operator", enabled=False, retired_at=now)
    changed = {key: replace(row, retired_at=now) for key, row in rows.items() if row.retired_at is None}
    return settle(known, after, rows, changed, now, _BY_OPERATOR)


def patch_model(
    record: ProviderRecord,
    row: ProviderModelRecord,
    patch: ProviderModelPatch,
    now: datetime,
    resolve: Resolve,
) -> ProviderUpdate:
    """Apply an operator's word on a provider model; a field set to null takes the word back.

    Naming the prices that are held confirms them: they are in force from then on, also when the override is
    taken back later. Whether a pin's global model exists is the caller's to check.
    """
    said = patch.model_fields_set
    after = row
    for field, column in (
        ("input_price", "override_input_price"),
        ("output_price", "override_output_price"),
        ("context_window", "override_context_window"),
        ("max_output", "override_max_output"),
        ("rate_limit_rpm", "rate_limit_rpm"),
        ("rate_limit_tpm", "rate_limit_tpm"),
    ):
        if field in said:
            after = replace(after, **{column: getattr(patch, field)})
    if "enabled" in said:
        after = replace(after, enabled=patch.enabled is not False)
    if "global_model_id" in said:
        after = _pinned(after, patch.global_model_id, resolve)
    held = after.held_prices
    if held is not None and (held.input, held.output) == (
        after.override_input_price,
        after.override_output_price,
    ):
        after = replace(after, prices=held, held_prices=None)
    key = row.provider_model_id
    return settle(record, record, {key: row}, {key: after}, now, _BY_OPERATOR)


def _pinned(row: ProviderModelRecord, model_id: str | None, resolve: Resolve) -> ProviderModelRecord:
    if model_id is None:
        return resolved(replace(row, pinned_model_id=None), resolve)
    return pinned(row, model_id)


def patch_global(known: GlobalModelRecord, patch: ModelPatch) -> GlobalModelRecord:
    """Apply an operator's word on a global model; a field set to null takes the word back."""
    said = patch.model_fields_set
    after = known
    if "name" in said:
        after = replace(after, operator_name=patch.name)
    if "aliases" in said:
        after = replace(after, operator_aliases=None if patch.aliases is None else frozenset(patch.aliases))
    if "status" in said:
        after = replace(after, operator_status=patch.status)
    return after
