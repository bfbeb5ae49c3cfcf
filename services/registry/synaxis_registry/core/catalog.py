"""What the registry knows, as frozen values: the world that every routing decision is made on."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Literal, TypeVar

from synaxis_common.contracts.catalog import Capabilities, ModelFacts, Prices
from synaxis_common.contracts.performance import Performance
from synaxis_common.slices import Steps
from synaxis_registry.core.identity import AliasIndex, KnownModel
from synaxis_registry.core.names import NameIndex
from synaxis_registry.core.shards import Postings, PostingsDraft, Shards, ShardsDraft

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


@dataclass(frozen=True, slots=True)
class Changes:
    """Rows that are new or different, and keys of rows that are `gone`."""

    providers: Iterable[Provider] = ()
    models: Iterable[GlobalModel] = ()
    endpoints: Iterable[Endpoint] = ()
    keys: Iterable[ApiKey] = ()
    limits: Iterable[Limit] = ()
    key_limits: Iterable[KeyLimit] = ()
    gone: Gone = NOTHING_GONE


_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")


def _changing(
    old: Shards[_K, _V], new: Iterable[tuple[_K, _V]], gone: frozenset[_K]
) -> Steps[Shards[_K, _V]]:
    """`old` with `new` and without what is `gone`; what is the same already is left alone."""
    draft = ShardsDraft(old)
    for key, value in new:
        if key not in gone and draft.get(key) != value:
            draft[key] = value
        yield
    for key in gone:
        draft.discard(key)
        yield
    return draft.frozen()


def _called(endpoint: Endpoint) -> str:
    return endpoint.provider_model_id.casefold()


@dataclass(frozen=True, slots=True)
class Catalog:
    """Everything at one moment, indexed for look-up. An empty one is the beginning of all others.

    `changing` makes another one in time that goes by what has changed, not by how much there is, and shares
    the rest; between its steps others may read this one.
    """

    providers: Shards[str, Provider] = Shards()
    models: Shards[str, GlobalModel] = Shards()
    endpoints: Shards[EndpointKey, Endpoint] = Shards()
    endpoints_by_model: Shards[str, tuple[Endpoint, ...]] = Shards()
    """The endpoints of a model in the order of their keys."""
    keys: Shards[str, ApiKey] = Shards()
    """By key hash."""
    limits: Shards[tuple[str, str], Limit] = Shards()
    """By (tenant id, global model id or `*`)."""
    key_limits: Shards[str, KeyLimit] = Shards()
    """By key id."""
    names: NameIndex = NameIndex()
    """Finds a global model by what somebody typed."""
    endpoints_by_provider_id: Postings[str, EndpointKey] = Shards()
    """By a provider's own id of a model, in lower case."""
    spellings: AliasIndex = AliasIndex()
    """Finds a global model by a name that carries a vendor, a date, a quantization or the like."""

    def changing(self, changes: Changes) -> Steps[Catalog]:
        """This catalog with some rows new, changed or gone; what did not change is shared with this one.

        In steps, none of which takes long: of one row, or of what one name finds.
        """
        gone = changes.gone
        models = yield from _changing(self.models, ((one.id, one) for one in changes.models), gone.models)
        names, spellings = self.names, self.spellings
        if models is not self.models:
            before: dict[str, frozenset[str]] = {}
            after: dict[str, frozenset[str]] = {}
            for model_id in models.differing(self.models):
                if (old := self.models.get(model_id)) is not None:
                    before[model_id] = old.aliases
                if (new := models.get(model_id)) is not None:
                    after[model_id] = new.aliases
                yield
            names = yield from names.changing(before, after)
            spellings = yield from spellings.changing(
                (KnownModel(one, vendor=models[one].vendor, aliases=models[one].aliases) for one in after),
                before.keys() - after.keys(),
            )
        endpoints = yield from _changing(
            self.endpoints, ((one.key, one) for one in changes.endpoints), gone.endpoints
        )
        by_model, by_provider_id = self.endpoints_by_model, self.endpoints_by_provider_id
        if endpoints is not self.endpoints:
            differing: list[EndpointKey] = []
            for key in endpoints.differing(self.endpoints):
                differing.append(key)
                yield
            by_model = yield from self._by_model(endpoints, differing)
            by_provider_id = yield from self._by_provider_id(endpoints, differing)
        return Catalog(
            providers=(
                yield from _changing(
                    self.providers, ((one.provider_id, one) for one in changes.providers), gone.providers
                )
            ),
            models=models,
            endpoints=endpoints,
            endpoints_by_model=by_model,
            keys=(yield from _changing(self.keys, ((one.key_hash, one) for one in changes.keys), gone.keys)),
            limits=(
                yield from _changing(
                    self.limits,
                    (((one.tenant_id, one.global_model_id), one) for one in changes.limits),
                    gone.limits,
                )
            ),
            key_limits=(
                yield from _changing(
                    self.key_limits, ((one.key_id, one) for one in changes.key_limits), gone.key_limits
                )
            ),
            names=names,
            endpoints_by_provider_id=by_provider_id,
            spellings=spellings,
        )

    def _by_model(
        self, endpoints: Shards[EndpointKey, Endpoint], differing: Iterable[EndpointKey]
    ) -> Steps[Shards[str, tuple[Endpoint, ...]]]:
        groups: dict[str, dict[EndpointKey, Endpoint]] = {}

        def group(model_id: str) -> dict[EndpointKey, Endpoint]:
            if model_id not in groups:
                groups[model_id] = {one.key: one for one in self.endpoints_of(model_id)}
            return groups[model_id]

        for key in differing:
            old, new = self.endpoints.get(key), endpoints.get(key)
            if old is not None:
                group(old.global_model_id).pop(key, None)
            if new is not None:
                group(new.global_model_id)[key] = new
            yield
        draft = ShardsDraft(self.endpoints_by_model)
        for model_id, found in groups.items():
            if found:
                draft[model_id] = tuple(found[key] for key in sorted(found))
            else:
                draft.discard(model_id)
            yield
        return draft.frozen()

    def _by_provider_id(
        self, endpoints: Shards[EndpointKey, Endpoint], differing: Iterable[EndpointKey]
    ) -> Steps[Postings[str, EndpointKey]]:
        draft = PostingsDraft(self.endpoints_by_provider_id)
        for key in differing:
            old, new = self.endpoints.get(key), endpoints.get(key)
            if old is None and new is not None:
                draft.add(_called(new), key)
            elif old is not None and new is None:
                draft.discard(_called(old), key)
            yield
        return (yield from draft.freezing())

    def models_called(self, provider_model_id: str) -> frozenset[str]:
        """The global models that some provider calls so, in any case."""
        keys = self.endpoints_by_provider_id.get(provider_model_id.casefold(), frozenset[EndpointKey]())
        return frozenset(self.endpoints[key].global_model_id for key in keys)

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
