"""Rows of the outbox become CloudEvents 1.0, as the official package judges, on subjects of their own."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent as OfficialCloudEvent
from pydantic import BaseModel

from synaxis_common.contracts.events import (
    BudgetChange,
    Cause,
    CloudEvent,
    EventType,
    ModelChange,
    ModelState,
    ProviderChange,
)
from synaxis_registry.availability_bucket import Published, after_events
from synaxis_registry.outbox import cloud_event, event_subject

AT = datetime(2026, 7, 1, 12, tzinfo=UTC)
POLL = Cause(kind="poll", id="poll-1")


def model_change(available: bool = True) -> ModelChange:
    return ModelChange(
        provider_id="nvidia",
        provider_model_id="google/gemma-3.1",
        global_model_id="gemma-3.1",
        before=ModelState(is_available=not available),
        after=ModelState(is_available=available),
        cause=POLL,
    )


def data_of(kind: EventType) -> BaseModel:
    match kind.partition(".")[0]:
        case "model":
            return model_change(kind is not EventType.MODEL_UNAVAILABLE)
        case "provider":
            return ProviderChange(provider_id="nvidia", reason="key_missing", cause=POLL)
        case _:
            return BudgetChange(
                tenant_id="acme.org",
                global_model_id="*",
                spent_usd="8",
                budget_usd="10",
                threshold_percent=80,
            )


def row(kind: EventType, number: int = 7, data: BaseModel | None = None) -> dict[str, Any]:
    return {
        "id": number,
        "event_id": UUID(int=number),
        "at": AT + timedelta(seconds=number),
        "type": kind.value,
        "data": (data or data_of(kind)).model_dump_json(),
    }


@pytest.mark.parametrize("kind", EventType)
def test_an_event_is_a_cloud_event_to_the_official_package(kind: EventType) -> None:
    event = cloud_event(row(kind))
    official = JSONFormat().read(OfficialCloudEvent, event.to_bytes())
    assert official.get_specversion() == "1.0"
    assert official.get_type() == kind.value
    assert official.get_id() == str(UUID(int=7))
    assert official.get_source() == "synaxis/registry"
    assert official.get_time() == AT + timedelta(seconds=7)
    assert official.get_datacontenttype() == "application/json"
    assert official.get_extension("sequence") == "00000000000000000007"
    assert official.get_data() == json.loads(event.data.model_dump_json())


@pytest.mark.parametrize("kind", [kind for kind in EventType if not kind.startswith("tenant")])
def test_an_event_tells_of_before_and_after_and_why(kind: EventType) -> None:
    data = cloud_event(row(kind)).data
    assert not isinstance(data, BudgetChange)
    assert data.before is not None
    assert data.after is not None
    assert data.cause == POLL


def test_a_provider_that_is_disabled_was_on_and_is_off() -> None:
    off, on = (
        cloud_event(row(kind)).data for kind in (EventType.PROVIDER_DISABLED, EventType.PROVIDER_RECOVERED)
    )
    assert isinstance(off, ProviderChange)
    assert isinstance(on, ProviderChange)
    assert off.before is not None
    assert off.after is not None
    assert on.after is not None
    assert (off.before.is_on, off.after.is_on, off.after.reason) == (True, False, "key_missing")
    assert (on.after.is_on, on.after.reason) == (True, None)


@pytest.mark.parametrize(
    ("kind", "subject"),
    [
        (EventType.MODEL_REPRICED, "model.repriced.nvidia.gemma-3=2E1"),
        (EventType.PROVIDER_RECOVERED, "provider.recovered.nvidia"),
        (EventType.BUDGET_EXHAUSTED, "tenant.budget.exhausted.acme=2Eorg"),
    ],
)
def test_subjects_can_be_chosen_by_event_provider_and_model(kind: EventType, subject: str) -> None:
    assert event_subject(cloud_event(row(kind))) == f"synaxis.events.v1.{subject}"


def test_the_sequence_grows_as_text_as_it_does_as_a_number() -> None:
    sequences = [cloud_event(row(EventType.MODEL_AVAILABLE, number)).sequence for number in (9, 10, 99, 100)]
    assert sequences == sorted(sequences)


def test_of_several_events_of_a_provider_model_the_bucket_takes_the_last_in_the_stream() -> None:
    def published(number: int, available: bool) -> Published:
        kind = EventType.MODEL_AVAILABLE if available else EventType.MODEL_UNAVAILABLE
        return Published(cloud_event(row(kind, number, model_change(available))), number * 10)

    other = Published(cloud_event(row(EventType.PROVIDER_DISABLED, 3)), 30)
    (value,) = after_events([published(2, False), other, published(1, True)])
    assert value.subject == "$KV.synaxis-availability.nvidia.google/gemma-3=2E1"
    said = json.loads(value.payload)
    assert (said["is_available"], said["stream_sequence"]) == (False, 20)
    assert said["sequence"] == f"{2:020d}"


def test_an_event_of_an_older_registry_is_understood() -> None:
    event = cloud_event(row(EventType.PROVIDER_DISABLED)).model_dump(mode="json")
    for name in ("before", "after"):
        del event["data"][name]
    assert isinstance(CloudEvent.model_validate(event).data, ProviderChange)
