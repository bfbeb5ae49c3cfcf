"""`GET /v1/models` and `GET /v1/models/{id}`: OpenAI's shape, with prices and endpoints beside it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec
from aiohttp import web
from pydantic import ValidationError

from synaxis_common.bus import BusUnavailable
from synaxis_common.contracts.catalog import Prices
from synaxis_common.contracts.routing import (
    EndpointView,
    ModelsPage,
    ModelsRequest,
    ModelView,
    RefusalCode,
    RouteRefusal,
)
from synaxis_gateway.http import errors
from synaxis_gateway.http.middleware import KEY_HASH, REQUEST_ID
from synaxis_gateway.http.routes import Policy, Route
from synaxis_gateway.routing import Registry

MAX_PAGES = 200
"""At 200 models a page far more than there are; a bound against a registry that turns in circles."""
PRICE_UNIT = "usd_per_million_tokens"


class ModelsHandlers:
    """Asks the registry what the holder of a key may use."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def routes(self) -> list[Route]:
        """The endpoints."""
        return [
            Route("GET", "/v1/models", Policy.TENANT, self.list_models, "Models that can be used now"),
            Route("GET", "/v1/models/{id:.+}", Policy.TENANT, self.one_model, "One model"),
        ]

    async def list_models(self, request: web.Request) -> web.Response:
        """`GET /v1/models`."""
        models: list[ModelView] = []
        after: str | None = None
        for _ in range(MAX_PAGES):
            page = await self._ask(request, ModelsRequest(key_hash=request[KEY_HASH], after=after))
            models += page.models
            after = page.next_after
            if after is None:
                break
        return _json({"object": "list", "data": [model_body(model) for model in models]})

    async def one_model(self, request: web.Request) -> web.Response:
        """`GET /v1/models/{id}`."""
        try:
            question = ModelsRequest(key_hash=request[KEY_HASH], model=request.match_info["id"])
        except ValidationError as error:
            raise errors.bad_request("This cannot be the name of a model.", "model") from error
        page = await self._ask(request, question)
        if not page.models:
            raise _refused(request, RefusalCode.MODEL_NOT_FOUND, page)
        return _json(model_body(page.models[0]))

    async def _ask(self, request: web.Request, question: ModelsRequest) -> ModelsPage:
        try:
            page = await self._registry.models(question)
        except BusUnavailable as error:
            raise errors.unavailable("No registry answers at the moment.") from error
        if page.refusal is not None:
            raise _refused(request, page.refusal, page)
        return page


_SAID = {
    RefusalCode.INVALID_API_KEY: "The API key is not valid.",
    RefusalCode.MODEL_NOT_FOUND: "There is no such model.",
    RefusalCode.MODEL_NOT_ALLOWED: "This key may not use the model.",
}


def _refused(request: web.Request, code: RefusalCode, page: ModelsPage) -> errors.ApiError:
    message = _SAID.get(code, "The models cannot be listed at the moment.")
    return errors.refusal(
        RouteRefusal(request_id=request[REQUEST_ID], code=code, message=message, nearest=page.nearest)
    )


def model_body(model: ModelView) -> dict[str, Any]:
    """A model as a client sees it. Its own price is that of its cheapest available endpoint."""
    cheapest = min(
        (endpoint.prices for endpoint in model.endpoints if endpoint.is_available),
        key=_dearness,
        default=None,
    )
    return {
        "id": model.id,
        "object": "model",
        "created": model.created,
        "owned_by": model.vendor or "unknown",
        "name": model.name or model.id,
        "context_length": model.context_window,
        "max_output_tokens": model.max_output,
        "capabilities": list(model.capabilities),
        "architecture": {
            "input_modalities": list(model.input_modalities),
            "output_modalities": list(model.output_modalities),
        },
        "pricing": None if cheapest is None else price_body(cheapest),
        "endpoints": [_endpoint_body(endpoint) for endpoint in model.endpoints],
    }


def price_body(prices: Prices) -> dict[str, Any]:
    """Prices as decimal strings; those that are unknown are left out, which is not zero."""
    known = prices.model_dump(mode="json", exclude_none=True)
    if not known.get("tiers"):
        known.pop("tiers", None)
    return {**known, "unit": PRICE_UNIT}


def _dearness(prices: Prices) -> tuple[bool, Decimal]:
    known = [price for price in (prices.input, prices.output) if price is not None]
    return len(known) < 2, sum(known, Decimal(0))


def _endpoint_body(endpoint: EndpointView) -> dict[str, Any]:
    return {
        "provider_id": endpoint.provider_id,
        "provider_model_id": endpoint.provider_model_id,
        "pricing": price_body(endpoint.prices),
        "context_length": endpoint.context_window,
        "max_output_tokens": endpoint.max_output,
        "quantization": endpoint.quantization,
        "is_available": endpoint.is_available,
        "ttft_p95_s": endpoint.ttft_p95_s,
        "error_rate": endpoint.error_rate,
        "latency": {
            window: measured.model_dump(mode="json")
            for window, measured in (("5m", endpoint.recent), ("1d", endpoint.day))
            if measured is not None
        },
    }


def _json(value: Any) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")
