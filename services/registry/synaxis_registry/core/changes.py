"""What a change of rows means to other systems: events, derived from the row before and the row after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from synaxis_common.contracts.events import Cause, EventType, ModelChange, ModelState, ProviderChange
from synaxis_registry.core.effective import effective_prices
from synaxis_registry.core.records import ProviderModelRecord, ProviderRecord

MOVED: Final = "moved"
"""Why a provider model is gone from a global model though it takes requests: it is another model now."""


@dataclass(frozen=True, slots=True)
class Event:
    """An event without its envelope: the outbox gives it an id, a sequence and a time."""

    type: EventType
    data: ModelChange | ProviderChange


@dataclass(frozen=True, slots=True)
class ProviderUpdate:
    """What one message or action changes of a provider and its models. Empty: nothing."""

    record: ProviderRecord | None = None
    """None: the provider's row is as it was."""
    upserts: tuple[ProviderModelRecord, ...] = ()
    """Only rows that are new or differ, in the order of their keys."""
    events: tuple[Event, ...] = ()
    """In the order in which they are to be published."""


def model_state(row: ProviderModelRecord) -> ModelState:
    """`row` as events tell of it."""
    return ModelState(
        is_available=row.is_available, reason=row.unavailable_reason, prices=effective_prices(row)
    )


def model_events(
    before: ProviderModelRecord | None, after: ProviderModelRecord, cause: Cause, *, is_on: bool
) -> tuple[Event, ...]:
    """The events of one row's change.

    A row that becomes another global model is gone from the one and comes to the other, so that whoever
    follows either hears of it. Discovery, retirement and repricing are told of only while the provider is on
    (`is_on`): the first sync would otherwise say thousands of things about models that nobody can use.
    Availability is always told of, since a row becomes unavailable when its provider goes off.
    """
    events: list[Event] = []
    was = None if before is None else model_state(before)
    if before is not None and before.is_available and before.global_model_id != after.global_model_id:
        gone = ModelState(is_available=False, reason=MOVED, prices=effective_prices(before))
        events.append(Event(EventType.MODEL_UNAVAILABLE, _change(before, was, gone, cause)))
        was = gone
    found: list[EventType] = []
    was_known = before is not None and before.retired_at is None
    was_available = was is not None and was.is_available
    if is_on and not was_known and after.retired_at is None:
        found.append(EventType.MODEL_DISCOVERED)
    if is_on and was_known and before is not None and effective_prices(before) != effective_prices(after):
        found.append(EventType.MODEL_REPRICED)
    if after.is_available and not was_available:
        found.append(EventType.MODEL_AVAILABLE)
    if was_available and not after.is_available:
        found.append(EventType.MODEL_UNAVAILABLE)
    if is_on and was_known and after.retired_at is not None:
        found.append(EventType.MODEL_RETIRED)
    change = _change(after, was, model_state(after), cause)
    return (*events, *(Event(type=kind, data=change) for kind in found))


def _change(
    row: ProviderModelRecord, before: ModelState | None, after: ModelState, cause: Cause
) -> ModelChange:
    return ModelChange(
        provider_id=row.provider_id,
        provider_model_id=row.provider_model_id,
        global_model_id=row.global_model_id,
        before=before,
        after=after,
        cause=cause,
    )
