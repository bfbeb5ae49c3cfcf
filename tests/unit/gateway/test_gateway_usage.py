"""What an answer used: the shapes in which providers say it, and what is taken where they do not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synaxis_common.contracts.routing import Needs
from synaxis_common.contracts.usage import TokenUsage
from synaxis_gateway.wire import usage

SHAPES: dict[str, tuple[dict[str, Any], TokenUsage]] = {
    "OpenAI, with everything": (
        {
            "prompt_tokens": 2006,
            "completion_tokens": 300,
            "total_tokens": 2306,
            "prompt_tokens_details": {"cached_tokens": 1920, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 192,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 40,
                "rejected_prediction_tokens": 10,
            },
        },
        TokenUsage(input=2006, output=300, cache_read=1920, reasoning=192),
    ),
    "OpenAI, spoken": (
        {
            "prompt_tokens": 90,
            "completion_tokens": 210,
            "total_tokens": 300,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 71, "text_tokens": 19},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 168, "text_tokens": 42},
        },
        TokenUsage(input=90, output=210, input_audio=71, output_audio=168),
    ),
    "OpenAI, embeddings": ({"prompt_tokens": 8, "total_tokens": 8}, TokenUsage(input=8)),
    "Voyage, embeddings": ({"total_tokens": 10}, TokenUsage(input=10)),
    "DeepSeek": (
        {
            "prompt_tokens": 1000,
            "completion_tokens": 50,
            "total_tokens": 1050,
            "prompt_cache_hit_tokens": 896,
            "prompt_cache_miss_tokens": 104,
            "prompt_tokens_details": {"cached_tokens": 896},
            "completion_tokens_details": {"reasoning_tokens": 30},
        },
        TokenUsage(input=1000, output=50, cache_read=896, reasoning=30),
    ),
    "DeepSeek's older shape, with empty details": (
        {
            "prompt_tokens": 1000,
            "completion_tokens": 50,
            "prompt_cache_hit_tokens": 896,
            "prompt_tokens_details": {"cached_tokens": None},
        },
        TokenUsage(input=1000, output=50, cache_read=896),
    ),
    "Moonshot, cached outside of the details": (
        {"prompt_tokens": 500, "completion_tokens": 20, "total_tokens": 520, "cached_tokens": 256},
        TokenUsage(input=500, output=20, cache_read=256),
    ),
    "OpenRouter, with a cache write": (
        {
            "prompt_tokens": 10_339,
            "completion_tokens": 60,
            "total_tokens": 10_399,
            "prompt_tokens_details": {"cached_tokens": 318, "cache_write_tokens": 10_000},
            "completion_tokens_details": {"reasoning_tokens": 0},
            "cost": 0.0384,
            "cost_details": {"upstream_inference_cost": None},
        },
        TokenUsage(input=10_339, output=60, cache_read=318, cache_write=10_000),
    ),
    "Anthropic behind an adapter, cache in the input": (
        {
            "prompt_tokens": 10_339,
            "completion_tokens": 60,
            "total_tokens": 10_399,
            "cache_read_input_tokens": 318,
            "cache_creation_input_tokens": 10_000,
        },
        TokenUsage(input=10_339, output=60, cache_read=318, cache_write=10_000),
    ),
    "Anthropic behind an adapter, cache beside the input": (
        {
            "prompt_tokens": 21,
            "completion_tokens": 60,
            "total_tokens": 10_399,
            "cache_read_input_tokens": 318,
            "cache_creation_input_tokens": 10_000,
        },
        TokenUsage(input=10_339, output=60, cache_read=318, cache_write=10_000),
    ),
    "Alibaba, with a cache write in the details": (
        {
            "prompt_tokens": 1500,
            "completion_tokens": 9,
            "total_tokens": 1509,
            "prompt_tokens_details": {"cached_tokens": 0, "cache_creation_input_tokens": 1494},
        },
        TokenUsage(input=1500, output=9, cache_write=1494),
    ),
    "xAI, reasoning beside the completion": (
        {
            "prompt_tokens": 32,
            "completion_tokens": 9,
            "total_tokens": 135,
            "prompt_tokens_details": {
                "text_tokens": 32,
                "audio_tokens": 0,
                "image_tokens": 0,
                "cached_tokens": 6,
            },
            "completion_tokens_details": {"reasoning_tokens": 94, "audio_tokens": 0},
            "num_sources_used": 0,
        },
        TokenUsage(input=32, output=103, cache_read=6, reasoning=94),
    ),
    "xAI, much said after little thought": (
        {
            "prompt_tokens": 32,
            "completion_tokens": 900,
            "total_tokens": 1026,
            "completion_tokens_details": {"reasoning_tokens": 94},
        },
        TokenUsage(input=32, output=994, reasoning=94),
    ),
    "Perplexity, whose total leaves the reasoning out": (
        {
            "prompt_tokens": 33,
            "completion_tokens": 7163,
            "total_tokens": 7196,
            "citation_tokens": 20_016,
            "num_search_queries": 18,
            "reasoning_tokens": 95_305,
        },
        TokenUsage(input=33, output=102_468, reasoning=95_305),
    ),
    "no completion but a total": ({"prompt_tokens": 5, "total_tokens": 12}, TokenUsage(input=5, output=7)),
}


def reading(said: Any, window: int, needs: Needs | None = None) -> tuple[TokenUsage, bool]:
    found = usage.read(said, window, needs or Needs())
    assert found is not None
    return found.usage, found.estimated


@pytest.mark.parametrize("shape", SHAPES)
def test_usage_is_read_as_it_was_meant(shape: str) -> None:
    said, meant = SHAPES[shape]
    assert reading(said, 1_000_000) == (meant, False)


def test_every_answer_and_every_prompt_has_room_of_its_own() -> None:
    said = {"prompt_tokens": 1500, "completion_tokens": 2500}
    assert reading(said, 1000) == (TokenUsage(input=1000, output=1000), True)
    batch = Needs(operation="completions", prompts=2, n=2)
    assert reading(said, 1000, batch) == (TokenUsage(input=1500, output=2500), False)


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_an_estimate_is_a_token_for_four_bytes_rounded_up_and_says_so(tokens: int, said_bytes: int) -> None:
    reading = usage.estimate(tokens, said_bytes)
    assert reading.estimated
    assert reading.usage.input == tokens
    assert said_bytes <= reading.usage.output * 4 < said_bytes + 4


CALL = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "find", "arguments": '{"a":1}'}}


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({}, 0),
        ({"role": "assistant", "content": None}, 0),
        ({"content": "héllo"}, 6),
        ({"text": "abc", "index": 0, "finish_reason": "stop"}, 3),
        ({"refusal": "no"}, 2),
        ({"content": "ab", "tool_calls": [CALL, CALL]}, 2 + 2 * (4 + 7)),
        ({"tool_calls": [{"index": 0, "function": {"arguments": '"x'}}]}, 2),
        ({"tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]}, 1 + 7),
        ({"function_call": {"name": "f", "arguments": "{}"}}, 3),
        ({"content": "a", "reasoning_content": "bcd"}, 4),
        ({"content": "a", "reasoning": "bcd"}, 4),
        ({"reasoning": "bcd", "reasoning_content": "bcd"}, 3),
        ({"content": [{"type": "text", "text": "a"}]}, len('[{"type":"text","text":"a"}]')),
        ({"audio": {"id": "a", "data": "x" * 64_000, "transcript": "hey"}}, 80 + 3),
        ({"tool_calls": "none"}, 0),
        ({"tool_calls": [None, 5]}, 1),
    ],
)
def test_all_that_a_model_has_to_write_counts_as_output(message: dict[str, Any], said: int) -> None:
    assert usage.bytes_said(message) == said


def test_reasoning_that_is_said_in_two_fields_counts_once() -> None:
    details = [{"type": "reasoning.text", "text": "bcd"}]
    once = usage.bytes_said({"reasoning_details": details})
    assert usage.bytes_said({"reasoning": "bcd", "reasoning_details": details}) == once


def test_a_second_of_speech_counts_as_twenty_tokens() -> None:
    second = "x" * (24_000 * 2 * 4 // 3)
    said = usage.bytes_said({"audio": {"data": second}})
    assert usage.estimate(0, said).usage.output == 20
