"""The models that a tenant may use, as `/v1/models` shows them."""

from __future__ import annotations

from bisect import bisect_right
from datetime import UTC, datetime

from synaxis_common.contracts.catalog import Capabilities, ModelFacts
from synaxis_common.contracts.routing import EndpointView, ModelsPage, ModelView, RefusalCode
from synaxis_registry.core.catalog import Catalog, Endpoint, GlobalModel
from synaxis_registry.core.limits import is_allowed
from synaxis_registry.core.lookup import Ambiguous, Found, Missing, lookup


def usable_model_ids(catalog: Catalog, tenant_id: str) -> list[str]:
    """The ids, sorted, of the models that somebody serves now and that the tenant may use."""
    return sorted(
        model_id
        for model_id in catalog.endpoints_by_model
        if model_id in catalog.models
        and is_allowed(catalog.limits, tenant_id, model_id)
        and catalog.is_served(model_id)
    )


def models_page(catalog: Catalog, tenant_id: str, after: str | None, limit: int) -> ModelsPage:
    """One page of the usable models, in the order of their ids, beginning after the id `after`."""
    ids = usable_model_ids(catalog, tenant_id)
    start = 0 if after is None else bisect_right(ids, after)
    shown = ids[start : start + limit]
    return ModelsPage(
        models=tuple(model_view(catalog, catalog.models[model_id]) for model_id in shown),
        next_after=shown[-1] if start + limit < len(ids) else None,
    )


def one_model(catalog: Catalog, tenant_id: str, asked: str) -> ModelsPage:
    """One model by any of its names, or why it isn't shown.

    A model that the tenant may not use is refused as such; one that no provider which is on offers is not
    found; one whose endpoints are all unavailable now is shown with them.
    """
    match lookup(catalog, asked):
        case Missing(nearest):
            return ModelsPage(refusal=RefusalCode.MODEL_NOT_FOUND, nearest=nearest)
        case Ambiguous(candidates):
            return ModelsPage(refusal=RefusalCode.MODEL_NOT_FOUND, nearest=candidates)
        case Found(model):
            if not is_allowed(catalog.limits, tenant_id, model.id):
                return ModelsPage(refusal=RefusalCode.MODEL_NOT_ALLOWED)
            view = model_view(catalog, model)
            if not view.endpoints:
                return ModelsPage(refusal=RefusalCode.MODEL_NOT_FOUND)
            return ModelsPage(models=(view,))


def model_view(catalog: Catalog, model: GlobalModel) -> ModelView:
    """A model with its endpoints at providers that are on, the available ones first."""
    endpoints = sorted(
        (
            endpoint
            for endpoint in catalog.endpoints_of(model.id)
            if endpoint.enabled
            and (provider := catalog.providers.get(endpoint.provider_id)) is not None
            and provider.is_on
        ),
        key=lambda endpoint: (not endpoint.is_available, endpoint.key),
    )
    facts = model.facts
    return ModelView(
        id=model.id,
        name=model.name,
        vendor=model.vendor,
        created=_created(facts.release_date),
        context_window=facts.context_window or _largest(endpoints, "context_window"),
        max_output=facts.max_output or _largest(endpoints, "max_output"),
        capabilities=_capabilities(facts, endpoints),
        input_modalities=facts.input_modalities,
        output_modalities=facts.output_modalities,
        endpoints=tuple(endpoint_view(endpoint) for endpoint in endpoints),
    )


def endpoint_view(endpoint: Endpoint) -> EndpointView:
    """An endpoint as clients see it."""
    health = endpoint.health
    return EndpointView(
        provider_id=endpoint.provider_id,
        provider_model_id=endpoint.provider_model_id,
        prices=endpoint.prices,
        context_window=endpoint.context_window,
        max_output=endpoint.max_output,
        quantization=endpoint.quantization,
        is_available=endpoint.is_available,
        ttft_p95_s=health.ttft_p95_s if health.is_measured else None,
        error_rate=health.error_rate if health.is_measured else None,
        recent=health.recent if health.recent.requests else None,
        day=health.day if health.day.requests else None,
    )


def _largest(endpoints: list[Endpoint], name: str) -> int | None:
    return max((size for e in endpoints if (size := getattr(e, name)) is not None), default=None)


def _capabilities(facts: ModelFacts, endpoints: list[Endpoint]) -> tuple[str, ...]:
    """What the model can do; where nobody says it of the model, what any of its endpoints can."""
    able = []
    for name in sorted(Capabilities.model_fields):
        can = getattr(facts.capabilities, name)
        if can is None:
            can = any(getattr(endpoint.capabilities, name) for endpoint in endpoints)
        if can:
            able.append(name)
    return tuple(able)


def _created(release_date: str | None) -> int:
    """Unix time of a release date (`YYYY`, `YYYY-MM` or `YYYY-MM-DD`), 0 where there is no telling."""
    for form in ("%Y-%m-%d", "%Y-%m", "%Y"):
        try:
            moment = datetime.strptime(release_date or "", form).replace(tzinfo=UTC)
        except ValueError:
            continue
        return max(0, int(moment.timestamp()))
    return 0
