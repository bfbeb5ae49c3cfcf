"""Which global model an offering is, and why."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from synaxis_registry.core.identity import KnownModel, ModelFacts, Offering, Resolver, Rule


def known(key: str, **facts: Any) -> KnownModel:
    """A model that a catalog lists, by its key `vendor/model`."""
    vendor, _, tail = key.partition("/")
    slug = tail.lower().replace(".", "-")
    return KnownModel(slug, vendor, key, ModelFacts(**facts), frozenset({key}))


def offering(model_id: str, provider: str = "somebody", **facts: Any) -> Offering:
    return Offering(provider, model_id, ModelFacts(**facts))


OPUS = known(
    "anthropic/claude-opus-4-1",
    name="Claude Opus 4.1 (latest)",
    release_date="2025-08-05",
    open_weights=False,
)
OPUS_DATED = known(
    "anthropic/claude-opus-4-1-20250805",
    name="Claude Opus 4.1",
    release_date="2025-08-05",
    open_weights=False,
)
KIMI = known("moonshotai/kimi-k2.6", name="Kimi K2.6", release_date="2026-04-21", open_weights=True)
GLM = known("zhipuai/glm-5", name="GLM-5", release_date="2026-02-12", open_weights=True)
GLM_TURBO = known("zhipuai/glm-5-turbo", name="GLM-5-Turbo", release_date="2026-03-16", open_weights=False)
NEMOTRON = known(
    "nvidia/nemotron-3-super-120b-a12b",
    name="Nemotron 3 Super 120B A12B",
    release_date="2026-03-11",
    open_weights=True,
)
LLAMA = known(
    "meta/llama-3.3-70b-instruct", name="Llama-3.3-70B-Instruct", release_date="2024-12-06", open_weights=True
)
GPT_52 = known("openai/gpt-5.2", name="GPT-5.2", release_date="2025-12-11", open_weights=False)
FLASH_LITE = known("google/gemini-3.1-flash-lite", name="Gemini 3.1 Flash Lite", release_date="2026-05-07")
FLASH_LITE_PREVIEW = known(
    "google/gemini-3.1-flash-lite-preview", name="Gemini 3.1 Flash Lite Preview", release_date="2026-03-03"
)
GEMINI_PREVIEW = known("google/gemini-3-pro-preview", name="Gemini 3 Pro Preview", release_date="2025-11-18")
LARGE_3 = known(
    "mistral/mistral-large-2512", name="Mistral Large 3", release_date="2025-12-02", open_weights=True
)
DEVSTRAL = known("mistral/devstral-2512", name="Devstral 2", release_date="2025-12-09", open_weights=True)
R1 = known("deepseek/deepseek-r1", name="DeepSeek-R1", release_date="2025-01-20", open_weights=True)
REASONER = known("deepseek/deepseek-reasoner", name="DeepSeek Reasoner", release_date="2025-12-01")
WORLD = [
    *(OPUS, OPUS_DATED, KIMI, GLM, GLM_TURBO, NEMOTRON, LLAMA, GPT_52),
    *(FLASH_LITE, FLASH_LITE_PREVIEW, GEMINI_PREVIEW, LARGE_3, DEVSTRAL, R1, REASONER),
]


@pytest.fixture
def resolver() -> Resolver:
    return Resolver(WORLD)


@pytest.mark.parametrize(
    ("asked", "model", "rule"),
    [
        (offering("moonshotai/kimi-k2.6"), KIMI, Rule.SAME_ID),
        (offering("Kimi_K2-6"), KIMI, Rule.SAME_ID),
        (offering("moonshotai/Kimi-K2.6-TEE"), KIMI, Rule.SAME_MODEL),
        (offering("kimi-k2p6"), KIMI, Rule.SAME_MODEL),
        (offering("kimi-k2.6-fast", release_date="2026-05-01"), KIMI, Rule.VARIANT),
        (offering("zai-org/GLM-5-FP8"), GLM, Rule.SAME_MODEL),
        (offering("z-ai/glm-5-turbo"), GLM_TURBO, Rule.SAME_MODEL),
        (offering("eu.anthropic.claude-opus-4-1"), OPUS, Rule.SAME_MODEL),
        (offering("us.anthropic.claude-opus-4-1-20250805-v1:0"), OPUS_DATED, Rule.SAME_MODEL),
        (offering("mistral-large-3"), LARGE_3, Rule.SAME_MODEL),
        (offering("mistralai/mistral-large-3-675b-instruct-2512"), LARGE_3, Rule.PARTIAL),
        (offering("mistral-large-3:675b", release_date="2025-12-04"), LARGE_3, Rule.PARTIAL),
        (offering("mistral.devstral-2-123b", name="Devstral 2"), DEVSTRAL, Rule.PARTIAL),
        (offering("nemotron-3-super", release_date="2026-03-11"), NEMOTRON, Rule.PARTIAL),
        (offering("databricks-gpt-5-2", "databricks"), GPT_52, Rule.SPELLING),
        (offering("openai-gpt-52", name="GPT-5.2"), GPT_52, Rule.SPELLING),
        (offering("coding-glm-5", name="Coding GLM-5", release_date="2026-02-12"), GLM, Rule.SPELLING),
        (offering("k2p6", name="Kimi K2.6", release_date="2026-04-21"), KIMI, Rule.FULLER_NAME),
        (
            offering(
                "gemini-3-1-flash-lite", name="Gemini 3.1 Flash Lite Preview", release_date="2026-03-03"
            ),
            FLASH_LITE_PREVIEW,
            Rule.FULLER_NAME,
        ),
        (offering("gemini-3-pro", release_date="2025-11-18"), GEMINI_PREVIEW, Rule.PARTIAL),
        (offering("llama3-3-70b", release_date="2024-12-06"), LLAMA, Rule.PARTIAL),
    ],
    ids=lambda value: getattr(value, "provider_model_id", None),
)
def test_a_known_model_is_recognised(
    resolver: Resolver, asked: Offering, model: KnownModel, rule: Rule
) -> None:
    found = resolver.resolve(asked)
    assert (found.global_model_id, found.rule, found.is_new) == (model.id, rule, False)
    assert found.evidence
    assert 0 < found.confidence < 1


@pytest.mark.parametrize(
    "asked",
    [
        offering("nemotron-3-super"),
        offering("openai-gpt-52"),
        offering("coding-glm-5"),
        offering("tim-glm-5", name="TIM GLM 5", release_date="2026-02-12"),
        offering("gpt-5.2-instant", release_date="2025-12-11"),
        offering("gpt-5.2-mini", release_date="2025-12-11"),
        offering("deepseek-r1-distill-llama-70b", release_date="2025-01-20"),
        offering("deepseek-r1-8b", release_date="2025-01-20"),
        offering("devstral-2-24b", release_date="2025-12-09"),
        offering("mistral-large-3-675b-instruct"),
        offering("mistral-large-3-675b-instruct-2611"),
        offering("mistral-large-4-675b-instruct-2512"),
        offering("deepseek-r1-0528", release_date="2025-05-28"),
        offering("llama-3.3-8b-instruct", release_date="2024-12-06"),
        offering("kimi-k2.6:thinking", release_date="2026-04-21"),
        offering("gemini-3-pro", release_date="2026-06-18", name="Gemini 3 Pro"),
        offering("gemini-3-pro-image-preview", release_date="2025-11-18"),
        offering("kimi-k2.6-fast-9b", release_date="2026-04-21", name="Kimi K2.6 Fast 9B"),
    ],
    ids=lambda asked: asked.provider_model_id,
)
def test_without_enough_evidence_it_is_a_model_of_its_own(resolver: Resolver, asked: Offering) -> None:
    found = resolver.resolve(asked)
    assert found.is_new
    assert found.suggested is not None
    assert found.suggested.id == found.global_model_id
    assert found.global_model_id not in {model.id for model in WORLD}


def test_contradicting_evidence_vetoes_what_the_id_says(resolver: Resolver) -> None:
    found = resolver.resolve(
        offering("deepseek/deepseek-r1", "anyone", name="DeepSeek Reasoner", release_date="2025-12-01")
    )
    assert (found.rule, found.global_model_id) == (Rule.CONTRADICTED, "anyone-deepseek-r1")
    assert found.confidence < 0.3
    assert {one.global_model_id for one in found.runners_up} == {"deepseek-r1", "deepseek-reasoner"}
    assert all(one.reason for one in found.runners_up)


def test_what_is_contradicted_keeps_its_id_at_the_next_sync(resolver: Resolver) -> None:
    asked = offering("deepseek/deepseek-r1", "anyone", name="DeepSeek Reasoner", release_date="2025-12-01")
    first = resolver.resolve(asked)
    assert first.suggested is not None
    resolver.learn(first.suggested)
    again = resolver.resolve(asked)
    assert (again.global_model_id, again.rule, again.is_new) == (
        first.global_model_id,
        Rule.CONTRADICTED,
        False,
    )


def test_what_makes_speech_is_not_what_makes_text() -> None:
    text = known("google/gemini-9-flash", output_modalities=frozenset({"text"}))
    found = Resolver([text]).resolve(offering("gemini-9-flash:free", output_modalities=frozenset({"audio"})))
    assert found.is_new


def test_another_vendors_model_of_the_same_name_is_another_model() -> None:
    known_nova = known("amazon/nova-pro", name="Nova Pro")
    found = Resolver([known_nova]).resolve(offering("openai/nova-pro"))
    assert (found.is_new, found.global_model_id) == (True, "openai-nova-pro")
    assert Resolver([known_nova]).resolve(offering("amazon.nova-pro-v1:0")).global_model_id == "nova-pro"


def test_known_date_of_the_id_outweighs_a_catalogs_wrong_release() -> None:
    slip = replace(LARGE_3, facts=replace(LARGE_3.facts, release_date="2024-11-01"))
    asked = offering("mistral-large-3-675b-instruct-2512", release_date="2025-12-02")
    assert Resolver([slip]).resolve(asked).global_model_id == LARGE_3.id


@pytest.mark.parametrize(
    ("written", "model_id"),
    [
        ("xai/grok-9-fast-non-reasoning", "grok-9-fast-non-reasoning"),
        ("accounts/fireworks/models/acme-v3p1-1p7b-20260401", "acme-v3-1-1-7b-20260401"),
        ("acme/Gemmalike-4-12B-it-FP8", "gemmalike-4-12b-it"),
    ],
)
def test_a_new_model_is_called_what_people_write(written: str, model_id: str) -> None:
    assert Resolver([]).resolve(offering(written)).global_model_id == model_id


def test_a_pin_decides_before_everything() -> None:
    resolver = Resolver(WORLD, {("somebody", "kimi-k2.6"): "glm-5"})
    found = resolver.resolve(offering("kimi-k2.6"))
    assert (found.global_model_id, found.rule, found.confidence) == ("glm-5", Rule.PIN, 1.0)
    assert resolver.resolve(offering("kimi-k2.6", "another")).global_model_id == KIMI.id


def test_models_are_merged_by_an_alias() -> None:
    minted = Resolver(WORLD).resolve(offering("glm-5-special"))
    assert minted.is_new
    merged = replace(GLM, aliases=GLM.aliases | {minted.global_model_id})
    found = Resolver([merged, KIMI]).resolve(offering("zai-org/GLM-5-Special-FP8"))
    assert found.global_model_id == GLM.id


def test_what_was_suggested_is_known_once_it_is_learnt(resolver: Resolver) -> None:
    first = resolver.resolve(offering("brandnew-3-8b", release_date="2026-01-01"))
    assert first.suggested is not None
    resolver.learn(first.suggested)
    again = resolver.resolve(offering("acme/BrandNew-3-8B-AWQ", "other"))
    assert (again.global_model_id, again.is_new) == (first.global_model_id, False)
    assert again.attributes.quantization == "awq"


def test_a_slip_of_one_provider_does_not_keep_others_from_a_listed_model(resolver: Resolver) -> None:
    slip = resolver.resolve(offering("nemotron-3-super", release_date="2020-01-01"))
    assert slip.suggested is not None
    resolver.learn(slip.suggested)
    found = resolver.resolve(offering("nemotron-3-super", release_date="2026-03-11"))
    assert found.global_model_id == NEMOTRON.id


def test_a_model_learnt_again_replaces_itself(resolver: Resolver) -> None:
    resolver.learn(replace(KIMI, aliases=frozenset({"moonshot-best"})))
    assert resolver.resolve(offering("moonshot-best")).global_model_id == KIMI.id


def test_the_surer_rule_is_the_more_confident(resolver: Resolver) -> None:
    asked = [
        offering("kimi-k2.6"),
        offering("kimi-k2.6-fast", release_date="2026-04-21"),
        offering("nemotron-3-super", release_date="2026-03-11"),
        offering("deepseek-r1", name="DeepSeek Reasoner", release_date="2025-12-01"),
    ]
    confidences = [resolver.resolve(one).confidence for one in asked]
    assert confidences == sorted(confidences, reverse=True)
