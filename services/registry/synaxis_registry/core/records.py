"""The rows that the registry keeps, as frozen values, and what routing sees of them.

What models.dev says, what a provider's own list says and what an operator says are kept apart, so that each
can be renewed or taken back without losing the others. The `effective_*` functions put them together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Literal
from uuid import UUID

from synaxis_common.contracts.base import Identifier, Message, Moment, Text
from synaxis_common.contracts.catalog import ModelFacts, Prices
from synaxis_common.contracts.observation import PollOutcome, WireKind
from synaxis_registry.core.catalog import TimeoutsSet

Source = Literal["models.dev", "operator"]
Kind = Literal["openai", "anthropic"]

PIN_RULE = "pin"
"""`resolved_by` of a row whose global model an operator has decided."""


class UnavailableReason(StrEnum):
    """Why a provider model takes no requests."""

    PROVIDER_OFF = "provider_off"
    """Nobody gave its provider a key, or it is off for the reason that `trust.provider_state` gives."""
    NOT_POLLED = "not_polled"
    """Its provider is on, and has not yet shown a list."""
    NOT_LISTED = "not_listed"
    """Its provider's list does not have it."""
    UNREACHABLE = "unreachable"
    UNAUTHORIZED = "unauthorized"
    NOT_A_MODEL_LIST = "not_a_model_list"
    """Its provider gave lists before, and answers something else now."""
    RETIRED = "retired"
    """Gone from models.dev and from its provider."""
    DISABLED = "disabled"
    """An operator said so."""
    NOT_FOUND_LIVE = "not_found_live"
    """The provider answered 404 to requests for it."""
    UNSUPPORTED = "unsupported"
    """models.dev names a protocol that we don't speak, or a host that is not its provider's."""


class CatalogSaid(Message):
    """What models.dev last said of a provider, kept beside what an operator made of it."""

    name: Text
    base_url: Text | None = None
    api_key_envs: tuple[Identifier, ...] = ()
    npm: Text | None = None


class PendingCatalog(Message):
    """The parts of a catalog message that have come so far, until all have."""

    run_id: UUID
    observed_at: Moment
    content_hash: Text
    parts: int
    seen: dict[int, tuple[Identifier, ...]] = {}
    """By part: the provider model ids in it."""


@dataclass(frozen=True, slots=True)
class Suspension:
    """A provider that has failed too many live requests; see `core/feedback.py`."""

    since: datetime
    until: datetime
    """It stands behind all others until then, and is on probation afterwards."""
    requests: int
    failures: int
    """What it was suspended for."""


@dataclass(frozen=True, slots=True)
class ProviderRecord:
    """A row of `provider`."""

    provider_id: str
    name: str
    source: Source
    """Whose word `base_url`, `kind` and `api_key_envs` are."""
    base_url: str | None = None
    kind: Kind | None = None
    """None: models.dev names a protocol that we don't speak."""
    discovery_kind: WireKind = "openai"
    """How its model list is asked for and read."""
    discovery_base_url: str | None = None
    """Where its list is, when that is not under `base_url`."""
    api_key_envs: tuple[str, ...] = ()
    """Any of these variables may hold the key; empty with source `operator`: no key is needed."""
    enabled: bool | None = None
    """The operator's word; None: on when its key is there."""
    key_present: bool = False
    """Discovery has one of `trust.switching_variables` in its environment."""
    pinned_host: str | None = None
    """The host that its key may go to: of the list we ship, or as first used, or as an operator said."""
    host_confirmed: bool = True
    """False: `base_url` has left the pinned host, and the key stays here until an operator says otherwise."""
    tier: int = 0
    rate_limit_rpm: int | None = None
    rate_limit_tpm: int | None = None
    discover: bool = True
    """Whether its list is polled; if not, it serves what models.dev lists, and live traffic is evidence."""
    headers: Mapping[str, str] = field(default_factory=dict)
    allow_private: bool = False
    """Whether an operator has put it at a private or loopback address."""
    timeouts: TimeoutsSet = TimeoutsSet()

    catalog: CatalogSaid | None = None
    """None: models.dev does not know it (any more)."""
    content_hash: str | None = None
    """Of the last catalog message that was applied completely; the checkpoint that sync is told."""
    catalog_observed_at: datetime | None = None
    """When models.dev said what was last applied; older messages change nothing."""
    pending_catalog: PendingCatalog | None = None
    retired_at: datetime | None = None
    """Since when it has vanished from models.dev without an operator keeping it."""
    disabled_at: datetime | None = None
    """Since when `provider.disabled` has been said and `provider.recovered` has not."""

    suspension: Suspension | None = None
    suspended_at: datetime | None = None
    """When the last suspension began, over or not."""
    proven_at: datetime | None = None
    """When the last one ended: what came before is not held against it again."""

    last_poll_at: datetime | None = None
    """When the last applied poll began (its `observed_at`); older ones change nothing."""
    last_poll_outcome: PollOutcome | None = None
    last_poll_error: str | None = None
    last_poll_latency_s: float | None = None
    last_good_at: datetime | None = None
    """When the last list that was believed was asked for; None since it was switched on: not yet."""
    suspect_since: datetime | None = None
    """When the first of the polls that failed in a row began; None: the last one was fine."""
    failures: int = 0
    """Polls that failed in a row."""
    down_reason: UnavailableReason | None = None
    """Why all its models are unavailable: a failure that a second poll has confirmed."""
    has_no_list: bool = False
    """It is reachable and never answered with a list: served from models.dev's, like `discover=False`."""
    next_poll_at: datetime | None = None
    """When the registry wants it polled; None: at the hourly job's next run."""


@dataclass(frozen=True, slots=True)
class ProviderModelRecord:
    """A row of `provider_model`."""

    provider_id: str
    provider_model_id: str
    global_model_id: str
    resolved_by: str
    """The resolver's rule, or `PIN_RULE`."""
    resolution_confidence: float
    first_seen_at: datetime
    last_seen_at: datetime
    """When a list last had it, kept exact only when it goes missing: see `last_seen`."""

    in_catalog: bool = False
    """models.dev lists it now."""
    catalog_facts: ModelFacts | None = None
    catalog_prices: Prices = Prices()
    catalog_base_url: str | None = None
    catalog_npm: str | None = None
    observed_facts: ModelFacts | None = None
    observed_prices: Prices | None = None
    quantization: str | None = None

    prices: Prices = Prices()
    """In force, before an operator's override."""
    held_prices: Prices | None = None
    """Said, but so different from `prices` that they wait for an operator (`operators.patch_model`)."""
    override_input_price: Decimal | None = None
    override_output_price: Decimal | None = None
    override_context_window: int | None = None
    override_max_output: int | None = None
    rate_limit_rpm: int | None = None
    rate_limit_tpm: int | None = None
    enabled: bool = True
    """The operator's word."""
    pinned_model_id: str | None = None
    """The operator's word on `global_model_id`."""

    listed: bool | None = None
    """Whether its provider's list has it, a first miss not counting; None: no list since switched on."""
    missing_since: datetime | None = None
    """When the first of the lists in a row that lack it was asked for."""
    not_found_at: datetime | None = None
    """When a provider without a list first answered 404 to a request for it; see `availability.not_found`."""
    not_found_live: bool = False
    """Such a 404 has been confirmed by a later one."""
    is_available: bool = False
    unavailable_reason: UnavailableReason | None = UnavailableReason.PROVIDER_OFF
    retired_at: datetime | None = None

    @property
    def key(self) -> tuple[str, str]:
        return (self.provider_id, self.provider_model_id)


@dataclass(frozen=True, slots=True)
class GlobalModelRecord:
    """A row of `global_model` with its aliases."""

    id: str
    name: str
    vendor: str | None = None
    source_id: str | None = None
    """Its key in models.json, where it came from there."""
    facts: ModelFacts = ModelFacts()
    aliases: frozenset[str] = frozenset()
    status: Literal["active", "deprecated", "retired"] = "active"
    merged_into: str | None = None
    """Another model's id: an operator has said that this one is the same."""
    operator_name: str | None = None
    operator_aliases: frozenset[str] | None = None
    operator_status: Literal["active", "deprecated", "retired"] | None = None
    synced_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Resolved:
    """Which global model a provider model is."""

    global_model_id: str
    rule: str
    confidence: float


Resolve = Callable[[str, str, ModelFacts], Resolved]
"""(provider id, provider model id, facts) → its global model. The caller notes what has to be created."""
