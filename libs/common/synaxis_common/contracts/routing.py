"""A gateway asks who can serve a request; the registry answers with a plan or says why not."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from synaxis_common.contracts.base import Identifier, Message, Text
from synaxis_common.contracts.catalog import Prices, Tokens
from synaxis_common.contracts.leases import Count, LeaseAsk, Permit
from synaxis_common.contracts.performance import Performance
from synaxis_common.money import Usd

Operation = Literal["chat", "completions", "embeddings", "responses", "messages"]
Sort = Literal["price", "latency", "throughput"]


class Needs(Message):
    """What a request needs of whoever serves it."""

    operation: Operation = "chat"
    tools: bool = False
    vision: bool = False
    audio: bool = False
    pdf: bool = False
    structured_output: bool = False
    stream: bool = False
    input_tokens: Tokens = 0
    """Estimated, and never less than a quarter of the bytes of its text."""
    max_output_tokens: Tokens | None = None
    """Of one answer."""
    n: Annotated[int, Field(ge=1, lt=2**31)] = 1
    """Answers to each prompt that are made and billed: the choices, or `best_of` if that is more."""
    prompts: Annotated[int, Field(ge=1, lt=2**31)] = 1
    """Texts that are answered each by itself, in a context window of its own: a list of them to complete or
    to embed."""
    images: Count = 0
    audio_parts: Count = 0
    files: Count = 0
    parameters: frozenset[str] = frozenset()
    """Names of the optional request fields that were set, for `require_parameters`."""


class MaxPrice(Message):
    """The most a request may cost, in USD per million tokens (OpenRouter's names)."""

    prompt: Usd | None = None
    completion: Usd | None = None


class Preferences(Message):
    """The client's wishes, under the names that OpenRouter gave them."""

    models: tuple[Identifier, ...] = ()
    """Fallback models, tried in this order after the one asked for."""
    order: tuple[Identifier, ...] = ()
    only: tuple[Identifier, ...] = ()
    ignore: tuple[Identifier, ...] = ()
    sort: Sort | None = None
    allow_fallbacks: bool = True
    max_price: MaxPrice | None = None
    quantizations: tuple[Text, ...] = ()
    require_parameters: bool = False


class RouteRequest(Message):
    """One request's question: who serves this, in which order?"""

    request_id: UUID
    key_hash: Text
    model: Text
    needs: Needs = Needs()
    preferences: Preferences = Preferences()
    deadline_s: Annotated[float, Field(gt=0)] = 5.0
    """How long the asker waits; the registry drops a question that has grown older."""
    sent_at: float = 0.0
    """Unix time at which it was sent."""
    lease: LeaseAsk | None = None
    """What to book if the tenant has limits. None: one permit, under the request's own id."""


class Timeouts(Message):
    """Bounds for one attempt, in seconds."""

    connect_s: float = 3.0
    first_token_s: float = 60.0
    between_tokens_s: float = 60.0
    total_s: float = 600.0


class Candidate(Message):
    """Somebody who can serve the request."""

    provider_id: Identifier
    provider_model_id: Identifier
    global_model_id: Identifier
    base_url: Text
    kind: Literal["openai", "anthropic"]
    api_key_envs: tuple[Identifier, ...] = ()
    """Variables of which one holds the key, the first one that is set counting; empty: no key."""
    headers: dict[str, str] = {}
    allow_private: bool = False
    prices: Prices = Prices()
    context_window: Tokens | None = None
    max_output: Tokens | None = None
    expected_cost_usd: Usd | None = None
    """Of this request; None where a price is unknown."""
    timeouts: Timeouts = Timeouts()
    begins_within_s: float | None = None
    """In 95 of 100 requests it has begun to answer by then, or answered without a stream; None: unknown."""
    is_rate_limited: bool = False
    """An attempt needs a permit of the limits that all tenants share there: `synaxis.lease.v1.provider`."""


class RateLimitView(Message):
    """True numbers for the `x-ratelimit-*` headers; None where there is no such limit."""

    limit_requests: int | None = None
    remaining_requests: int | None = None
    reset_requests_s: float | None = None
    limit_tokens: int | None = None
    remaining_tokens: int | None = None
    reset_tokens_s: float | None = None
    """Until the whole limit is free again if nothing else is admitted."""


class ExclusionReason(StrEnum):
    """Why a candidate is not in a plan."""

    PROVIDER_OFF = "provider_off"
    DISABLED = "disabled"
    UNAVAILABLE = "unavailable"
    RETIRED = "retired"
    KIND_UNSUPPORTED = "kind_unsupported"
    CIRCUIT_OPEN = "circuit_open"
    PROVIDER_RATE_LIMITED = "provider_rate_limited"
    CAPABILITY_MISSING = "capability_missing"
    CONTEXT_TOO_SMALL = "context_too_small"
    OVER_MAX_PRICE = "over_max_price"
    PRICE_UNKNOWN = "price_unknown"
    NOT_IN_ONLY = "not_in_only"
    IGNORED = "ignored"
    QUANTIZATION = "quantization"
    PARAMETER_UNSUPPORTED = "parameter_unsupported"
    NO_FALLBACKS = "no_fallbacks"


class Exclusion(Message):
    """A candidate that is out, and why."""

    provider_id: Identifier
    provider_model_id: Identifier
    reason: ExclusionReason
    detail: Text = ""


class RoutePlan(Message):
    """Who to try, in order."""

    kind: Literal["plan"] = "plan"
    request_id: UUID
    tenant_id: Identifier
    key_id: Identifier
    global_model_id: Identifier
    candidates: tuple[Candidate, ...]
    excluded: tuple[Exclusion, ...] = ()
    permit: Permit | None = None
    """None for a tenant without limits on this model."""
    rate_limits: RateLimitView = RateLimitView()
    """After the booking: what is left besides the permit."""
    expires_in_s: float = 2.0
    """How long the plan serves other requests that need the same, counted from when it was asked for."""
    hedge: bool = False
    """Whether the tenant wants a second candidate asked when the first is slow to begin."""


class RefusalCode(StrEnum):
    """Why there is no plan; the gateway alone knows which HTTP status that is."""

    INVALID_API_KEY = "invalid_api_key"
    MODEL_NOT_ALLOWED = "model_not_allowed"
    MODEL_NOT_FOUND = "model_not_found"
    RATE_LIMIT_EXCEEDED = "rate_limit_exceeded"
    INSUFFICIENT_QUOTA = "insufficient_quota"
    NO_PROVIDER_AVAILABLE = "no_provider_available"
    CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
    UNAVAILABLE = "unavailable"
    """The registry cannot decide now (its database is away)."""


class RouteRefusal(Message):
    """No plan, and why."""

    kind: Literal["refusal"] = "refusal"
    request_id: UUID
    code: RefusalCode
    message: Text
    nearest: tuple[Identifier, ...] = ()
    excluded: tuple[Exclusion, ...] = ()
    retry_after_s: float | None = None
    rate_limits: RateLimitView = RateLimitView()


class RouteReply(Message):
    """The answer to a RouteRequest."""

    answer: Annotated[RoutePlan | RouteRefusal, Field(discriminator="kind")]


class ModelsRequest(Message):
    """A page of the models that the holder of a key may use."""

    key_hash: Text
    model: Text | None = None
    """One model, by any of its names; None: all that are available."""
    after: Identifier | None = None
    limit: Annotated[int, Field(ge=1, le=500)] = 200


class EndpointView(Message):
    """Where a model runs, as clients see it."""

    provider_id: Identifier
    provider_model_id: Identifier
    prices: Prices
    context_window: Tokens | None = None
    max_output: Tokens | None = None
    quantization: Text | None = None
    is_available: bool
    ttft_p95_s: float | None = None
    error_rate: float | None = None
    recent: Performance | None = None
    """Of the last five minutes; None: nothing was asked of it."""
    day: Performance | None = None
    """Of the last 24 hours."""


class ModelView(Message):
    """A model, as clients see it."""

    id: Identifier
    name: Text | None = None
    vendor: Text | None = None
    created: int = 0
    """Unix time of its release, 0 where unknown."""
    context_window: Tokens | None = None
    max_output: Tokens | None = None
    capabilities: tuple[Text, ...] = ()
    input_modalities: tuple[Text, ...] = ()
    output_modalities: tuple[Text, ...] = ()
    endpoints: tuple[EndpointView, ...] = ()


class ModelsPage(Message):
    """One page of models, or why there is none."""

    models: tuple[ModelView, ...] = ()
    next_after: Identifier | None = None
    refusal: RefusalCode | None = None
    nearest: tuple[Identifier, ...] = ()
    tenant_id: Identifier | None = None
    """Whose the key is. None: nobody's."""
