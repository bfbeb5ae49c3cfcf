"""Routing, step 2: who can not serve this request, and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from synaxis_common.contracts.catalog import Capabilities
from synaxis_common.contracts.routing import Exclusion, ExclusionReason, Needs, Operation, Preferences
from synaxis_common.pricing import rates_for
from synaxis_registry.core.catalog import Catalog, Endpoint, Provider
from synaxis_registry.core.records import Kind, UnavailableReason

_KINDS: Final[Mapping[Operation, Kind]] = {
    "chat": "openai",
    "completions": "openai",
    "embeddings": "openai",
    "responses": "openai",
    "messages": "anthropic",
}

_PARAMETER_ABILITIES: Final[Mapping[str, str]] = {
    "tools": "tools",
    "tool_choice": "tools",
    "parallel_tool_calls": "tools",
    "response_format": "structured_output",
    "structured_outputs": "structured_output",
    "temperature": "temperature",
    "reasoning": "reasoning",
    "reasoning_effort": "reasoning",
}
"""What an endpoint must be able to do for a parameter to have its effect. Nobody says anything of the
others, so `require_parameters` cannot ask for them."""

_MODALITIES: Final[Mapping[str, str]] = {"vision": "image", "audio": "audio", "pdf": "pdf"}
"""Capabilities that a list of input modalities speaks of too."""

SOFT: Final = frozenset({ExclusionReason.CIRCUIT_OPEN, ExclusionReason.PROVIDER_RATE_LIMITED})
"""Signs of trouble rather than facts: who is all that a model has is tried nevertheless."""


@dataclass(frozen=True, slots=True)
class Excluded:
    """An endpoint that is out, and why."""

    endpoint: Endpoint
    reason: ExclusionReason
    detail: str = ""

    def to_message(self) -> Exclusion:
        """As plans and refusals tell of it."""
        return Exclusion(
            provider_id=self.endpoint.provider_id,
            provider_model_id=self.endpoint.provider_model_id,
            reason=self.reason,
            detail=self.detail,
        )


class Eligible(NamedTuple):
    """An endpoint that can serve the request, with its provider."""

    endpoint: Endpoint
    provider: Provider


@dataclass(frozen=True, slots=True)
class Filtered:
    """Everybody who was looked at, each once."""

    eligible: tuple[Eligible, ...]
    troubled: tuple[Eligible, ...]
    """Whoever shows a sign of trouble: tried when all others have failed, by when it may be well again."""
    excluded: tuple[Excluded, ...]


def filter_endpoints(
    catalog: Catalog,
    endpoints: tuple[Endpoint, ...],
    needs: Needs,
    preferences: Preferences,
    now: datetime,
    *,
    must_be_priced: bool = False,
) -> Filtered:
    """Sort out those of one model's `endpoints` that cannot or may not serve the request.

    `must_be_priced`: a budget has to be kept, so what cannot be priced cannot be used.
    """
    check = _Check(needs, preferences, now, must_be_priced)
    model = catalog.models.get(endpoints[0].global_model_id) if endpoints else None
    general = None if model is None else model.facts.capabilities
    eligible: list[Eligible] = []
    troubled: list[Eligible] = []
    excluded: list[Excluded] = []
    for endpoint in endpoints:
        provider = catalog.providers.get(endpoint.provider_id)
        reason = check.reason_against(endpoint, provider, general)
        if reason is None and provider is not None:
            eligible.append(Eligible(endpoint, provider))
        elif reason is not None:
            out = Excluded(endpoint, *reason)
            if out.reason in SOFT and provider is not None:
                troubled.append(Eligible(endpoint, provider))
            else:
                excluded.append(out)
    return Filtered(tuple(eligible), tuple(troubled), tuple(excluded))


Reason = tuple[ExclusionReason, str]


class _Check:
    """The tests of one request, taken apart once for all endpoints."""

    def __init__(self, needs: Needs, preferences: Preferences, now: datetime, must_be_priced: bool) -> None:
        self._needs = needs
        self._now = now
        self._must_be_priced = must_be_priced
        self._kind = _KINDS[needs.operation]
        self._only = {name.casefold() for name in preferences.only}
        self._ignore = {name.casefold() for name in preferences.ignore}
        self._order = (
            set() if preferences.allow_fallbacks else {name.casefold() for name in preferences.order}
        )
        self._quantizations = {name.casefold() for name in preferences.quantizations}
        self._max_price = preferences.max_price
        self._abilities = tuple(
            name
            for name, needed in (
                ("tools", needs.tools),
                ("vision", needs.vision),
                ("audio", needs.audio),
                ("pdf", needs.pdf),
                ("structured_output", needs.structured_output),
            )
            if needed
        )
        self._parameters: tuple[tuple[str, str], ...] = ()
        if preferences.require_parameters:
            self._parameters = tuple(
                (name, _PARAMETER_ABILITIES[name])
                for name in sorted(needs.parameters)
                if name in _PARAMETER_ABILITIES
            )
        wished = bool(self._only or self._ignore or self._order or self._quantizations)
        self._tests: tuple[Callable[[Endpoint, Capabilities | None], Reason | None], ...] = tuple(
            test
            for test, matters in (
                (self._wishes, wished),
                (self._ability, bool(self._abilities or self._parameters)),
                (self._size, True),
                (self._price, must_be_priced or self._max_price is not None),
            )
            if matters
        )

    def reason_against(
        self, endpoint: Endpoint, provider: Provider | None, general: Capabilities | None
    ) -> Reason | None:
        """The first reason why `endpoint` is out. `general`: what the model can do, whoever serves it."""
        if provider is None or not provider.is_on:
            return ExclusionReason.PROVIDER_OFF, (provider and provider.off_reason) or ""
        if endpoint.unavailable_reason == UnavailableReason.RETIRED:
            return ExclusionReason.RETIRED, ""
        if not endpoint.enabled:
            return ExclusionReason.DISABLED, ""
        if not endpoint.is_available:
            return ExclusionReason.UNAVAILABLE, endpoint.unavailable_reason or ""
        kind = endpoint.kind or provider.kind
        if kind != self._kind:
            return ExclusionReason.KIND_UNSUPPORTED, kind
        for test in self._tests:
            if (reason := test(endpoint, general)) is not None:
                return reason
        return self._trouble(endpoint, provider)

    def _wishes(self, endpoint: Endpoint, _: Capabilities | None) -> Reason | None:
        name = endpoint.provider_id.casefold()
        if self._only and name not in self._only:
            return ExclusionReason.NOT_IN_ONLY, ""
        if name in self._ignore:
            return ExclusionReason.IGNORED, ""
        if self._order and name not in self._order:
            return ExclusionReason.NO_FALLBACKS, "not in order"
        if self._quantizations:
            quantization = (endpoint.quantization or "unknown").casefold()
            if quantization not in self._quantizations:
                return ExclusionReason.QUANTIZATION, quantization
        return None

    def _ability(self, endpoint: Endpoint, general: Capabilities | None) -> Reason | None:
        for name in self._abilities:
            if _can(endpoint, general, name) is False:
                return ExclusionReason.CAPABILITY_MISSING, name
        for parameter, name in self._parameters:
            if not _can(endpoint, general, name):
                return ExclusionReason.PARAMETER_UNSUPPORTED, parameter
        return None

    def _size(self, endpoint: Endpoint, _: Capabilities | None) -> Reason | None:
        needs = self._needs
        asked = needs.max_output_tokens or 0
        prompt = needs.input_tokens / max(needs.prompts, 1)  # each of a list has a window of its own
        if endpoint.context_window is not None and prompt + asked > endpoint.context_window:
            return ExclusionReason.CONTEXT_TOO_SMALL, f"context window {endpoint.context_window}"
        if endpoint.max_input is not None and prompt > endpoint.max_input:
            return ExclusionReason.CONTEXT_TOO_SMALL, f"at most {endpoint.max_input} input tokens"
        if endpoint.max_output is not None and asked > endpoint.max_output:
            return ExclusionReason.CONTEXT_TOO_SMALL, f"at most {endpoint.max_output} output tokens"
        return None

    def _price(self, endpoint: Endpoint, _: Capabilities | None) -> Reason | None:
        prices = endpoint.prices
        rates = rates_for(prices, self._needs.input_tokens)
        input_rate = prices.input if rates.input is None else rates.input
        output_rate = prices.output if rates.output is None else rates.output
        if self._must_be_priced and (
            input_rate is None or (output_rate is None and self._needs.operation != "embeddings")
        ):
            return ExclusionReason.PRICE_UNKNOWN, "the tenant has a budget"
        if self._max_price is None:
            return None
        for bound, rate, what in (
            (self._max_price.prompt, input_rate, "prompt"),
            (self._max_price.completion, output_rate, "completion"),
        ):
            if bound is None:
                continue
            if rate is None:
                return ExclusionReason.PRICE_UNKNOWN, what
            if rate > bound:
                return ExclusionReason.OVER_MAX_PRICE, f"{what} {rate:f}"
        return None

    def _trouble(self, endpoint: Endpoint, provider: Provider) -> Reason | None:
        suspended = provider.suspended_until
        if suspended is not None and suspended > self._now:
            return ExclusionReason.CIRCUIT_OPEN, f"the provider's, until {suspended.isoformat()}"
        health = endpoint.health
        if health.open_until is not None and health.open_until > self._now:
            return ExclusionReason.CIRCUIT_OPEN, f"until {health.open_until.isoformat()}"
        if health.limited_until is not None and health.limited_until > self._now:
            return ExclusionReason.PROVIDER_RATE_LIMITED, f"until {health.limited_until.isoformat()}"
        return None


def _can(endpoint: Endpoint, general: Capabilities | None, name: str) -> bool | None:
    """Whether an endpoint can do something: its own word, else what is said of the model, else None."""
    own: bool | None = getattr(endpoint.capabilities, name)
    if own is None and endpoint.input_modalities and name in _MODALITIES:
        own = _MODALITIES[name] in endpoint.input_modalities
    if own is None and general is not None:
        own = getattr(general, name)
    return own
