"""What the answer to `GET /models` looks like at the providers, and what it says of each model. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from pydantic import ValidationError

from synaxis_common.contracts.catalog import Capabilities, ModelFacts, Prices, Rates
from synaxis_common.contracts.observation import ObservedModel, WireKind
from synaxis_discovery import values

_NONE: Final = Capabilities()


class NotAModelList(Exception):
    """The answer is JSON, but no list of models."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list."""

    models: tuple[ObservedModel, ...]
    skipped: int = 0
    """Entries that could not be read."""
    next_page: str | None = None
    """What to ask the next page with; None: this is the last."""


def read_page(kind: WireKind, document: Any) -> Page:
    """Read one page; numbers with a point must be `Decimal`. Raises NotAModelList.

    An entry that cannot be read is left out and counted. Models that do not chat are kept: what they are
    good for is not decided here. Those that their provider lists as out of service are left out.
    """
    entries, read = _entries(kind, document), _READERS[kind]
    models: list[ObservedModel] = []
    skipped = 0
    for entry in entries:
        try:
            model = read(entry)
        except (ValidationError, ValueError):
            skipped += 1
            continue
        if model is not None:
            models.append(model)
    if entries and skipped == len(entries):
        raise NotAModelList("none of the entries is a model")
    return Page(merged(models), skipped, _next_page(kind, document))


def merged(models: Iterable[ObservedModel]) -> tuple[ObservedModel, ...]:
    """Each model once, in the order of first appearance; a repetition fills in what was unknown."""
    found: dict[str, ObservedModel] = {}
    for model in models:
        known = found.get(model.provider_model_id)
        found[model.provider_model_id] = model if known is None else _filled(known, model)
    return tuple(found.values())


def _filled(first: ObservedModel, second: ObservedModel) -> ObservedModel:
    unknown = {
        name: value
        for name, value in second.facts
        if name != "capabilities" and getattr(first.facts, name) in (None, ())
    }
    able = {
        name: value
        for name, value in second.facts.capabilities
        if getattr(first.facts.capabilities, name) is None
    }
    unknown["capabilities"] = first.facts.capabilities.model_copy(update=able)
    return first.model_copy(
        update={
            "facts": first.facts.model_copy(update=unknown),
            "prices": first.prices or second.prices,
            "quantization": first.quantization or second.quantization,
        }
    )


def _entries(kind: WireKind, document: Any) -> list[Any]:
    if isinstance(document, list):
        return document  # Together
    if not isinstance(document, dict):
        raise NotAModelList("neither a list nor an object")
    if kind == "google":
        # The API leaves fields out that are empty.
        found = document.get("models", [] if document.keys() <= {"nextPageToken"} else None)
    else:
        found = document["data"] if "data" in document else document.get("models")
        if found is None and document.get("object") == "list":
            found = []  # an empty list as Go programs write it
    if not isinstance(found, list):
        raise NotAModelList("an object without a list of models")
    return found


def _next_page(kind: WireKind, document: Any) -> str | None:
    if not isinstance(document, dict) or kind == "openai":
        return None
    if kind == "google":
        return values.text(document.get("nextPageToken"))
    return values.text(document.get("last_id")) if document.get("has_more") is True else None


def _google(entry: Any) -> ObservedModel | None:
    said = _object(entry)
    name = said.get("name")
    return ObservedModel(
        provider_model_id=_id(name.removeprefix("models/") if isinstance(name, str) else name),
        facts=ModelFacts(
            name=values.text(said.get("displayName")),
            context_window=values.tokens(said.get("inputTokenLimit")),
            max_input=values.tokens(said.get("inputTokenLimit")),
            max_output=values.tokens(said.get("outputTokenLimit")),
            capabilities=Capabilities(reasoning=values.flag(said.get("thinking"))),
        ),
    )


def _anthropic(entry: Any) -> ObservedModel | None:
    said = _object(entry)
    able = values.mapping(said.get("capabilities"))

    def supports(name: str) -> bool | None:
        return values.flag(values.mapping(able.get(name)).get("supported"))

    return ObservedModel(
        provider_model_id=_id(said.get("id")),
        facts=ModelFacts(
            name=values.text(said.get("display_name")),
            context_window=values.tokens(said.get("max_input_tokens")),
            max_input=values.tokens(said.get("max_input_tokens")),
            max_output=values.tokens(said.get("max_tokens")),
            capabilities=Capabilities(
                vision=supports("image_input"),
                pdf=supports("pdf_input"),
                reasoning=supports("thinking"),
                structured_output=supports("structured_outputs"),
            ),
        ),
    )


def _openai(entry: Any) -> ObservedModel | None:
    """An entry of a list that has OpenAI's form, bare or with what others have added to it."""
    if isinstance(entry, str):
        return ObservedModel(provider_model_id=_id(entry))
    said = _object(entry)
    model_id = _id(said.get("id", said.get("name")))
    if said.get("active") is False:  # Groq
        return None
    if isinstance(said.get("providers"), list):
        return _huggingface(model_id, said)
    architecture = values.mapping(said.get("architecture"))
    inputs, outputs = _modalities(architecture)
    top = values.mapping(said.get("top_provider"))
    extra = values.mapping(said.get("metadata"))  # DeepInfra
    return ObservedModel(
        provider_model_id=model_id,
        facts=ModelFacts(
            name=_first_text(said, "display_name", "name"),
            context_window=values.tokens(
                top.get("context_length"),
                *(said.get(name) for name in _CONTEXT_NAMES),
                extra.get("context_length"),
            ),
            max_output=values.tokens(
                top.get("max_completion_tokens"),
                *(said.get(name) for name in _OUTPUT_NAMES),
                extra.get("max_tokens"),
            ),
            input_modalities=inputs,
            output_modalities=outputs,
            capabilities=_capabilities(said, inputs),
            status="deprecated" if values.text(said.get("deprecation")) else None,  # Mistral
        ),
        prices=_prices(said) or _deepinfra_prices(extra),
        quantization=_first_text(said, "quantization"),
    )


_CONTEXT_NAMES: Final = (
    "context_length",  # OpenRouter, Together
    "context_window",  # Groq, Vercel
    "max_context_length",  # Mistral
    "max_model_len",  # vLLM
)
_OUTPUT_NAMES: Final = (
    "max_completion_tokens",  # Groq
    "max_output_tokens",
    "max_output_length",
    "max_tokens",  # Vercel
)


def _capabilities(said: Mapping[str, Any], inputs: tuple[str, ...]) -> Capabilities:
    """From OpenRouter's list of parameters, Mistral's flags, and the kinds of input."""
    able = values.mapping(said.get("capabilities"))
    found: dict[str, bool | None] = {
        "tools": values.flag(able.get("function_calling")),
        "vision": values.flag(able.get("vision")),
        "audio": values.flag(able.get("audio")),
        "reasoning": values.flag(able.get("reasoning")),
    }
    if inputs:
        found |= {
            "vision": "image" in inputs,
            "audio": "audio" in inputs,
            "pdf": bool({"file", "pdf"} & {*inputs}),
        }
    parameters = values.texts(said.get("supported_parameters"))
    if parameters:
        found |= {
            "tools": "tools" in parameters,
            "reasoning": "reasoning" in parameters,
            "structured_output": "structured_outputs" in parameters,
            "temperature": "temperature" in parameters,
        }
    return Capabilities(**found)


def _prices(said: Mapping[str, Any]) -> Prices | None:
    pricing = values.mapping(said.get("pricing"))
    if "prompt" in pricing:  # OpenRouter
        return values.prices(
            pricing,
            input_key="prompt",
            output_key="completion",
            request_key="request",
            extras=(
                ("cache_read", "input_cache_read"),
                ("cache_write", "input_cache_write"),
                ("reasoning", "internal_reasoning"),
                ("input_audio", "audio"),
            ),
        )
    return values.prices(  # Together, Vercel
        pricing,
        input_key="input",
        output_key="output",
        extras=(
            ("cache_read", "input_cache_read"),
            ("cache_write", "input_cache_write"),
            ("cache_read", "cached_input"),
        ),
    )


def _deepinfra_prices(extra: Mapping[str, Any]) -> Prices | None:
    return values.prices(
        values.mapping(extra.get("pricing")),
        input_key="input_tokens",
        output_key="output_tokens",
        extras=(("cache_read", "cache_read_tokens"),),
    )


def _huggingface(model_id: str, said: Mapping[str, Any]) -> ObservedModel | None:
    """A model that HuggingFace's router passes on to one of several providers of its own.

    The router chooses among those that are live, and we cannot know which: so the model has the dearest of
    their prices, the smallest of their contexts, and only what all of them can do. What one of them does
    not say is left to the others. Without any that is live it is out of service.
    """
    live = [
        provider
        for one in said["providers"]
        if (provider := values.mapping(one)).get("status", "live") == "live" and provider
    ]
    if not live:
        return None
    inputs, outputs = _modalities(values.mapping(said.get("architecture")))
    contexts = [context for one in live if (context := values.tokens(one.get("context_length")))]
    offers = [
        offer
        for one in live
        if (
            offer := values.prices(values.mapping(one.get("pricing")), input_key="input", output_key="output")
        )
    ]
    able = _capabilities({}, inputs)
    return ObservedModel(
        provider_model_id=model_id,
        facts=ModelFacts(
            context_window=min(contexts, default=None),
            input_modalities=inputs,
            output_modalities=outputs,
            capabilities=able.model_copy(
                update={
                    "tools": _all_say(live, "supports_tools"),
                    "structured_output": _all_say(live, "supports_structured_output"),
                }
            ),
        ),
        prices=_dearest(offers),
    )


def _all_say(live: list[Mapping[str, Any]], name: str) -> bool | None:
    said = [answer for one in live if (answer := values.flag(one.get(name))) is not None]
    return all(said) if said else None


def _dearest(offers: list[Prices]) -> Prices | None:
    """Each rate at its highest: no request can cost more."""
    if not offers:
        return None
    highest: dict[str, Decimal | None] = {}
    for name in Rates.model_fields:
        highest[name] = max(
            (rate for offer in offers if (rate := getattr(offer, name)) is not None), default=None
        )
    return Prices(**highest)


def _modalities(architecture: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return (
        values.texts(architecture.get("input_modalities")),
        values.texts(architecture.get("output_modalities")),
    )


def _object(entry: Any) -> Mapping[str, Any]:
    if not isinstance(entry, dict):
        raise ValueError("not an object")  # noqa: TRY004  # a broken entry is a matter of its value
    return entry


def _id(value: Any) -> str:
    found = values.text(value)
    if found is None:
        raise ValueError("no id")
    return found


def _first_text(said: Mapping[str, Any], *names: str) -> str | None:
    return next((found for name in names if (found := values.text(said.get(name)))), None)


_READERS: Final[Mapping[WireKind, Callable[[Any], ObservedModel | None]]] = {
    "openai": _openai,
    "anthropic": _anthropic,
    "google": _google,
}
