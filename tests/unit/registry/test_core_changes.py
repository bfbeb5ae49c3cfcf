"""What other systems hear when a provider model becomes another global model."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from synaxis_common.contracts.catalog import Prices
from synaxis_common.contracts.events import Cause, EventType, ModelChange
from synaxis_registry.core.changes import MOVED, Event, model_events
from synaxis_registry.core.records import ProviderModelRecord, UnavailableReason

AT = datetime(2026, 11, 23, tzinfo=UTC)
BY_OPERATOR = Cause(kind="operator")
BEFORE = ProviderModelRecord(
    "p",
    "vendor/m",
    "old",
    "rule",
    1.0,
    AT,
    AT,
    prices=Prices(input=Decimal(1)),
    is_available=True,
    unavailable_reason=None,
)
MOVED_ROW = replace(BEFORE, global_model_id="new")


def told(before: ProviderModelRecord, after: ProviderModelRecord) -> list[tuple[EventType, str]]:
    return [(event.type, data_of(event).global_model_id) for event in events(before, after)]


def events(before: ProviderModelRecord, after: ProviderModelRecord) -> tuple[Event, ...]:
    return model_events(before, after, BY_OPERATOR, is_on=True)


def data_of(event: Event) -> ModelChange:
    assert isinstance(event.data, ModelChange)
    return event.data


def test_it_goes_from_the_one_and_comes_to_the_other() -> None:
    assert told(BEFORE, MOVED_ROW) == [
        (EventType.MODEL_UNAVAILABLE, "old"),
        (EventType.MODEL_AVAILABLE, "new"),
    ]
    gone, come = map(data_of, events(BEFORE, MOVED_ROW))
    assert gone.before is not None
    assert (gone.before.is_available, gone.after.is_available, gone.after.reason) == (True, False, MOVED)
    assert come.before == gone.after
    assert come.after.is_available
    assert gone.cause == come.cause == BY_OPERATOR


def test_one_that_is_unavailable_from_then_on_only_goes() -> None:
    after = replace(MOVED_ROW, is_available=False, unavailable_reason=UnavailableReason.DISABLED)
    assert told(BEFORE, after) == [(EventType.MODEL_UNAVAILABLE, "old")]


def test_one_that_becomes_available_with_it_only_comes() -> None:
    before = replace(BEFORE, is_available=False, unavailable_reason=UnavailableReason.NOT_LISTED)
    assert told(before, MOVED_ROW) == [(EventType.MODEL_AVAILABLE, "new")]


def test_a_new_price_at_the_same_time_is_told_of_at_the_new_place() -> None:
    after = replace(MOVED_ROW, prices=Prices(input=Decimal(2)))
    assert told(BEFORE, after) == [
        (EventType.MODEL_UNAVAILABLE, "old"),
        (EventType.MODEL_REPRICED, "new"),
        (EventType.MODEL_AVAILABLE, "new"),
    ]


@pytest.mark.parametrize("available", [True, False])
def test_what_stays_where_it_is_says_nothing(available: bool) -> None:
    row = replace(BEFORE, is_available=available)
    assert told(row, replace(row, resolution_confidence=0.5)) == []
