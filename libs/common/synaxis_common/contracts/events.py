"""Availability events for other systems: CloudEvents 1.0 in structured JSON."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Literal

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

    kind: Literal["poll", "sync", "operator", "feedback", "key", "usage"]
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


class ProviderState(Message):
    """A provider before or after a change."""

    is_on: bool
    reason: Text | None = None
    """Why it is off."""


class FailureCount(Message):
    """What came of live requests to a provider."""

    requests: int
    failures: int
    window_s: int
    """Over how long at most they were counted."""


class ProviderChange(Message):
    """The data of every `provider.*` event.

    A provider that is off takes no requests, unless the cause is `feedback`: then it stands behind all the
    others, and is asked where nobody else is left.
    """

    provider_id: Identifier
    reason: Text
    before: ProviderState | None = None
    after: ProviderState | None = None
    failures: FailureCount | None = None
    """What the feedback rule has seen; None with other causes."""
    cause: Cause


class BudgetState(Message):
    """What is spent of a budget before or after a change."""

    spent_usd: Text
    threshold_percent: int
    """The highest threshold that has been told of; 0: none."""


class BudgetChange(Message):
    """The data of every `tenant.budget.*` event."""

    tenant_id: Identifier
    global_model_id: Identifier
    """`*` for the budget of all models, and for that of a key."""
    key_id: Identifier | None = None
    """The key whose own budget it is; None: a tenant's."""
    spent_usd: Text
    budget_usd: Text
    threshold_percent: int
    before: BudgetState | None = None
    after: BudgetState | None = None
    cause: Cause = Cause(kind="usage")


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
    """The present state of a provider model: a value of the bucket `synaxis-availability`.

    The bucket and the stream `SYNAXIS_EVENTS` together miss nothing and repeat nothing, read in this order:

    1. the key `_cursor` (`AvailabilityCursor`): all events up to its `stream_sequence` are in the values.
       When it is missing, the bucket is being filled: wait and look again;
    2. all the values, in any order; they may be newer than the cursor;
    3. the events of the stream from `stream_sequence + 1` of the cursor on; of those about a provider model
       skip the ones whose place in the stream is not after the `stream_sequence` of its value.

    Read `_cursor` once more after the values: when its `stream_created` has changed, begin again. A provider
    model that has no key is not available.
    """

    provider_id: Identifier
    provider_model_id: Identifier
    global_model_id: Identifier
    is_available: bool
    reason: Text | None = None
    prices: Prices = Prices()
    sequence: Text
    """Of the event that made it so; all zeros when the bucket was filled from the database."""
    stream_sequence: int = 0
    """The place in the stream of the last event that this state includes."""
    at: Moment


CURSOR_KEY: Final = "_cursor"
"""The one key of the bucket `synaxis-availability` that is no provider model; theirs have a dot."""


class AvailabilityCursor(Message):
    """How far the bucket `synaxis-availability` is complete: the value of its key `_cursor`."""

    stream_sequence: int
    """The effects of all events up to this place in the stream are in the values."""
    stream_created: Moment
    """Since when the stream has been there. One that was lost and made anew counts from 1 again."""
    at: Moment
