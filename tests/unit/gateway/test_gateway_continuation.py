"""Going on with a partial answer at another candidate: who can, when not, and how the stream looks."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synaxis_common.contracts.routing import Candidate
from synaxis_common.contracts.usage import TokenUsage
from synaxis_gateway.dispatch import continuation
from synaxis_gateway.dispatch.continuation import Continuation
from synaxis_gateway.wire import openai_request
from synaxis_gateway.wire.joined_stream import MAX_TEXT_BYTES, Joined, Transcript
from synaxis_gateway.wire.openai_request import OpenAIRequest

SENT = "The capital of France is"
DONE = b"data: [DONE]\n\n"


def ask(**fields: Any) -> OpenAIRequest:
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    body = {"model": "m", "stream": True, "messages": messages, **fields}
    return openai_request.parse(json.dumps(body).encode(), "chat")


def candidate(provider: str, model: str = "m", base_url: str = "https://x.example/v1") -> Candidate:
    return Candidate(
        provider_id=provider,
        provider_model_id=model,
        global_model_id="m",
        base_url=base_url,
        kind="openai",
    )


VLLM = candidate("vllm")
DEEPSEEK = candidate("deepseek", "deepseek-chat", "https://api.deepseek.com/v1")
MISTRAL = candidate("mistral", "mistral-large-latest")
CLAUDE = candidate("openrouter", "anthropic/claude-sonnet-4.5")


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **fields: Any) -> bytes:
    choice = {"index": 0, "delta": delta or {}, "finish_reason": finish}
    frame = {"id": "second", "created": 2, "model": "two", "object": "chat.completion.chunk"}
    return b"data: " + json.dumps({**frame, "choices": [choice], **fields}).encode() + b"\n\n"


def first(**fields: Any) -> bytes:
    return chunk(id="first", created=1, model="one", **fields)


def sent(*texts: str) -> Transcript:
    transcript = Transcript()
    transcript.take(first(delta={"role": "assistant", "content": ""}))
    for text in texts or (SENT,):
        transcript.take(first(delta={"content": text}))
    return transcript


def asked(who: Candidate, transcript: Transcript | None = None, **fields: Any) -> Continuation:
    found = continuation.request(ask(**fields), transcript or sent(), who)
    assert found is not None
    return found


def body(found: Continuation) -> Any:
    return json.loads(found.ask.upstream_body(found.candidate.provider_model_id))


def joined(transcript: Transcript, *pieces: bytes, **options: Any) -> tuple[list[Any], str]:
    """The chunks that the client gets, and the text in them."""
    joiner = Joined(transcript, ["a", "b"], TokenUsage(input=10, output=6), **options)
    out = b"".join(joiner.take(piece) for piece in pieces)
    chunks = [json.loads(part[6:]) for part in out.split(b"\n\n") if part.startswith(b"data: {")]
    text = "".join(c["delta"].get("content", "") for each in chunks for c in each["choices"])
    return chunks, text


@pytest.mark.parametrize(
    ("who", "in_message", "in_body", "base_url"),
    [
        (DEEPSEEK, {"prefix": True}, {}, "https://api.deepseek.com/beta"),
        (MISTRAL, {"prefix": True}, {}, MISTRAL.base_url),
        (CLAUDE, {}, {}, CLAUDE.base_url),
        (VLLM, {}, {"continue_final_message": True, "add_generation_prompt": False}, VLLM.base_url),
    ],
    ids=lambda value: value.provider_id if isinstance(value, Candidate) else "",
)
def test_each_is_told_in_its_own_way_to_go_on(
    who: Candidate, in_message: dict[str, Any], in_body: dict[str, Any], base_url: str
) -> None:
    found = asked(who, temperature=0.5)
    upstream = body(found)
    assert upstream["messages"][-1] == {"role": "assistant", "content": SENT, **in_message}
    assert upstream["messages"][:-1] == ask().body.values["messages"]
    assert upstream["model"] == who.provider_model_id
    assert upstream["stream_options"] == {"include_usage": True}
    assert upstream["temperature"] == 0.5
    assert {name: upstream[name] for name in in_body} == in_body
    assert found.candidate.base_url == base_url


@pytest.mark.parametrize(
    "who",
    [
        candidate("openai", "gpt-4o"),
        candidate("groq", "llama"),
        candidate("deepseek", "deepseek-reasoner"),
        candidate("mistral", "magistral-medium"),
        candidate("openrouter", "openai/gpt-4o"),
        candidate("openrouter", "anthropic/claude-opus-4.6"),
        candidate("openrouter", "anthropic/claude-sonnet-5"),
        candidate("openrouter", "anthropic/claude-3.7-sonnet:thinking"),
        VLLM.model_copy(update={"kind": "anthropic"}),
    ],
    ids=lambda who: f"{who.provider_id}/{who.provider_model_id}",
)
def test_who_is_not_known_to_go_on_is_not_asked(who: Candidate) -> None:
    assert continuation.way(who) is None
    assert continuation.request(ask(), sent(), who) is None


@pytest.mark.parametrize(
    "model",
    ["claude-3-haiku", "claude-3.5-sonnet", "claude-3.7-sonnet:beta", "claude-opus-4", "claude-haiku-4.5"],
)
def test_claudes_that_take_a_prefill_are_asked(model: str) -> None:
    assert continuation.way(candidate("openrouter", f"anthropic/{model}")) is not None


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 2},
        {"logprobs": True},
        {"logprobs": True, "top_logprobs": 2},
        {"response_format": {"type": "json_schema", "json_schema": {}}},
        {"response_format": {"type": "json_object"}},
        {"reasoning_effort": "high"},
        {"thinking": {"type": "enabled"}},
        {"audio": {"voice": "x"}},
        {"stream": False},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {"max_tokens": 6},
    ],
    ids=str,
)
def test_a_request_that_cannot_be_continued_is_not(fields: dict[str, Any]) -> None:
    assert continuation.request(ask(**fields), sent(), VLLM) is None


@pytest.mark.parametrize(
    "fields",
    [{"response_format": {"type": "text"}}, {"logprobs": False}, {"n": 1}, {"tools": [{"type": "function"}]}],
    ids=str,
)
def test_fields_that_do_not_matter_do_not(fields: dict[str, Any]) -> None:
    assert continuation.request(ask(**fields), sent(), VLLM) is not None


@pytest.mark.parametrize(
    "event",
    [
        first(delta={"tool_calls": [{"index": 0, "function": {"name": "f"}}]}),
        first(delta={"function_call": {"name": "f"}}),
        first(delta={"reasoning_content": "hm"}),
        first(delta={"reasoning": "hm"}),
        first(delta={"refusal": "no"}),
        first(delta={"audio": {"data": "x"}}),
        first(delta={"content": [{"type": "text", "text": "x"}]}),
        first(finish="stop"),
        chunk(choices=[{"index": 1, "delta": {"content": "x"}}]),
        chunk(choices=[{"index": 0, "delta": {"content": "x"}, "logprobs": {"content": []}}]),
        first(delta={"content": "x" * (MAX_TEXT_BYTES + 1)}),
    ],
)
def test_an_answer_that_is_more_than_text_is_not_continued(event: bytes) -> None:
    transcript = sent()
    transcript.take(event)
    assert transcript.objection is not None
    assert continuation.request(ask(), transcript, VLLM) is None


def test_nothing_but_white_space_or_too_little_to_recognise_is_not_continued() -> None:
    assert continuation.request(ask(), sent(" \n"), CLAUDE) is None
    assert continuation.request(ask(), sent("ha"), MISTRAL) is None


def test_what_the_client_sent_stays_byte_for_byte() -> None:
    messages = b'[ {"role":"user", "content":"\\u00e9",  "odd": 1.50}\n]'
    request = openai_request.parse(b'{"model":"m","stream":true,"x":2.50,"messages":%s}' % messages, "chat")
    found = continuation.request(request, sent(), VLLM)
    assert found is not None
    upstream = found.ask.upstream_body("m")
    assert b'[ {"role":"user", "content":"\\u00e9",  "odd": 1.50}\n,{"role":"assistant"' in upstream
    assert b'"x":2.50' in upstream


def test_what_was_said_counts_against_the_bound_of_the_answer_and_as_input() -> None:
    found = asked(VLLM, max_tokens=100, max_completion_tokens=50)
    assert (body(found)["max_tokens"], body(found)["max_completion_tokens"]) == (94, 44)
    assert found.ask.measures.input_tokens == ask().measures.input_tokens + 6


def test_white_space_at_the_end_is_held_back_where_it_is_not_taken() -> None:
    found = asked(CLAUDE, sent(SENT, " "))
    assert body(found)["messages"][-1]["content"] == SENT
    transcript = sent(SENT, " ")
    for begin in ("Paris", " Paris"):
        _, text = joined(transcript, chunk({"content": begin}), held_back=found.held_back)
        assert text == "Paris"


def test_the_second_part_looks_as_if_the_first_had_gone_on() -> None:
    transcript = sent()
    chunks, text = joined(
        transcript,
        chunk({"role": "assistant", "content": ""}),
        b": a comment\n\n" + chunk({"role": "assistant", "content": " Paris"}),
        chunk({"content": "."}),
        chunk(finish="stop"),
        chunk(choices=[], usage={"prompt_tokens": 20, "completion_tokens": 3, "total_tokens": 23, "x": 1}),
        DONE,
    )
    assert text == " Paris."
    assert transcript.text == SENT + " Paris."
    assert {(each["id"], each["created"], each["model"]) for each in chunks} == {("first", 1, "one")}
    assert not any("role" in choice["delta"] for each in chunks for choice in each["choices"])
    assert len(chunks) == 4, "the second role chunk is left out"
    mark = {"continued": True, "providers": ["a", "b"]}
    assert [each.get("synaxis") for each in chunks] == [None, None, mark, mark]
    assert chunks[2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[3]["usage"] == {"prompt_tokens": 30, "completion_tokens": 9, "total_tokens": 39, "x": 1}


def test_comments_and_done_pass_as_they_are() -> None:
    joiner = Joined(sent(), ["a"], TokenUsage())
    assert joiner.take(b": hi\n\n" + DONE) == b": hi\n\n" + DONE


@given(st.data())
def test_a_provider_that_repeats_what_it_was_given_is_heard_from_there_on(data: st.DataObject) -> None:
    repeats = data.draw(st.booleans())
    said = (SENT if repeats else "") + " Paris."
    cuts = sorted(data.draw(st.lists(st.integers(0, len(said)), max_size=6)))
    parts = [said[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(said)], strict=True)]
    pieces = [chunk({"content": part}) for part in parts]
    _, text = joined(sent(), *pieces, chunk(finish="stop"), may_repeat=True)
    assert text == " Paris."


def test_a_beginning_that_only_looks_like_a_repetition_is_not_lost() -> None:
    _, text = joined(sent(), chunk({"content": "The cap"}), chunk(finish="stop"), may_repeat=True)
    assert text == "The cap"
    _, text = joined(sent(), chunk({"content": "The cap"}), chunk({"content": " fits."}), may_repeat=True)
    assert text == "The cap fits."


def test_a_second_break_is_gone_on_from_as_well() -> None:
    transcript = sent()
    joined(transcript, chunk({"content": " Par"}))
    again = continuation.request(ask(), transcript, DEEPSEEK)
    assert again is not None
    assert body(again)["messages"][-1]["content"] == SENT + " Par"
    assert len(body(again)["messages"]) == 2


def test_usage_that_makes_no_sense_does_no_harm() -> None:
    for usage in ({"prompt_tokens": -5, "completion_tokens": "x"}, {"prompt_tokens": True}):
        chunks, _ = joined(sent(), chunk(choices=[], usage=usage))
        assert chunks[0]["usage"] | {"prompt_tokens": 10, "total_tokens": 16} == chunks[0]["usage"]
