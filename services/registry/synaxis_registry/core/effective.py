"""What routing sees of the rows: models.dev's word, the provider's and the operator's put together."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Final

from synaxis_common.contracts.catalog import Capabilities, ModelFacts, Prices
from synaxis_registry.core.catalog import Endpoint, EndpointHealth, GlobalModel, Provider
from synaxis_registry.core.records import GlobalModelRecord, Kind, ProviderModelRecord, ProviderRecord
from synaxis_registry.core.trust import NPM_KINDS, is_held, normal_url, provider_state

_INPUT_RATES: Final = ("cache_read", "cache_write", "input_audio")
_OUTPUT_RATES: Final = ("reasoning", "output_audio")
_NOTHING: Final = ModelFacts()


def _merged(base: ModelFacts, over: ModelFacts) -> ModelFacts:
    """`base`, with what `over` knows better. What `over` leaves out says nothing."""
    said = {
        name: value
        for name in ModelFacts.model_fields
        if name != "capabilities" and (value := getattr(over, name)) not in (None, ())
    }
    abilities = {
        name: value
        for name in Capabilities.model_fields
        if (value := getattr(over.capabilities, name)) is not None
    }
    return base.model_copy(
        update={**said, "capabilities": base.capabilities.model_copy(update=abilities)},
    )


def effective_facts(row: ProviderModelRecord) -> ModelFacts:
    """What is known of a model at its provider: the provider's own list before models.dev."""
    if row.observed_facts is None:
        return row.catalog_facts or _NOTHING
    return _merged(row.catalog_facts or _NOTHING, row.observed_facts)


def said_prices(catalog: Prices, observed: Prices | None) -> Prices:
    """The prices that are said now: the provider's own where it names one, else models.dev's.

    Tiers are models.dev's where the provider names none: lists of models hardly ever have them.
    """
    if observed is None:
        return catalog
    named = {
        name: value for name in Prices.model_fields if (value := getattr(observed, name)) not in (None, ())
    }
    return catalog.model_copy(update=named) if named else catalog


def with_said_prices(row: ProviderModelRecord) -> ProviderModelRecord:
    """`row` with the prices in force renewed from what is said, unless the step waits for an operator."""
    said = said_prices(row.catalog_prices, row.observed_prices)
    if said == row.prices:
        return row if row.held_prices is None else replace(row, held_prices=None)
    if is_held(row.prices, said):
        return row if row.held_prices == said else replace(row, held_prices=said)
    return replace(row, prices=said, held_prices=None)


def effective_prices(row: ProviderModelRecord) -> Prices:
    """The prices in force, with an operator's override.

    An operator's input price is for all input tokens (cached and audio too, in every tier), an output price
    for all output tokens; with both nothing of the former prices is left.
    """
    if row.override_input_price is None and row.override_output_price is None:
        return row.prices
    if row.override_input_price is not None and row.override_output_price is not None:
        return Prices(input=row.override_input_price, output=row.override_output_price)
    over: dict[str, Decimal | None]
    if row.override_input_price is not None:
        over = {"input": row.override_input_price, **dict.fromkeys(_INPUT_RATES)}
    else:
        over = {"output": row.override_output_price, **dict.fromkeys(_OUTPUT_RATES)}
    tiers = tuple(tier.model_copy(update=over) for tier in row.prices.tiers)
    return row.prices.model_copy(update={**over, "tiers": tiers})


def is_flat_rate(row: ProviderModelRecord) -> bool:
    """Whether its zero prices mean a subscription or a trial: all zero, without an operator's word for it."""
    if row.override_input_price is not None and row.override_output_price is not None:
        return False
    prices = effective_prices(row)
    given = [
        rate
        for rates in (prices, *prices.tiers)
        for rate in (rates.input, rates.output, rates.reasoning)
        if rate is not None
    ]
    return bool(given) and not any(given) and not prices.per_request


def effective_kind(row: ProviderModelRecord, provider: ProviderRecord) -> Kind | None:
    """The protocol spoken for this model. None: one that we don't speak."""
    if provider.source == "operator" or row.catalog_npm is None:
        return provider.kind
    return NPM_KINDS.get(row.catalog_npm)


def effective_provider(record: ProviderRecord) -> Provider:
    """`record` as routing sees it."""
    state = provider_state(record)
    return Provider(
        provider_id=record.provider_id,
        name=record.name,
        base_url=record.base_url or "",
        kind=record.kind or "openai",
        api_key_envs=record.api_key_envs,
        headers=record.headers,
        is_on=state.is_on,
        off_reason=state.off_reason,
        tier=record.tier,
        allow_private=record.allow_private,
        rate_limit_rpm=record.rate_limit_rpm,
        rate_limit_tpm=record.rate_limit_tpm,
        timeouts=record.timeouts,
        suspended_until=None if record.suspension is None else record.suspension.until,
    )


def effective_endpoint(
    row: ProviderModelRecord, provider: ProviderRecord, health: EndpointHealth | None = None
) -> Endpoint:
    """`row` as routing sees it."""
    facts = effective_facts(row)
    kind = effective_kind(row, provider)
    follows_catalog = provider.source == "models.dev" and row.catalog_base_url is not None
    return Endpoint(
        provider_id=row.provider_id,
        provider_model_id=row.provider_model_id,
        global_model_id=row.global_model_id,
        prices=effective_prices(row),
        is_flat_rate=is_flat_rate(row),
        context_window=row.override_context_window or facts.context_window,
        max_input=facts.max_input,
        max_output=row.override_max_output or facts.max_output,
        capabilities=facts.capabilities,
        input_modalities=facts.input_modalities,
        output_modalities=facts.output_modalities,
        quantization=row.quantization,
        enabled=row.enabled,
        is_available=row.is_available,
        unavailable_reason=row.unavailable_reason,
        base_url=normal_url(row.catalog_base_url) if follows_catalog and row.catalog_base_url else None,
        kind=None if kind == provider.kind else kind,
        rate_limit_rpm=row.rate_limit_rpm,
        rate_limit_tpm=row.rate_limit_tpm,
        health=health or EndpointHealth(),
    )


def effective_model(record: GlobalModelRecord) -> GlobalModel:
    """`record` as routing sees it."""
    return GlobalModel(
        id=record.id,
        name=record.operator_name or record.name,
        vendor=record.vendor,
        facts=record.facts,
        aliases=record.aliases if record.operator_aliases is None else record.operator_aliases,
        status=record.operator_status or record.status,
    )


def last_seen(row: ProviderModelRecord, provider: ProviderRecord) -> datetime:
    """When a list last had this model.

    The row itself is told only when the model goes missing, which spares a write of every row at every poll.
    """
    if row.listed and row.missing_since is None and provider.last_good_at is not None:
        return provider.last_good_at
    return row.last_seen_at
