"""What each provider answers to `GET /models`, in its own way of writing."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synaxis_common.contracts.catalog import Capabilities, ModelFacts, Prices
from synaxis_common.contracts.observation import ObservedModel, WireKind
from synaxis_common.exact_json import parse
from synaxis_discovery.dialects import NotAModelList, Page, merged, read_page
from synaxis_discovery.values import per_mtok


def read(document: Any, kind: WireKind = "openai") -> Page:
    """A page as it is read from JSON text."""
    return read_page(kind, parse(json.dumps(document).encode()))


def one(document: Any, kind: WireKind = "openai") -> ObservedModel:
    page = read(document, kind)
    assert (len(page.models), page.skipped) == (1, 0)
    return page.models[0]


def listed(*entries: Any) -> dict[str, Any]:
    return {"object": "list", "data": [*entries]}


NVIDIA = {"id": "google/gemma-3-27b-it", "object": "model", "created": 735790403, "owned_by": "google"}


def test_openai_s_bare_list_gives_ids_and_nothing_else() -> None:
    page = read(listed(NVIDIA, {"id": "nvidia/embed-qa-4", "object": "model"}))
    assert page.models == (
        ObservedModel(provider_model_id="google/gemma-3-27b-it"),
        ObservedModel(provider_model_id="nvidia/embed-qa-4"),
    )


def test_nvidia_s_repetitions_are_one_model() -> None:
    assert one(listed(NVIDIA, NVIDIA, NVIDIA)).provider_model_id == "google/gemma-3-27b-it"


OPENROUTER = {
    "id": "anthropic/claude-sonnet-4.5",
    "canonical_slug": "anthropic/claude-4.5-sonnet-20250929",
    "name": "Anthropic: Claude Sonnet 4.5",
    "created": 1759161676,
    "description": "long",
    "context_length": 1_000_000,
    "architecture": {
        "modality": "text+image->text",
        "input_modalities": ["text", "image", "file"],
        "output_modalities": ["text"],
        "tokenizer": "Claude",
    },
    "pricing": {
        "prompt": "0.000003",
        "completion": "0.000015",
        "request": "0",
        "image": "0.0048",
        "web_search": "0.01",
        "internal_reasoning": "0",
        "input_cache_read": "0.0000003",
        "input_cache_write": "0.00000375",
    },
    "top_provider": {"context_length": 200_000, "max_completion_tokens": 64_000, "is_moderated": False},
    "per_request_limits": None,
    "supported_parameters": ["include_reasoning", "max_tokens", "reasoning", "temperature", "tools"],
}


def test_openrouter_s_prices_of_one_token_become_exact_prices_of_a_million() -> None:
    assert one(listed(OPENROUTER)).prices == Prices(
        input=Decimal(3), output=Decimal(15), cache_read=Decimal("0.3"), cache_write=Decimal("3.75")
    )


def test_openrouter_says_context_modalities_and_parameters() -> None:
    assert one(listed(OPENROUTER)).facts == ModelFacts(
        name="Anthropic: Claude Sonnet 4.5",
        context_window=200_000,
        max_output=64_000,
        input_modalities=("text", "image", "file"),
        output_modalities=("text",),
        capabilities=Capabilities(
            tools=True,
            vision=True,
            audio=False,
            pdf=True,
            reasoning=True,
            structured_output=False,
            temperature=True,
        ),
    )


def test_openrouter_s_fee_for_a_request_is_in_dollars() -> None:
    pricing = {"prompt": "0.000001", "completion": "0.000001", "request": "0.005"}
    prices = one(listed({"id": "perplexity/sonar", "pricing": pricing})).prices
    assert prices is not None
    assert prices.per_request == Decimal("0.005")


def test_openrouter_s_variable_price_is_unknown() -> None:
    assert (
        one(listed({"id": "openrouter/auto", "pricing": {"prompt": "-1", "completion": "-1"}})).prices is None
    )


def test_openrouter_s_free_models_cost_nothing() -> None:
    free = one(listed({"id": "x:free", "pricing": {"prompt": "0", "completion": "0", "request": "0"}}))
    assert free.prices == Prices(input=Decimal(0), output=Decimal(0))


HUGGINGFACE = {
    "id": "deepseek-ai/DeepSeek-V3.2",
    "object": "model",
    "created": 1764652800,
    "owned_by": "deepseek-ai",
    "architecture": {"input_modalities": ["text"], "output_modalities": ["text"]},
    "providers": [
        {
            "provider": "novita",
            "status": "live",
            "context_length": 163_840,
            "pricing": {"input": 0.269, "output": 0.4},
            "supports_tools": True,
            "supports_structured_output": False,
        },
        {
            "provider": "fireworks-ai",
            "status": "live",
            "context_length": 131_072,
            "pricing": {"input": 0.2, "output": 1.68},
            "supports_tools": True,
        },
        {
            "provider": "slow",
            "status": "staging",
            "context_length": 1,
            "pricing": {"input": 90, "output": 90},
        },
        {"provider": "silent", "status": "live"},
    ],
}


def test_huggingface_s_router_promises_only_what_every_live_provider_keeps() -> None:
    model = one(listed(HUGGINGFACE))
    assert model.prices == Prices(input=Decimal("0.269"), output=Decimal("1.68"))
    assert model.facts.context_window == 131_072
    assert (model.facts.capabilities.tools, model.facts.capabilities.structured_output) == (True, False)


def test_huggingface_s_model_without_a_live_provider_is_out_of_service() -> None:
    gone = {**HUGGINGFACE, "providers": [{"provider": "novita", "status": "error"}]}
    assert read(listed(gone)) == Page(())


def test_together_s_list_has_no_object_around_it_and_prices_of_a_million() -> None:
    model = one(
        [
            {
                "id": "meta-llama/Llama-3.3-70B-Instruct-Turbo",
                "object": "model",
                "created": 0,
                "type": "chat",
                "running": False,
                "display_name": "Meta Llama 3.3 70B Instruct Turbo",
                "organization": "Meta",
                "context_length": 131_072,
                "config": {"chat_template": "…", "stop": []},
                "pricing": {"hourly": 0, "input": 0.88, "output": 0.88, "base": 0, "finetune": 0},
            }
        ]
    )
    assert model.prices == Prices(input=Decimal("0.88"), output=Decimal("0.88"))
    assert (model.facts.name, model.facts.context_window) == ("Meta Llama 3.3 70B Instruct Turbo", 131_072)


def test_vercel_s_prices_are_of_one_token_although_named_like_together_s() -> None:
    pricing = {"input": "0.00000025", "output": "0.000002", "input_cache_read": "0.000000025"}
    model = one(
        listed(
            {"id": "openai/gpt-5-mini", "context_window": 400_000, "max_tokens": 128_000, "pricing": pricing}
        )
    )
    assert model.prices == Prices(input=Decimal("0.25"), output=Decimal(2), cache_read=Decimal("0.025"))
    assert (model.facts.context_window, model.facts.max_output) == (400_000, 128_000)


def test_deepinfra_keeps_what_it_says_in_metadata() -> None:
    pricing = {"input_tokens": 0.27, "output_tokens": 0.9, "cache_read_tokens": 0.135}
    metadata = {"context_length": 163_840, "max_tokens": 163_840, "pricing": pricing, "tags": []}
    model = one(listed({"id": "deepseek-ai/DeepSeek-V3", "object": "model", "metadata": metadata}))
    assert model.prices == Prices(input=Decimal("0.27"), output=Decimal("0.9"), cache_read=Decimal("0.135"))
    assert model.facts.context_window == 163_840


GROQ = {
    "id": "llama-3.3-70b-versatile",
    "object": "model",
    "created": 1733447754,
    "owned_by": "Meta",
    "active": True,
    "context_window": 131_072,
    "public_apps": None,
    "max_completion_tokens": 32_768,
}


def test_groq_says_its_limits_and_which_models_are_out_of_service() -> None:
    model = one(listed(GROQ, {**GROQ, "id": "old", "active": False}))
    assert (model.facts.context_window, model.facts.max_output) == (131_072, 32_768)


def test_mistral_says_context_capabilities_and_what_is_going_away() -> None:
    entry = {
        "id": "mistral-small-2409",
        "object": "model",
        "capabilities": {"completion_chat": True, "function_calling": True, "vision": False},
        "name": "mistral-small-2409",
        "max_context_length": 32_768,
        "aliases": ["mistral-small-latest"],
        "deprecation": "2026-12-01T00:00:00Z",
    }
    facts = one(listed(entry)).facts
    assert (facts.context_window, facts.status) == (32_768, "deprecated")
    assert (facts.capabilities.tools, facts.capabilities.vision) == (True, False)


def test_vllm_says_its_longest_context() -> None:
    entry = {
        "id": "qwen3",
        "object": "model",
        "owned_by": "vllm",
        "root": "Qwen/Qwen3",
        "max_model_len": 40_960,
    }
    assert one(listed(entry)).facts.context_window == 40_960


def test_anthropic_s_pages_name_the_next_one() -> None:
    entry = {
        "type": "model",
        "id": "claude-opus-4-6",
        "display_name": "Claude Opus 4.6",
        "created_at": "2026-02-04T00:00:00Z",
        "max_input_tokens": 200_000,
        "max_tokens": 128_000,
        "capabilities": {"image_input": {"supported": True}, "thinking": {"supported": True, "types": {}}},
    }
    page = read(
        {"data": [entry], "has_more": True, "first_id": "x", "last_id": "claude-opus-4-6"}, "anthropic"
    )
    assert page.next_page == "claude-opus-4-6"
    facts = page.models[0].facts
    assert (facts.name, facts.context_window, facts.max_output) == ("Claude Opus 4.6", 200_000, 128_000)
    assert (facts.capabilities.vision, facts.capabilities.reasoning) == (True, True)
    assert read({"data": [entry], "has_more": False, "last_id": "x"}, "anthropic").next_page is None


def test_google_s_pages_and_names_are_its_own() -> None:
    entry = {
        "name": "models/gemini-2.5-flash",
        "version": "001",
        "displayName": "Gemini 2.5 Flash",
        "inputTokenLimit": 1_048_576,
        "outputTokenLimit": 65_536,
        "supportedGenerationMethods": ["generateContent", "countTokens"],
        "thinking": True,
    }
    page = read({"models": [entry], "nextPageToken": "abc"}, "google")
    model = page.models[0]
    assert (page.next_page, model.provider_model_id) == ("abc", "gemini-2.5-flash")
    assert (model.facts.context_window, model.facts.max_output) == (1_048_576, 65_536)
    assert read({"models": [entry]}, "google").next_page is None
    assert read({}, "google") == Page(())


def test_a_list_of_plain_names_is_a_list_of_models() -> None:
    assert [model.provider_model_id for model in read(["a", "b"]).models] == ["a", "b"]


def test_an_empty_list_is_a_list() -> None:
    empty: list[Any] = [[], listed(), {"object": "list", "data": None}, {"models": []}]
    for document in empty:
        assert read(document) == Page(())


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"error": {"message": "no"}},
        {"data": {"models": []}},
        {"data": None},
        {"message": "ok", "status": 200},
        "models",
        5,
        None,
        [1, 2],
        listed({"model": "x"}, {"slug": "y"}),
    ],
)
def test_what_is_no_list_of_models_is_said_to_be_none(document: Any) -> None:
    with pytest.raises(NotAModelList):
        read(document)


@pytest.mark.parametrize(
    "broken",
    [
        None,
        7,
        [],
        {},
        {"id": None},
        {"id": ""},
        {"id": "  "},
        {"id": 5},
        {"id": "a\x00b"},
        {"id": "\ud800"},
        {"id": "a\nb"},
        {"id": "x" * 301},
        "",
    ],
)
def test_a_broken_entry_is_left_out_and_counted(broken: Any) -> None:
    page = read(listed({"id": "good"}, broken, {"id": " padded "}))
    assert [model.provider_model_id for model in page.models] == ["good", "padded"]
    assert page.skipped == 1


def test_odd_extras_spoil_only_themselves() -> None:
    entry = {
        "id": "m",
        "context_length": "huge",
        "pricing": [1],
        "architecture": "text",
        "top_provider": None,
        "capabilities": ["chat"],
        "supported_parameters": {"tools": True},
        "metadata": 3,
        "name": {"en": "M"},
        "deprecation": None,
    }
    assert one(listed(entry)) == ObservedModel(provider_model_id="m")


def test_a_repetition_fills_in_what_was_unknown_and_changes_nothing_else() -> None:
    bare = ObservedModel(provider_model_id="m", facts=ModelFacts(name="first"))
    prices = Prices(input=Decimal(1), output=Decimal(2))
    rich = ObservedModel(
        provider_model_id="m",
        facts=ModelFacts(name="second", context_window=10, capabilities=Capabilities(tools=True)),
        prices=prices,
    )
    (model,) = merged([bare, rich])
    assert (model.facts.name, model.facts.context_window, model.prices) == ("first", 10, prices)
    assert model.facts.capabilities.tools is True


@pytest.mark.parametrize(
    ("said", "price"),
    [
        ("0.0000015", "1.5"),
        ("1e-7", "0.1"),
        ("0.00000000123", "0.00123"),
        (Decimal("0.269"), "0.269"),
        (3, "3"),
        ("0", "0"),
        (0, "0"),
    ],
)
def test_a_price_is_exact(said: Any, price: str) -> None:
    assert per_mtok(said) == Decimal(price)


@pytest.mark.parametrize(
    "said",
    [
        None,
        True,
        "free",
        "",
        "NaN",
        "-1",
        -1,
        "1.5",
        Decimal("0.0000015"),
        Decimal("1e-99999"),
        "1e-99999",
        "1" * 1000,
        Decimal("NaN"),
        [],
    ],
)
def test_a_price_that_is_none_or_is_in_another_unit_is_unknown(said: Any) -> None:
    assert per_mtok(said) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.decimals(allow_nan=True) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(
    ["id", "name", "pricing", "prompt", "completion", "input", "output", "providers", "capabilities"]
)
ENTRIES = st.lists(st.dictionaries(NAMES, JSON, max_size=6) | JSON, max_size=4)


@given(
    st.sampled_from(["openai", "anthropic", "google"]), JSON | ENTRIES, st.sampled_from(["data", "models"])
)
def test_whatever_a_provider_answers_is_a_list_or_said_to_be_none(
    kind: WireKind, document: Any, name: str
) -> None:
    for answer in (document, {name: document}):
        try:
            page = read_page(kind, answer)
        except NotAModelList:
            continue
        assert len({model.provider_model_id for model in page.models}) == len(page.models)
