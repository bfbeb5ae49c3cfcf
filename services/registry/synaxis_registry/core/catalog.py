"""What the registry knows, as frozen values: the world that every routing decision is made on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Literal, TypeVar

from synaxis_common.contracts.catalog import Capabilities, ModelFacts, Prices
from synaxis_common.contracts.performance import Performance
from synaxis_registry.core.identity import AliasIndex, KnownModel
from synaxis_registry.core.names import NameIndex

ProviderKey = str
EndpointKey = tuple[str, str]
"""(provider id, provider model id)."""

ANY_MODEL = "*"
"""Stands for every model in a limit."""

MIN_SAMPLES = 20
"""Percentiles and rates that rest on fewer requests count as unknown. Source: our choice."""


@dataclass(frozen=True, slots=True)
class TimeoutsSet:
    """What an operator has set of a provider's timeouts, in seconds. None: by what is measured."""

    connect_s: float | None = None
    first_token_s: float | None = None
    between_tokens_s: float | None = None
    total_s: float | None = None


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
    timeouts: TimeoutsSet = TimeoutsSet()
    suspended_until: datetime | None = None
    """Until when it stands behind all others, for failing most requests; None: it does not."""


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
    recent: Performance = Performance()
    """Of the last five minutes."""
    day: Performance = Performance()
    open_until: datetime | None = None
    """Until when its circuit is open or it asked to be left alone; None: it takes requests."""
    limited_until: datetime | None = None
    """Until when its rate limit is known to be spent; None: it is not."""

    @property
    def is_measured(self) -> bool:
        """Whether its percentiles and rates rest on enough requests to be believed."""
        return self.samples >= MIN_SAMPLES


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
    max_input: int | None = None
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
    allowed_concurrency: int | None = None

    @property
    def scope(self) -> str:
        """What the limit is on, as the database names it."""
        return f"t/{self.tenant_id}/{self.global_model_id}"

    @property
    def is_bounded(self) -> bool:
        return _is_bounded(self)


@dataclass(frozen=True, slots=True)
class KeyLimit:
    """What a single key may use, of all models. None: no such limit."""

    key_id: str
    allowed_rpm: int | None = None
    allowed_tpm: int | None = None
    monthly_budget_usd: Decimal | None = None
    allowed_concurrency: int | None = None

    @property
    def scope(self) -> str:
        """What the limit is on, as the database names it."""
        return f"k/{self.key_id}"

    @property
    def is_bounded(self) -> bool:
        return _is_bounded(self)


def _is_bounded(limit: Limit | KeyLimit) -> bool:
    return any(
        bound is not None
        for bound in (
            limit.allowed_rpm,
            limit.allowed_tpm,
            limit.monthly_budget_usd,
            limit.allowed_concurrency,
        )
    )


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A tenant's key, known by its keyed hash."""

    key_id: str
    key_hash: str
    tenant_id: str
    hedge: bool = False
    """Its tenant wants every request hedged."""


@dataclass(frozen=True, slots=True)
class Gone:
    """Keys of rows that are no more."""

    providers: frozenset[str] = frozenset()
    models: frozenset[str] = frozenset()
    endpoints: frozenset[EndpointKey] = frozenset()
    keys: frozenset[str] = frozenset()
    """Key hashes."""
    limits: frozenset[tuple[str, str]] = frozenset()
    key_limits: frozenset[str] = frozenset()
    """Key ids."""


NOTHING_GONE = Gone()

_K = TypeVar("_K")
_V = TypeVar("_V")


def _merge(old: Mapping[_K, _V], new: Mapping[_K, _V], gone: frozenset[_K]) -> Mapping[_K, _V]:
    if not new and not gone:
        return old
    merged = {**old, **new}
    for key in gone:
        merged.pop(key, None)
    return merged


def _by_model(endpoints: Iterable[Endpoint]) -> dict[str, tuple[Endpoint, ...]]:
    found: dict[str, list[Endpoint]] = {}
    for endpoint in sorted(endpoints, key=lambda endpoint: endpoint.key):
        found.setdefault(endpoint.global_model_id, []).append(endpoint)
    return {model_id: tuple(group) for model_id, group in found.items()}


def _by_provider_id(endpoints: Iterable[Endpoint]) -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = {}
    for endpoint in endpoints:
        found.setdefault(endpoint.provider_model_id.casefold(), set()).add(endpoint.global_model_id)
    return {name: frozenset(ids) for name, ids in found.items()}


def _spellings(models: Mapping[str, GlobalModel]) -> AliasIndex:
    return AliasIndex(
        KnownModel(model.id, vendor=model.vendor, aliases=model.aliases) for model in models.values()
    )


def _names(models: Mapping[str, GlobalModel]) -> NameIndex:
    return NameIndex.build({model.id: model.aliases for model in models.values()})


@dataclass(frozen=True, slots=True)
class Catalog:
    """Everything at one moment, indexed for look-up. Build it with `build`, renew it with `updated`."""

    providers: Mapping[str, Provider]
    models: Mapping[str, GlobalModel]
    endpoints: Mapping[EndpointKey, Endpoint]
    endpoints_by_model: Mapping[str, tuple[Endpoint, ...]]
    """The endpoints of a model in the order of their keys."""
    keys: Mapping[str, ApiKey]
    """By key hash."""
    limits: Mapping[tuple[str, str], Limit]
    """By (tenant id, global model id or `*`)."""
    key_limits: Mapping[str, KeyLimit]
    """By key id."""
    names: NameIndex
    """Finds a global model by what somebody typed."""
    models_by_provider_id: Mapping[str, frozenset[str]]
    """By a provider's own id of a model, in lower case: the global models that it stands for."""
    spellings: AliasIndex = field(compare=False)
    """Finds a global model by a name that carries a vendor, a date, a quantization or the like."""

    @classmethod
    def build(
        cls,
        *,
        providers: Iterable[Provider] = (),
        models: Iterable[GlobalModel] = (),
        endpoints: Iterable[Endpoint] = (),
        keys: Iterable[ApiKey] = (),
        limits: Iterable[Limit] = (),
        key_limits: Iterable[KeyLimit] = (),
    ) -> Catalog:
        """Index the rows."""
        by_id = {model.id: model for model in models}
        by_key = {endpoint.key: endpoint for endpoint in endpoints}
        return cls(
            providers={provider.provider_id: provider for provider in providers},
            models=by_id,
            endpoints=by_key,
            endpoints_by_model=_by_model(by_key.values()),
            keys={key.key_hash: key for key in keys},
            limits={(limit.tenant_id, limit.global_model_id): limit for limit in limits},
            key_limits={limit.key_id: limit for limit in key_limits},
            names=_names(by_id),
            spellings=_spellings(by_id),
            models_by_provider_id=_by_provider_id(by_key.values()),
        )

    def updated(
        self,
        *,
        providers: Iterable[Provider] = (),
        models: Iterable[GlobalModel] = (),
        endpoints: Iterable[Endpoint] = (),
        keys: Iterable[ApiKey] = (),
        limits: Iterable[Limit] = (),
        key_limits: Iterable[KeyLimit] = (),
        gone: Gone = NOTHING_GONE,
    ) -> Catalog:
        """This catalog with some rows new, changed or `gone`; what did not change is shared with this one."""
        changed = {endpoint.key: endpoint for endpoint in endpoints}
        touched = {endpoint.global_model_id for endpoint in changed.values()}
        touched |= {
            old.global_model_id for key in (*changed, *gone.endpoints) if (old := self.endpoints.get(key))
        }
        renamed = bool(gone.endpoints) or any(
            (old := self.endpoints.get(key)) is None or old.global_model_id != new.global_model_id
            for key, new in changed.items()
        )
        all_endpoints = _merge(self.endpoints, changed, gone.endpoints)
        by_model = self.endpoints_by_model
        if touched:
            kept = {model_id: found for model_id, found in by_model.items() if model_id not in touched}
            by_model = kept | _by_model(e for e in all_endpoints.values() if e.global_model_id in touched)
        all_models = _merge(self.models, {model.id: model for model in models}, gone.models)
        return Catalog(
            providers=_merge(self.providers, {p.provider_id: p for p in providers}, gone.providers),
            models=all_models,
            endpoints=all_endpoints,
            endpoints_by_model=by_model,
            keys=_merge(self.keys, {key.key_hash: key for key in keys}, gone.keys),
            limits=_merge(
                self.limits,
                {(limit.tenant_id, limit.global_model_id): limit for limit in limits},
                gone.limits,
            ),
            key_limits=_merge(
                self.key_limits, {limit.key_id: limit for limit in key_limits}, gone.key_limits
            ),
            names=self.names if all_models is self.models else _names(all_models),
            spellings=self.spellings if all_models is self.models else _spellings(all_models),
            models_by_provider_id=(
                _by_provider_id(all_endpoints.values()) if renamed else self.models_by_provider_id
            ),
        )

    def endpoints_of(self, model_id: str) -> tuple[Endpoint, ...]:
        """Where the model runs, in the order of the endpoints' keys; empty for an unknown one."""
        return self.endpoints_by_model.get(model_id, ())

    def is_served(self, model_id: str) -> bool:
        """Whether some endpoint of the model is available at a provider that is on."""
        return any(
            endpoint.is_available
            and endpoint.enabled
            and (provider := self.providers.get(endpoint.provider_id)) is not None
            and provider.is_on
            for endpoint in self.endpoints_of(model_id)
        )
