"""What providers answer to `GET /models`, as discovery tells it to the registry."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal
from uuid import UUID

from synaxis_common.contracts.base import Identifier, Message, Moment, Text
from synaxis_common.contracts.catalog import ModelFacts, Prices

MAX_OBSERVATION_BYTES = 900_000
"""A list that does not fit into one message under the bus's 1 MiB is no list we trust."""

WireKind = Literal["openai", "anthropic", "google"]


class PollOutcome(StrEnum):
    """What a poll came to."""

    OK = "ok"
    """A list of models, which may be empty."""
    UNREACHABLE = "unreachable"
    """No connection, no answer in time, or a 5xx."""
    UNAUTHORIZED = "unauthorized"
    """401 or 403: the key, not the provider."""
    RATE_LIMITED = "rate_limited"
    """429."""
    NOT_A_MODEL_LIST = "not_a_model_list"
    """An answer that is none: HTML, another schema, a 404, a redirect, too large."""


class ObservedModel(Message):
    """One entry of a provider's list, with what the richer lists say beside the id."""

    provider_model_id: Identifier
    facts: ModelFacts = ModelFacts()
    prices: Prices | None = None
    quantization: Text | None = None


class ProviderObservation(Message):
    """One poll of one provider."""

    poll_id: UUID
    provider_id: Identifier
    observed_at: Moment
    """When the poll was started."""
    outcome: PollOutcome
    http_status: int | None = None
    latency_s: float | None = None
    error: Text | None = None
    models: tuple[ObservedModel, ...] = ()
    skipped_entries: int = 0
    """Entries of the list that could not be read."""


class DiscoveryTarget(Message):
    """A provider as discovery needs to know it."""

    provider_id: Identifier
    base_url: Text
    kind: WireKind
    api_key_envs: tuple[Identifier, ...]
    """Any of these variables may hold the key; empty: no key is needed."""
    headers: dict[str, str] = {}
    poll: bool
    """Whether to poll it, if its key is there. False: served from the catalog's list."""
    allow_private: bool = False
    """Whether this provider may live at a private or loopback address (an operator said so)."""


class TargetsRequest(Message):
    """Discovery asks whom to poll, and says which of the variables it was told of are set.

    `keys_present` is None on the first call, when discovery does not know the names yet. Only names are
    sent, never values.
    """

    worker_id: Text
    keys_present: tuple[Identifier, ...] | None = None
    after: Identifier | None = None
    """Page: providers whose id is greater than this one."""


class TargetsReply(Message):
    """One page of the providers, in order of their id."""

    targets: tuple[DiscoveryTarget, ...]
    key_variables: tuple[Identifier, ...]
    """Every variable name that may switch a provider on; the whole list on the first page."""
    next_after: Identifier | None = None


class PollRequested(Message):
    """The registry asks for one provider to be polled now (to confirm, to recover, or because it is new)."""

    target: DiscoveryTarget
    reason: Text
