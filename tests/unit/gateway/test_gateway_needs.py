"""What is read out of a request for its price: nothing that a provider may bill stays uncounted."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synaxis_common.contracts.routing import Needs
from synaxis_common.pricing import INPUT_BOUND_FACTOR
from synaxis_gateway.wire import openai_request
from synaxis_gateway.wire.openai_request import (
    MAX_CHOICES,
    MAX_PROMPTS,
    TOKENS_PER_FILE,
    TOKENS_PER_IMAGE,
    TOKENS_PER_MESSAGE,
    BadRequest,
    Endpoint,
)


def needs(endpoint: Endpoint = "chat", **fields: Any) -> Needs:
    subject = {"chat": {"messages": [{"role": "user", "content": ""}]}}.get(endpoint, {})
    body = json.dumps({"model": "m", **subject, **fields}, ensure_ascii=False).encode()
    return openai_request.parse(body, endpoint).measures.needs()


def said(*parts: Any, **fields: Any) -> Needs:
    return needs(messages=[{"role": "user", "content": list(parts), **fields}])


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)


@given(st.lists(text, min_size=1, max_size=5), text, text)
def test_no_byte_of_a_conversation_is_left_out_of_the_bound(
    contents: list[str], name: str, arguments: str
) -> None:
    messages = [{"role": "user", "content": content, "name": name} for content in contents]
    call = {"id": "c", "type": "function", "function": {"name": name, "arguments": arguments}}
    found = needs(messages=[*messages, {"role": "assistant", "content": None, "tool_calls": [call]}])
    written = sum(len((content + name).encode()) for content in contents) + len((name + arguments).encode())
    assert found.input_tokens * INPUT_BOUND_FACTOR >= written


@pytest.mark.parametrize("size", range(1, 9))
def test_a_part_of_a_token_is_a_token(size: int) -> None:
    assert needs("completions", prompt="x" * size).input_tokens == -(-size // 4)


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function", "function": {"name": "f", "description": "d" * 400}}]},
        {"functions": [{"name": "f", "description": "d" * 400}]},
        {"response_format": {"type": "json_schema", "json_schema": {"description": "d" * 400}}},
        {"something_new": {"text": "d" * 400}},
        {"instructions": "d" * 400},
    ],
)
def test_what_a_model_may_read_counts_wherever_it_stands(fields: dict[str, Any]) -> None:
    assert needs(**fields).input_tokens >= TOKENS_PER_MESSAGE + 100


@pytest.mark.parametrize(
    "fields",
    [
        {"prediction": {"type": "content", "content": "d" * 400}},
        {"logit_bias": {str(token): 1 for token in range(100)}},
        {"metadata": {"a": "d" * 400}},
        {"user": "d" * 400},
        {"provider": {"order": ["d" * 100]}},
        {"temperature": 0.5, "top_p": 1, "seed": 5},
    ],
)
def test_what_no_model_reads_does_not_count(fields: dict[str, Any]) -> None:
    assert needs(**fields).input_tokens == TOKENS_PER_MESSAGE


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 4000}}
AUDIO = {"type": "input_audio", "input_audio": {"data": "A" * 4000, "format": "wav"}}
FILE = {"type": "file", "file": {"file_data": "A" * 4000}}
VIDEO = {"type": "video_url", "video_url": {"url": "https://example.com/a.mp4"}}


def test_images_recordings_and_files_are_counted_and_not_read_as_text() -> None:
    found = said(IMAGE, IMAGE, AUDIO, FILE, FILE, FILE)
    assert (found.images, found.audio_parts, found.files) == (2, 1, 3)
    assert (found.vision, found.audio, found.pdf) == (True, True, True)
    assert found.input_tokens == TOKENS_PER_MESSAGE + 2 * TOKENS_PER_IMAGE + 4 * TOKENS_PER_FILE


def test_a_film_is_priced_like_a_file_but_needs_nobody_who_reads_files() -> None:
    found = said(VIDEO)
    assert (found.files, found.pdf) == (1, False)


def test_an_earlier_spoken_answer_is_heard_again() -> None:
    spoken = {"role": "assistant", "content": None, "audio": {"id": "audio_1"}}
    found = needs(messages=[spoken, {"role": "user", "content": "and?"}])
    assert (found.audio, found.audio_parts) == (True, 1)


def test_images_that_a_model_made_are_seen_again() -> None:
    assert needs(messages=[{"role": "assistant", "content": "here", "images": [IMAGE]}]).images == 1


@pytest.mark.parametrize("kind", ["thinking", ["text"], {}, 5])
def test_a_part_of_a_kind_that_we_do_not_know_counts_by_its_bytes(kind: Any) -> None:
    found = said({"type": kind, "text": "d", "thinking": "d" * 400})
    assert found.input_tokens >= TOKENS_PER_MESSAGE + 100


def test_an_image_to_embed_is_not_read_as_text() -> None:
    found = needs("embeddings", input=[{"image": "A" * 40_000}, {"text": "abcd"}])
    assert (found.images, found.input_tokens) == (1, TOKENS_PER_IMAGE + 1)


@pytest.mark.parametrize(
    ("endpoint", "fields", "n", "prompts"),
    [
        ("chat", {}, 1, 1),
        ("chat", {"n": None}, 1, 1),
        ("chat", {"n": 4}, 4, 1),
        ("completions", {"prompt": "a"}, 1, 1),
        ("completions", {"prompt": "a", "n": 2, "best_of": 5}, 5, 1),
        ("completions", {"prompt": ["a", "b", "c"], "n": 2}, 2, 3),
        ("completions", {"prompt": [1, 2, 3]}, 1, 1),
        ("completions", {"prompt": [[1, 2, 3], [4]]}, 1, 2),
        ("embeddings", {"input": ["a", "b"]}, 1, 2),
        ("embeddings", {"input": [{"type": "image_url", "image_url": "x"}, {"text": "b"}]}, 1, 2),
    ],
)
def test_every_answer_that_is_made_is_counted(
    endpoint: Endpoint, fields: dict[str, Any], n: int, prompts: int
) -> None:
    found = needs(endpoint, **fields)
    assert (found.n, found.prompts) == (n, prompts)


@pytest.mark.parametrize(
    ("endpoint", "fields", "param"),
    [
        ("chat", {"n": 0}, "n"),
        ("chat", {"n": MAX_CHOICES + 1}, "n"),
        ("chat", {"n": True}, "n"),
        ("completions", {"prompt": "a", "best_of": MAX_CHOICES + 1}, "best_of"),
        ("embeddings", {"input": ["a"] * (MAX_PROMPTS + 1)}, "input"),
    ],
)
def test_more_answers_than_anybody_gives_are_refused(
    endpoint: Endpoint, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(BadRequest) as refused:
        needs(endpoint, **fields)
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("fields", "most"),
    [
        ({}, None),
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 7}, 7),
        ({"max_completion_tokens": 7, "max_tokens": 5}, 7),
        ({"max_completion_tokens": 5, "max_tokens": 7}, 7),
    ],
)
def test_the_longest_answer_is_the_larger_of_two_bounds(fields: dict[str, Any], most: int | None) -> None:
    assert needs(**fields).max_output_tokens == most
