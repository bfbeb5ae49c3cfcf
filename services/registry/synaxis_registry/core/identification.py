"""Decides anew what each model of a provider is, when more is known of the models there are."""

from __future__ import annotations

from datetime import datetime

from synaxis_common.contracts.events import Cause
from synaxis_registry.core.availability import resolved
from synaxis_registry.core.changes import ProviderUpdate
from synaxis_registry.core.judgement import NO_RESULT, Rows, settle
from synaxis_registry.core.records import ProviderRecord, Resolve


def reidentified(
    record: ProviderRecord, rows: Rows, resolve: Resolve, now: datetime, cause: Cause
) -> ProviderUpdate:
    """The rows whose global model is another one now. What an operator has pinned stays."""
    changed = {
        key: new
        for key, row in rows.items()
        if row.pinned_model_id is None and (new := resolved(row, resolve)) != row
    }
    return settle(record, record, rows, changed, now, cause) if changed else NO_RESULT
