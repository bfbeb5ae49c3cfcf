"""What an id is taken apart into."""

from __future__ import annotations

import pytest

from synaxis_registry.core.identity.reading import read

SPELLINGS = [
    ("claude-opus-4.1", "claude-opus-4-1"),
    ("claude-opus-4.1", "anthropic--claude-4.1-opus"),
    ("claude-opus-4.1", "us.anthropic.claude-opus-4-1-v1:0"),
    ("llama-3.1-8b-instruct", "accounts/fireworks/models/llama-v3p1-8b-instruct"),
    ("llama-3.1-8b-instruct", "@cf/meta/llama-3.1-8b-instruct-fp8"),
    ("llama-3.1-8b-instruct", "meta.llama3-1-8b-instruct-v1:0"),
    ("glm-5.1", "zai-org/GLM-5.1-FP8"),
    ("glm-5.1", "z-ai-glm-5-1"),
    ("glm-5.1", "TEE/glm-5p1"),
    ("deepseek-r1", "us.deepseek.r1-v1:0"),
    ("pixtral-large", "mistral.pixtral-large"),
    ("gpt-oss-120b", "openai.gpt-oss-120b-1:0"),
    ("gemma-3-12b", "gemma3:12b"),
    ("nemotron-3-super-120b-a12b", "hf:nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-NVFP4"),
    ("gemini-3-flash-preview", "gemini-3.0-flash-preview"),
    ("mistral-7b-instruct-v0.3", "mistralai/Mistral-7B-Instruct-v03"),
    ("deepseek-v3.2", "deepseek-3.2-maas"),
    ("gemma-3-27b-it", "gemma-3-27b-instruct"),
]


@pytest.mark.parametrize(("one", "other"), SPELLINGS)
def test_spellings_of_one_model_have_the_same_key(one: str, other: str) -> None:
    assert read(one).key == read(other).key


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("qwen3-1.7b", "qwen3.1-7b"),
        ("qwen3-0.6b", "qwen3-6b"),
        ("glm-4.5", "glm-4.5v"),
        ("command-r", "command-r+"),
        ("gemma-4-e2b-it", "gemma-4-e4b-it"),
        ("mixtral-8x7b", "mixtral-8x22b"),
        ("gpt-4o-mini", "gpt-4"),
        ("grok-4.20-reasoning", "grok-4.20-non-reasoning"),
        ("claude-opus-4-6", "claude-opus-4-6-thinking"),
    ],
)
def test_different_models_have_different_keys(one: str, other: str) -> None:
    assert read(one).key != read(other).key


@pytest.mark.parametrize(
    ("text", "date"),
    [
        ("claude-opus-4-1-20250805", "2025-08-05"),
        ("claude-haiku-4-5@20251001", "2025-10-01"),
        ("gpt-4o-2024-08-06", "2024-08-06"),
        ("command-r-08-2024", "2024-08"),
        ("mistral-large-2512", "2025-12"),
        ("seed-1-6-250615", "2025-06-15"),
        ("deepseek-r1-0528", "05-28"),
        ("gemini-2.5-pro-preview-05-06", "05-06"),
        ("grok-4.20-reasoning", None),
        ("qwen3-235b-a22b", None),
        ("gpt-4.1", None),
    ],
)
def test_a_date_is_told_from_a_version(text: str, date: str | None) -> None:
    assert read(text).date == date


def test_attributes_are_kept_apart_from_the_model() -> None:
    found = read("us.anthropic.claude-opus-4-1-20250805-v1:0").attributes
    assert (found.region, found.vendor_spelling, found.date) == ("us", "anthropic", "2025-08-05")
    found = read("moonshotai/Kimi-K2.6-TEE").attributes
    assert (found.vendor_spelling, found.variants) == ("moonshotai", ("tee",))
    assert read("zai-org/GLM-5.1-FP8").attributes.quantization == "fp8"
    assert read("gemini-flash-latest").attributes.is_latest


def test_a_name_for_people_is_read_like_an_id() -> None:
    name = read("NVIDIA: Nemotron 3 Super 120B A12B (free)", is_name=True)
    assert name.key == read("nemotron-3-super-120b-a12b").key
    assert read("Claude Opus 4.8 (AU)", is_name=True).key == read("claude-opus-4-8").key
