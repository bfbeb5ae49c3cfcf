"""Availability events for other systems: CloudEvents 1.0 in structured JSON."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from synaxis_common.contracts.base import Identifier, Message, Moment, Text
from synaxis_common.contracts.catalog import Prices


class EventType(StrEnum):
    """What can happen."""

    MODEL_AVAILABLE = "model.available"
    MODEL_UNAVAILABLE = "model.unavailable"
    MODEL_DISCOVERED = "model.discovered"
    MODEL_RETIRED = "model.retired"
    MODEL_REPRICED = "model.repriced"
    PROVIDER_DISABLED = "provider.disabled"
    PROVIDER_RECOVERED = "provider.recovered"
    BUDGET_THRESHOLD = "tenant.budget.threshold"
    BUDGET_EXHAUSTED = "tenant.budget.exhausted"


class Cause(Message):
    """What made the change."""

    kind: Literal["poll", "sync", "operator", "feedback", "key"]
    id: Text | None = None
    """The poll, the sync run, or the request that brought it."""
    detail: Text | None = None


class ModelState(Message):
    """A provider model before or after a change."""

    is_available: bool
    reason: Text | None = None
    prices: Prices = Prices()


class ModelChange(Message):
    """The data of every `model.*` event."""

    provider_id: Identifier
    provider_model_id: Identifier
    global_model_id: Identifier
    before: ModelState | None = None
    after: ModelState
    cause: Cause


class ProviderChange(Message):
    """The data of every `provider.*` event."""

    provider_id: Identifier
    reason: Text
    cause: Cause


class BudgetChange(Message):
    """The data of every `tenant.budget.*` event."""

    tenant_id: Identifier
    global_model_id: Identifier
    spent_usd: Text
    budget_usd: Text
    threshold_percent: int


class CloudEvent(Message):
    """The envelope (CloudEvents 1.0.2, JSON event format)."""

    specversion: Literal["1.0"] = "1.0"
    id: Text
    source: Text = "synaxis/registry"
    type: EventType
    subject: Text
    time: Moment
    datacontenttype: Literal["application/json"] = "application/json"
    sequence: Text
    """The `sequence` extension: grows by the order of the changes, as a string of digits."""
    data: ModelChange | ProviderChange | BudgetChange


class Availability(Message):
    """The present state of a provider model: a value of the bucket `synaxis-availability`."""

    provider_id: Identifier
    provider_model_id: Identifier
    global_model_id: Identifier
    is_available: bool
    reason: Text | None = None
    sequence: Text
    """Of the event that made it so."""
    at: Moment
