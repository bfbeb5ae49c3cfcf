"""Operators decide which models are one and which are two. Their pins survive every sync."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace
from datetime import datetime

from synaxis_common.contracts.events import Cause
from synaxis_registry.core.changes import ProviderUpdate
from synaxis_registry.core.judgement import NO_RESULT, Rows, settle
from synaxis_registry.core.records import PIN_RULE, GlobalModelRecord, ProviderModelRecord, ProviderRecord

_BY_OPERATOR = Cause(kind="operator")


def pinned(row: ProviderModelRecord, model_id: str) -> ProviderModelRecord:
    """`row` as an operator's word has it: of this global model, whatever the rules say."""
    return replace(
        row,
        pinned_model_id=model_id,
        global_model_id=model_id,
        resolved_by=PIN_RULE,
        resolution_confidence=1.0,
    )


def pin_all(
    record: ProviderRecord,
    rows: Rows,
    of_model: str,
    to_model: str,
    now: datetime,
    only: Container[str] | None = None,
) -> ProviderUpdate:
    """Pin a provider's models that are `of_model` to `to_model`. `only`: just those of these ids."""
    changed = {
        key: pinned(row, to_model)
        for key, row in rows.items()
        if row.global_model_id == of_model and (only is None or key in only)
    }
    return settle(record, record, rows, changed, now, _BY_OPERATOR) if changed else NO_RESULT


def merge(gone: GlobalModelRecord, into: GlobalModelRecord) -> tuple[GlobalModelRecord, GlobalModelRecord]:
    """Both records when `gone` is `into`: every name of it means `into` from now on."""
    names = {gone.id, *gone.aliases, *(gone.operator_aliases or ())}
    if gone.source_id is not None:
        names.add(gone.source_id)
    kept = into.aliases if into.operator_aliases is None else into.operator_aliases
    survivor = replace(into, aliases=into.aliases | names)
    if into.operator_aliases is not None:
        survivor = replace(survivor, operator_aliases=kept | names)
    return replace(gone, merged_into=into.id), survivor


def split_off(known: GlobalModelRecord, new_id: str, name: str | None) -> GlobalModelRecord:
    """The record of a model that was taken for `known`. What is said of `known` may not hold for it."""
    return GlobalModelRecord(id=new_id, name=name or new_id, vendor=known.vendor)
