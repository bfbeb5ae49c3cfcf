"""OpenAI's format: bodies that stay what they were, events, answers, usage."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synaxis_common.contracts.usage import TokenUsage
from synaxis_gateway.wire import openai_answer, openai_request, usage
from synaxis_gateway.wire.json_object import JsonObject, NotAnObject
from synaxis_gateway.wire.openai_stream import Meaning, StreamReader
from synaxis_gateway.wire.sse import Event, EventSplitter, EventTooLarge

ASK = b'{"model":"m","messages":[{"role":"user","content":"hi"}]'

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@given(st.dictionaries(NAMES, JSON, max_size=8), st.sampled_from([None, 1, "\t"]), st.booleans())
def test_any_object_is_read_and_written_back_with_the_same_meaning(
    fields: dict[str, Any], indent: Any, escaped: bool
) -> None:
    body = json.dumps(fields, indent=indent, ensure_ascii=escaped).encode()
    document = JsonObject.parse(body)
    assert document.values == fields
    assert json.loads(document.to_bytes()) == fields
    for name in fields:
        assert document.raw(name) in body


@given(st.dictionaries(NAMES, JSON, min_size=1, max_size=5), st.data())
def test_a_name_that_is_there_twice_is_refused_wherever_it_is(
    fields: dict[str, Any], data: st.DataObject
) -> None:
    members = [f"{json.dumps(name)}:{json.dumps(value)}" for name, value in fields.items()]
    name = data.draw(st.sampled_from(sorted(fields)))
    again = f"{json.dumps(name, ensure_ascii=data.draw(st.booleans()))}: {json.dumps(data.draw(JSON))}"
    members.insert(data.draw(st.integers(0, len(members))), again)
    with pytest.raises(NotAnObject, match="twice"):
        JsonObject.parse(("{" + ",".join(members) + "}").encode())


@pytest.mark.parametrize(
    "body", [b'{"a":1,"a":12}', b'{"a":12,"a":1}', b'{"a":1,"\\u0061":1}', b'{"a":[],"b":1,"a":[]}']
)
def test_names_that_differ_only_in_how_they_are_written_are_the_same(body: bytes) -> None:
    with pytest.raises(NotAnObject, match="twice"):
        JsonObject.parse(body)


@given(st.binary(max_size=60) | st.text('{}[]",:\\ntrue1e.-', max_size=30).map(str.encode))
def test_any_bytes_are_either_an_object_or_refused(body: bytes) -> None:
    try:
        document = JsonObject.parse(body)
    except NotAnObject:
        return
    assert document.values == json.loads(body)


def test_only_the_model_and_our_fields_change_in_what_a_provider_is_sent() -> None:
    ask = openai_request.parse(
        ASK + b',"x": 1.0 ,"provider":{"sort":"price"},"models":["b"],"y":{ }}', "chat"
    )
    assert ask.upstream_body("p/m\u00e9") == (
        b'{"model":"p/m\xc3\xa9","messages":[{"role":"user","content":"hi"}],"x":1.0,"y":{ }}'
    )


@pytest.mark.parametrize(
    ("options", "sent", "asked"),
    [
        (b"", {"include_usage": True}, False),
        (b',"stream_options":null', {"include_usage": True}, False),
        (b',"stream_options":{"a":1}', {"a": 1, "include_usage": True}, False),
        (b',"stream_options":{"include_usage":false}', {"include_usage": True}, False),
        (b',"stream_options":{"include_usage":true}', {"include_usage": True}, True),
    ],
)
def test_a_stream_always_asks_the_provider_for_its_usage(options: bytes, sent: Any, asked: bool) -> None:
    ask = openai_request.parse(ASK + b',"stream":true' + options + b"}", "chat")
    assert json.loads(ask.upstream_body("m"))["stream_options"] == sent
    assert ask.usage_asked is asked


def test_text_counts_by_its_bytes_and_images_by_a_constant() -> None:
    text = openai_request.parse(ASK.replace(b"hi", b"x" * 400) + b"}", "chat").measures.input_tokens
    assert text == 100 + openai_request.TOKENS_PER_MESSAGE
    prompts = openai_request.parse(b'{"model":"m","input":["abcd","efgh",[1,2,3]]}', "embeddings")
    assert prompts.measures.input_tokens == 5


STREAM = (
    b": hello\n\n"
    b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
    b'event: message\r\ndata: {"choices":[{"index":0,"delta":{"content":"\xc3\xa9"}}]}\r\n\r\n'
    b"data: a\ndata: b\n\n"
    b"id: 5\rdata:c\r\r"
    b"data: d\r\n\n"
    b"\n\n"
    b"data: [DONE]\n\n"
    b"data: no blank line"
)


def split(*pieces: bytes) -> list[Event]:
    splitter = EventSplitter()
    events = [event for piece in pieces for event in splitter.feed(piece)]
    return events + splitter.finish()


def test_a_stream_cut_at_every_byte_gives_the_same_events() -> None:
    whole = split(STREAM)
    assert [event.data for event in whole if event.data is not None][1:] == [
        '{"choices":[{"index":0,"delta":{"content":"é"}}]}'.encode(),
        b"a\nb",
        b"c",
        b"d",
        b"[DONE]",
        b"no blank line",
    ]
    for position in range(len(STREAM) + 1):
        assert split(STREAM[:position], STREAM[position:]) == whole, position
    assert split(*(STREAM[n : n + 1] for n in range(len(STREAM)))) == whole


@given(
    st.lists(st.sampled_from([b"data: x", b"\n", b"\r", b"\r\n", b"\n\n", b": c", b"data", b"event: error"])),
    st.data(),
)
def test_splitting_changes_no_byte(parts: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(parts)
    cut = data.draw(st.integers(0, len(stream)))
    events = split(stream[:cut], stream[cut:])
    joined = b"".join(event.raw for event in events)
    assert stream.startswith(joined)
    assert not stream[len(joined) :].strip(), "only white space at the very end may be left out"
    assert [event.data for event in events] == [event.data for event in split(stream)]


def test_an_event_without_an_end_is_refused_before_it_fills_the_memory() -> None:
    splitter = EventSplitter(max_event_bytes=100)
    splitter.feed(b"data: " + b"x" * 90)
    with pytest.raises(EventTooLarge):
        splitter.feed(b"x" * 90)


def chunk(**fields: Any) -> Event:
    return Event(b"", json.dumps(fields).encode())


def choice(delta: Any = None, finish: str | None = None, index: int = 0) -> dict[str, Any]:
    return {"index": index, "delta": delta or {}, "finish_reason": finish}


@pytest.mark.parametrize(
    ("event", "meaning"),
    [
        (Event(b": ping\n\n", None), Meaning.LIFECYCLE),
        (chunk(choices=[choice({"role": "assistant", "content": ""})]), Meaning.LIFECYCLE),
        (chunk(choices=[choice({"role": "assistant", "content": None})]), Meaning.LIFECYCLE),
        (chunk(choices=[], prompt_filter_results=[]), Meaning.LIFECYCLE),
        (chunk(choices=[choice({"content": "a"})]), Meaning.CONTENT),
        (chunk(choices=[choice({"reasoning_content": "a"})]), Meaning.CONTENT),
        (chunk(choices=[choice({"reasoning": "a"})]), Meaning.CONTENT),
        (chunk(choices=[choice({"tool_calls": [{"index": 0}]})]), Meaning.CONTENT),
        (chunk(choices=[choice({"refusal": "no"})]), Meaning.CONTENT),
        (chunk(choices=[{"text": "a"}]), Meaning.CONTENT),
        (chunk(choices=[], usage={"prompt_tokens": 1}), Meaning.USAGE),
        (chunk(choices=[choice(finish="stop")]), Meaning.LIFECYCLE),
        (chunk(error={"message": "x"}), Meaning.ERROR),
        (chunk(error={"code": 502}, choices=[choice({"content": ""}, "error")]), Meaning.ERROR),
        (chunk(choices=[choice({}, "error")]), Meaning.ERROR),
        (Event(b"", b'{"message":"x"}', "error"), Meaning.ERROR),
        (Event(b"", b" [DONE] "), Meaning.DONE),
        (Event(b"", b"{"), Meaning.GARBAGE),
        (Event(b"", b"5"), Meaning.GARBAGE),
        (Event(b"", b'{"choices":5}'), Meaning.GARBAGE),
    ],
)
def test_an_event_means(event: Event, meaning: Meaning) -> None:
    assert StreamReader().read(event).meaning is meaning


def test_a_stream_is_complete_when_every_choice_has_said_why_it_ended() -> None:
    reader = StreamReader()
    for index in (0, 1):
        reader.read(chunk(choices=[choice({"content": "a"}, index=index)]))
    reader.read(chunk(choices=[choice(finish="stop", index=0)]))
    assert not reader.is_complete
    reader.read(chunk(choices=[choice(finish="length", index=1)]))
    assert reader.is_complete


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"choices":[{"message":{"content":"a"}}]}', openai_answer.WholeAnswer),
        (b'{"choices":[{"message":{"content":null,"tool_calls":[{}]}}]}', openai_answer.WholeAnswer),
        (b'{"error":{"message":"x"}}', openai_answer.EmbeddedError),
        (b'{"error":"x","choices":[]}', openai_answer.EmbeddedError),
        (b'{"error":null,"choices":[{"message":{}}]}', openai_answer.WholeAnswer),
        (b"", openai_answer.NoAnswer),
        (b"  ", openai_answer.NoAnswer),
        (b" <html>", openai_answer.NoAnswer),
        (b'{"choices":[]}', openai_answer.NoAnswer),
        (b'{"choices":[null]}', openai_answer.NoAnswer),
        (b'{"choices":{}}', openai_answer.NoAnswer),
        (b"[]", openai_answer.NoAnswer),
        (b'{"choices":[', openai_answer.NoAnswer),
        (b"[" * 10_000, openai_answer.NoAnswer),
    ],
)
def test_the_body_of_a_200_is(body: bytes, kind: type) -> None:
    assert isinstance(openai_answer.read(body, "chat"), kind)


@pytest.mark.parametrize(
    ("said", "meant", "estimated"),
    [
        ({"prompt_tokens": 5, "completion_tokens": 3}, TokenUsage(input=5, output=3), False),
        ({"prompt_tokens": 5}, TokenUsage(input=5), False),
        ({"prompt_tokens": -5, "completion_tokens": 3}, TokenUsage(output=3), True),
        ({"prompt_tokens": 10**18, "completion_tokens": 3}, TokenUsage(input=1000, output=3), True),
        ({"prompt_tokens": 5, "completion_tokens": "3"}, TokenUsage(input=5), True),
        (
            {"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 50}},
            TokenUsage(input=9, output=3, cache_read=9),
            False,
        ),
        (
            {"prompt_tokens": 9, "completion_tokens": 3, "prompt_cache_hit_tokens": 4},
            TokenUsage(input=9, output=3, cache_read=4),
            False,
        ),
        (
            {
                "prompt_tokens": 9,
                "completion_tokens": 3,
                "total_tokens": 19,
                "completion_tokens_details": {"reasoning_tokens": 7},
            },
            TokenUsage(input=9, output=10, reasoning=7),
            False,
        ),
        (
            {
                "prompt_tokens": 9,
                "completion_tokens": 8,
                "completion_tokens_details": {"reasoning_tokens": 7},
            },
            TokenUsage(input=9, output=8, reasoning=7),
            False,
        ),
    ],
)
def test_usage_is_read_within_its_bounds(said: Any, meant: TokenUsage, estimated: bool) -> None:
    reading = usage.read(said, 1000)
    assert reading is not None
    assert (reading.usage, reading.estimated) == (meant, estimated)


@pytest.mark.parametrize(
    "said", [None, 5, [], {}, {"prompt_tokens": "many"}, {"prompt_tokens": float("nan")}]
)
def test_usage_that_says_nothing_is_none(said: Any) -> None:
    assert usage.read(said, None) is None


@given(JSON | st.fixed_dictionaries({"prompt_tokens": JSON, "completion_tokens": JSON, "total_tokens": JSON}))
def test_whatever_a_provider_calls_usage_its_parts_fit_into_the_whole(said: Any) -> None:
    reading = usage.read(said, 10_000)
    if reading is not None:
        counted = reading.usage
        assert 0 <= counted.cache_read + counted.cache_write + counted.input_audio <= counted.input <= 10_000
        assert 0 <= counted.reasoning + counted.output_audio <= counted.output


@given(
    st.dictionaries(
        st.text(max_size=6).filter(lambda name: name not in ("model", "new")),
        st.integers() | st.text(max_size=9),
    ),
    st.booleans(),
)
def test_exchanging_values_means_the_same_however_the_object_was_written(
    members: dict[str, object], is_compact: bool
) -> None:
    fields = {**members, "model": "a", "stream": True}
    separators = (",", ":") if is_compact else (", ", ": ")
    body = json.dumps(fields, separators=separators, ensure_ascii=False).encode()
    written = JsonObject.parse(body).to_bytes(model=b'"b"', new=b"[1]")
    assert json.loads(written) == {**fields, "model": "b", "new": [1]}
