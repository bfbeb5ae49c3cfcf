"""Judges availability: from the state of a provider and its models to who takes requests, and the events.

What polls and live answers have shown is kept on the rows; `judge` reads availability off that state. So
everything that happens is a change of state followed by `settle`, which judges anew, finds the rows that
really changed, and the events of their changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Final

from synaxis_common.contracts.events import Cause, EventType, ProviderChange
from synaxis_registry.core.changes import Event, ProviderUpdate, model_events
from synaxis_registry.core.effective import effective_kind
from synaxis_registry.core.records import ProviderModelRecord, ProviderRecord, UnavailableReason
from synaxis_registry.core.trust import OffReason, host_of, provider_state, with_pin

NO_RESULT: Final = ProviderUpdate()

Rows = Mapping[str, ProviderModelRecord]
"""The rows of one provider by provider model id."""


def serves_catalog(record: ProviderRecord) -> bool:
    """Whether models.dev's list stands in for the provider's own."""
    return not record.discover or record.has_no_list


def judge(record: ProviderRecord, row: ProviderModelRecord, *, is_on: bool) -> UnavailableReason | None:
    """Why `row` takes no requests; None: it does. `is_on`: what `provider_state` says of its provider."""
    if not is_on:
        return UnavailableReason.PROVIDER_OFF
    if row.retired_at is not None:
        return UnavailableReason.RETIRED
    if not row.enabled:
        return UnavailableReason.DISABLED
    if effective_kind(row, record) is None or not _is_at_home(record, row):
        return UnavailableReason.UNSUPPORTED
    if record.down_reason is not None:
        return record.down_reason
    if serves_catalog(record):
        if row.not_found_live:
            return UnavailableReason.NOT_FOUND_LIVE
        return None if row.in_catalog else UnavailableReason.NOT_LISTED
    if record.last_good_at is None:
        return UnavailableReason.NOT_POLLED
    return None if row.listed else UnavailableReason.NOT_LISTED


def _is_at_home(record: ProviderRecord, row: ProviderModelRecord) -> bool:
    """Whether models.dev has this model at its provider's own host: the key goes nowhere else."""
    if record.source == "operator" or row.catalog_base_url is None:
        return True
    return host_of(row.catalog_base_url) == host_of(record.base_url) and row.catalog_base_url.startswith(
        "https://"
    )


def settle(
    before: ProviderRecord | None,
    after: ProviderRecord,
    rows: Rows,
    changed: Rows,
    now: datetime,
    cause: Cause,
) -> ProviderUpdate:
    """Judge all models of a provider anew. `rows`: as they are stored; `changed`: those that are to differ.

    A provider that has just been switched on, or that lives somewhere else now, starts from nothing: what
    was known of its list is forgotten, and it is polled at once.
    """
    after = with_pin(after)
    was_on = before is not None and provider_state(before).is_on
    state = provider_state(after)
    current = {**rows, **changed}
    if state.is_on and (before is None or not was_on or _where(before) != _where(after)):
        after = _started(after, now)
        current = {key: _unlisted(row) for key, row in current.items()}
    elif not state.is_on and after.next_poll_at is not None:
        after = replace(after, next_poll_at=None)
    events: list[Event] = []
    if was_on and state.off_reason is not None:
        after = replace(after, disabled_at=now)
        events.append(_provider_event(EventType.PROVIDER_DISABLED, after, state.off_reason, cause))
    elif state.is_on and after.disabled_at is not None:
        after = replace(after, disabled_at=None)
        events.append(_provider_event(EventType.PROVIDER_RECOVERED, after, None, cause))
    upserts: list[ProviderModelRecord] = []
    for key in sorted(current):
        row = _judged(after, current[key], is_on=state.is_on)
        old = rows.get(key)
        if row is not old and row != old:
            upserts.append(row)
            events += model_events(old, row, cause, is_on=state.is_on)
    return ProviderUpdate(None if after == before else after, tuple(upserts), tuple(events))


def _judged(record: ProviderRecord, row: ProviderModelRecord, *, is_on: bool) -> ProviderModelRecord:
    reason = judge(record, row, is_on=is_on)
    if row.unavailable_reason == reason and row.is_available == (reason is None):
        return row
    return replace(row, is_available=reason is None, unavailable_reason=reason)


def _where(record: ProviderRecord) -> tuple[object, ...]:
    return (record.base_url, record.kind, record.discovery_kind, record.discover)


def _started(record: ProviderRecord, now: datetime) -> ProviderRecord:
    return replace(
        record,
        last_good_at=None,
        suspect_since=None,
        failures=0,
        down_reason=None,
        has_no_list=False,
        next_poll_at=now if record.discover else None,
    )


def _unlisted(row: ProviderModelRecord) -> ProviderModelRecord:
    if row.listed is None and row.missing_since is None and row.not_found_at is None:
        return row
    return replace(row, listed=None, missing_since=None, not_found_at=None, not_found_live=False)


def _provider_event(
    kind: EventType, record: ProviderRecord, off_reason: OffReason | None, cause: Cause
) -> Event:
    reason = "on again" if off_reason is None else str(off_reason)
    if off_reason is OffReason.HOST_UNCONFIRMED:
        reason = (
            f"{off_reason}: models.dev names the host {host_of(record.base_url)}, "
            f"the key is for {record.pinned_host}"
        )
    return Event(kind, ProviderChange(provider_id=record.provider_id, reason=reason, cause=cause))
