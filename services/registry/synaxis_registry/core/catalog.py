"""What the registry knows, as frozen values: the world that every routing decision is made on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Literal

from synaxis_common.contracts.catalog import Capabilities, ModelFacts, Prices

ProviderKey = str
EndpointKey = tuple[str, str]
"""(provider id, provider model id)."""

ANY_MODEL = "*"
"""Stands for every model in a limit."""


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider as routing needs it."""

    provider_id: str
    name: str
    base_url: str
    kind: Literal["openai", "anthropic"]
    api_key_envs: tuple[str, ...] = ()
    """Empty: it needs no key."""
    headers: Mapping[str, str] = field(default_factory=dict)
    is_on: bool = True
    off_reason: str | None = None
    tier: int = 0
    allow_private: bool = False
    rate_limit_rpm: int | None = None
    rate_limit_tpm: int | None = None


@dataclass(frozen=True, slots=True)
class GlobalModel:
    """What a model is."""

    id: str
    name: str
    vendor: str | None = None
    facts: ModelFacts = ModelFacts()
    aliases: frozenset[str] = frozenset()
    status: Literal["active", "deprecated", "retired"] = "active"


@dataclass(frozen=True, slots=True)
class EndpointHealth:
    """How a provider model has done lately, from call reports. `samples` is how many that rests on."""

    samples: int = 0
    latency_p50_s: float | None = None
    latency_p95_s: float | None = None
    ttft_p50_s: float | None = None
    ttft_p95_s: float | None = None
    tokens_per_s: float | None = None
    error_rate: float | None = None
    open_until: datetime | None = None
    """Until when its circuit is open or it asked to be left alone; None: it takes requests."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A provider model: where a model runs."""

    provider_id: str
    provider_model_id: str
    global_model_id: str
    prices: Prices = Prices()
    """With operators' overrides applied."""
    is_flat_rate: bool = False
    """Zero prices here mean a subscription or trial, not that a request costs nothing."""
    context_window: int | None = None
    max_output: int | None = None
    capabilities: Capabilities = Capabilities()
    input_modalities: tuple[str, ...] = ()
    output_modalities: tuple[str, ...] = ()
    quantization: str | None = None
    enabled: bool = True
    is_available: bool = True
    unavailable_reason: str | None = None
    base_url: str | None = None
    """Where it differs from its provider's."""
    kind: Literal["openai", "anthropic"] | None = None
    """Where it differs from its provider's; see `Provider.kind`."""
    rate_limit_rpm: int | None = None
    rate_limit_tpm: int | None = None
    health: EndpointHealth = EndpointHealth()

    @property
    def key(self) -> EndpointKey:
        return (self.provider_id, self.provider_model_id)


@dataclass(frozen=True, slots=True)
class Limit:
    """What a tenant may use of one model, or of all (`*`). None: no such limit."""

    tenant_id: str
    global_model_id: str
    allowed_rpm: int | None = None
    allowed_tpm: int | None = None
    monthly_budget_usd: Decimal | None = None
    allowed: bool = True

    @property
    def is_bounded(self) -> bool:
        return any(
            bound is not None for bound in (self.allowed_rpm, self.allowed_tpm, self.monthly_budget_usd)
        )


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A tenant's key, known by its keyed hash."""

    key_id: str
    key_hash: str
    tenant_id: str


@dataclass(frozen=True, slots=True)
class Catalog:
    """Everything at one moment, indexed for look-up. Build it with `build`."""

    providers: Mapping[str, Provider]
    models: Mapping[str, GlobalModel]
    endpoints: Mapping[EndpointKey, Endpoint]
    endpoints_by_model: Mapping[str, tuple[Endpoint, ...]]
    keys: Mapping[str, ApiKey]
    """By key hash."""
    limits: Mapping[tuple[str, str], Limit]
    """By (tenant id, global model id or `*`)."""

    @classmethod
    def build(
        cls,
        *,
        providers: Iterable[Provider] = (),
        models: Iterable[GlobalModel] = (),
        endpoints: Iterable[Endpoint] = (),
        keys: Iterable[ApiKey] = (),
        limits: Iterable[Limit] = (),
    ) -> Catalog:
        """Index the rows. The endpoints of a model are kept in the order of their keys."""
        by_key = {endpoint.key: endpoint for endpoint in endpoints}
        by_model: dict[str, list[Endpoint]] = {}
        for key in sorted(by_key):
            by_model.setdefault(by_key[key].global_model_id, []).append(by_key[key])
        return cls(
            providers={provider.provider_id: provider for provider in providers},
            models={model.id: model for model in models},
            endpoints=by_key,
            endpoints_by_model={model_id: tuple(found) for model_id, found in by_model.items()},
            keys={key.key_hash: key for key in keys},
            limits={(limit.tenant_id, limit.global_model_id): limit for limit in limits},
        )
