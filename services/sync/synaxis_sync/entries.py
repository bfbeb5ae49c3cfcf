"""The entries of models.dev, each validated on its own and turned into our contracts. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from synaxis_common.contracts.base import Identifier, Text
from synaxis_common.contracts.catalog import (
    Capabilities,
    CatalogModel,
    CatalogProviderModel,
    ModelFacts,
    Prices,
    PriceTier,
    Tokens,
)
from synaxis_common.money import Usd

API: Final = "api.json"
MODELS: Final = "models.json"
"""The two documents."""

REQUESTS_PER_PRICE: Final = 1_000
"""`cost.request` is for so many. models.dev lists it for Perplexity's sonar-deep-research alone, as 5.0: what
Perplexity asks for 1,000 search queries, and what the package `genai-prices` lists by the thousand too (there
`web_searches_kcount` 5, and `requests_kcount` 12 to 14 for its sisters). Nobody asks 5 USD a request. One
search is counted for each request, since the ledger knows of no searches; that model may make more."""
LONG_CONTEXT_TOKENS: Final = 200_000
"""Above this `context_over_200k` applies."""
MAX_EXPONENT: Final = 30
"""A price with more decimals than this is a mistake, and could be written out to gigabytes."""

_EXACT: Final = Context(prec=120)
"""Digits enough for any price within MAX_USD and MAX_EXPONENT, and three more."""
_NAN: Final = Decimal("NaN")
_STATUSES: Final = ("alpha", "beta", "deprecated")

_IDENTIFIER: Final = TypeAdapter(Identifier)

EntryT = TypeVar("EntryT")


def _number(value: object) -> Decimal | None:
    if value is None:
        return None
    amount = Decimal(value) if isinstance(value, int | Decimal) and not isinstance(value, bool) else _NAN
    exponent = amount.as_tuple().exponent
    if not isinstance(exponent, int) or abs(exponent) > MAX_EXPONENT:
        raise ValueError("must be a number, of sensible length")
    return amount


def _tokens(value: object) -> int | None:
    """models.dev writes 0 where a limit is unknown or means nothing."""
    amount = _number(value)
    if amount is not None and amount != amount.to_integral_value():
        raise ValueError("must be a whole number")
    return None if not amount else int(amount)


def _known_status(value: object) -> object:
    return value if value in _STATUSES else None


_Price = Annotated[Usd | None, BeforeValidator(_number)]
_Limit = Annotated[Tokens | None, BeforeValidator(_tokens)]
_Modality = Annotated[Text, Field(max_length=100)]
_Modalities = Annotated[list[_Modality], Field(max_length=50)]


class _Raw(BaseModel):
    """What models.dev adds beyond what we know is ignored; what we know must be of its type."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class _RawRates(_Raw):
    input: _Price = None
    output: _Price = None
    cache_read: _Price = Field(
        default=None, validation_alias=AliasChoices("cache_read", "cached_input", "cache_input")
    )
    cache_write: _Price = Field(default=None, validation_alias=AliasChoices("cache_write", "cached_write"))
    reasoning: _Price = None
    input_audio: _Price = None
    output_audio: _Price = None


class _RawTierSize(_Raw):
    size: Annotated[int, Field(gt=0)]
    type: Literal["context"] = "context"


class _RawTier(_RawRates):
    tier: _RawTierSize


class _RawCost(_RawRates):
    request: _Price = None
    tiers: list[_RawTier] | None = None
    context_over_200k: _RawRates | None = None


class _RawLimit(_Raw):
    context: _Limit = None
    input: _Limit = None
    output: _Limit = None


class _RawModalities(_Raw):
    input: _Modalities = []
    output: _Modalities = []


class _RawEndpoint(_Raw):
    """Where a model differs from its provider."""

    npm: Text | None = None
    api: Text | None = None


class _RawModel(_Raw):
    name: Text | None = None
    family: Text | None = None
    description: Text | None = None
    release_date: Text | None = None
    last_updated: Text | None = None
    knowledge: Text | None = None
    reasoning: bool | None = None
    tool_call: bool | None = None
    structured_output: bool | None = None
    temperature: bool | None = None
    open_weights: bool | None = None
    status: Annotated[Literal["alpha", "beta", "deprecated"] | None, BeforeValidator(_known_status)] = None
    limit: _RawLimit = _RawLimit()
    modalities: _RawModalities | None = None
    cost: _RawCost | None = None
    provider: _RawEndpoint = _RawEndpoint()


_Short = Annotated[Text, Field(max_length=2000)]


class _RawProvider(_Raw):
    name: _Short | None = None
    env: Annotated[list[Identifier], Field(max_length=50)] = []
    api: _Short | None = None
    npm: _Short | None = None
    doc: _Short | None = None
    models: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Skipped:
    """An entry that could not be read."""

    where: str
    reason: str


@dataclass(frozen=True, slots=True)
class ProviderEntry:
    """A provider with all of its models that could be read, in the order of their ids."""

    provider_id: str
    name: str
    base_url: str | None
    api_key_envs: tuple[str, ...]
    npm: str | None
    doc_url: str | None
    models: tuple[CatalogProviderModel, ...]


@dataclass(frozen=True, slots=True)
class ProvidersRead:
    """What `api.json` says."""

    providers: tuple[ProviderEntry, ...]
    unreadable: frozenset[str]
    """Providers that are there but cannot be read: not to be taken for vanished."""
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True, slots=True)
class ModelsRead:
    """What `models.json` says."""

    models: tuple[CatalogModel, ...]
    skipped: tuple[Skipped, ...]


def read_providers(document: Mapping[str, Any]) -> ProvidersRead:
    """Read `api.json`. A broken model is left out of its provider, a broken provider of the result."""
    skipped: list[Skipped] = []
    providers: list[ProviderEntry] = []
    unreadable: set[str] = set()
    for provider_id in sorted(document):
        entry = _attempt(provider_id, skipped, _provider, provider_id, document[provider_id], skipped)
        if entry is None:
            unreadable.add(provider_id)
        else:
            providers.append(entry)
    return ProvidersRead(tuple(providers), frozenset(unreadable), tuple(skipped))


def read_models(document: Mapping[str, Any]) -> ModelsRead:
    """Read `models.json`. A broken entry is left out."""
    skipped: list[Skipped] = []
    models = [
        model
        for source_id in sorted(document)
        if (model := _attempt(source_id, skipped, _model, source_id, document[source_id])) is not None
    ]
    return ModelsRead(tuple(models), tuple(skipped))


def _attempt(
    where: str, skipped: list[Skipped], read: Callable[..., EntryT], *arguments: Any
) -> EntryT | None:
    try:
        return read(*arguments)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        skipped.append(Skipped(where, f"{field}: {first['msg']}" if field else first["msg"]))
    except ValueError as error:
        skipped.append(Skipped(where, str(error)))
    return None


def _provider(provider_id: str, entry: Any, skipped: list[Skipped]) -> ProviderEntry:
    raw = _RawProvider.model_validate(entry)
    models = [
        model
        for model_id in sorted(raw.models)
        if (
            model := _attempt(
                f"{provider_id}/{model_id}", skipped, _provider_model, model_id, raw.models[model_id]
            )
        )
        is not None
    ]
    if raw.models and not models:
        raise ValueError("none of its models can be read")
    return ProviderEntry(
        provider_id=_IDENTIFIER.validate_python(provider_id),
        name=raw.name or provider_id,
        base_url=raw.api,
        api_key_envs=tuple(raw.env),
        npm=raw.npm,
        doc_url=raw.doc,
        models=tuple(models),
    )


def _provider_model(model_id: str, entry: Any) -> CatalogProviderModel:
    raw = _RawModel.model_validate(entry)
    return CatalogProviderModel(
        provider_model_id=model_id,
        facts=_facts(raw),
        prices=_prices(raw.cost),
        base_url=raw.provider.api,
        npm=raw.provider.npm,
    )


def _model(source_id: str, entry: Any) -> CatalogModel:
    return CatalogModel(source_id=source_id, facts=_facts(_RawModel.model_validate(entry)))


def _facts(raw: _RawModel) -> ModelFacts:
    modalities = raw.modalities or _RawModalities()

    def takes(kind: str) -> bool | None:
        return None if raw.modalities is None else kind in modalities.input

    return ModelFacts(
        name=raw.name,
        family=raw.family,
        description=raw.description,
        release_date=raw.release_date,
        knowledge_cutoff=raw.knowledge,
        last_updated=raw.last_updated,
        context_window=raw.limit.context,
        max_input=raw.limit.input,
        max_output=raw.limit.output,
        input_modalities=tuple(modalities.input),
        output_modalities=tuple(modalities.output),
        capabilities=Capabilities(
            tools=raw.tool_call,
            vision=takes("image"),
            audio=takes("audio"),
            pdf=takes("pdf"),
            reasoning=raw.reasoning,
            structured_output=raw.structured_output,
            temperature=raw.temperature,
        ),
        open_weights=raw.open_weights,
        status=raw.status,
    )


def _rates(raw: _RawRates) -> dict[str, Decimal | None]:
    return {name: getattr(raw, name) for name in _RawRates.model_fields}


def _prices(cost: _RawCost | None) -> Prices:
    """All that `cost` says, with every digit: the rates by kind of token, their tiers, the fee of a request.

    `context_over_200k` is the older way to say a tier. Not carried, since usage has no count for it:
    `image` (two of Poe's; image tokens are told by few and count as output), `citation` (Perplexity's
    sonar-deep-research; its usage tells of citations, but not as a part of input or output). Prices outside
    of `cost` (`experimental.modes`: what a faster mode costs) are for requests that ask for the mode in ways
    of each provider's own, and are not carried either.
    """
    if cost is None:
        return Prices()
    tiers: dict[int, dict[str, Decimal | None]] = {}
    for tier in cost.tiers or ():
        if tiers.setdefault(tier.tier.size, _rates(tier)) != _rates(tier):
            raise ValueError(f"cost.tiers: two prices above {tier.tier.size} tokens")
    if cost.context_over_200k is not None:
        over = _rates(cost.context_over_200k)
        if over not in tiers.values():
            tiers.setdefault(LONG_CONTEXT_TOKENS, over)
    return Prices(
        **_rates(cost),
        per_request=None if cost.request is None else _EXACT.divide(cost.request, REQUESTS_PER_PRICE),
        tiers=tuple(PriceTier(over_tokens=size, **tiers[size]) for size in sorted(tiers)),
    )
