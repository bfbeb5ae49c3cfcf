"""What is read the quick way means what it means when it is looked at closely, whatever it is."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from synaxis_common.contracts.routing import Needs
from synaxis_gateway.wire import openai_answer, usage
from synaxis_gateway.wire.openai_stream import Meaning, StreamReader
from synaxis_gateway.wire.sse import EventSplitter, event_at

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
ODD = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats(0, 2, allow_nan=False)
    | st.sampled_from(["", "error", "abort", "stop", "x"])
    | TEXT
    | st.lists(st.none() | TEXT, max_size=2)
    | st.dictionaries(st.sampled_from(["message", "code", "data", "transcript"]), TEXT, max_size=2)
)


def mostly(usual: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """What is there in most cases, and anything else in some."""
    return st.one_of(usual, usual, usual, usual, ODD)


def fields(**usual: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional={name: mostly(value) for name, value in usual.items()})


SAID = st.none() | TEXT
CALLS = st.lists(mostly(fields(index=st.integers(0, 2), id=TEXT, function=fields(name=TEXT, arguments=TEXT))))
MESSAGE = fields(
    role=st.just("assistant"),
    content=SAID,
    reasoning_content=SAID,
    reasoning=SAID,
    refusal=SAID,
    tool_calls=CALLS,
    reasoning_details=st.none() | st.lists(fields(text=TEXT), max_size=2),
    function_call=st.none(),
    audio=st.none(),
    text=st.none(),
    other=ODD,
)
FINISH = st.sampled_from([None, None, "", "stop", "length", "error", "abort", "of its own"])
INDEX = st.sampled_from([0, 0, 1, 2])
COUNT = st.integers(0, 40)
DETAILS = {"cached_tokens": COUNT, "audio_tokens": COUNT, "text_tokens": COUNT, "cache_write_tokens": COUNT}
USAGE = st.builds(
    lambda said, total: (
        said | ({"total_tokens": total} if total is not None else {}) if total != -1 else summed(said)
    ),
    fields(
        prompt_tokens=COUNT,
        completion_tokens=COUNT,
        prompt_tokens_details=fields(**DETAILS),
        completion_tokens_details=fields(reasoning_tokens=COUNT, audio_tokens=COUNT),
        cached_tokens=COUNT,
        reasoning_tokens=COUNT,
    ),
    st.sampled_from([-1, -1, None, 20, True, 20.0]),
)


def summed(said: dict[str, Any]) -> dict[str, Any]:
    counts = [said.get("prompt_tokens"), said.get("completion_tokens")]
    return said | {"total_tokens": sum(count for count in counts if isinstance(count, int))}


CHUNK = fields(
    id=TEXT,
    object=st.sampled_from(["chat.completion.chunk", "error", "of its own"]),
    type=st.none(),
    error=st.none(),
    choices=st.lists(
        mostly(fields(index=INDEX, delta=MESSAGE, text=st.none(), finish_reason=FINISH, error=st.none())),
        min_size=1,
        max_size=3,
    ),
    usage=st.none() | USAGE,
)
ANSWER = fields(
    id=TEXT,
    object=st.sampled_from(["chat.completion", "list", "error", "of its own"]),
    type=st.none(),
    error=st.none(),
    choices=st.lists(
        mostly(fields(index=INDEX, message=MESSAGE, text=TEXT, finish_reason=FINISH, error=st.none())),
        max_size=3,
    ),
    data=st.lists(mostly(fields(embedding=st.lists(st.floats(0, 1), max_size=3), index=INDEX)), max_size=3),
    usage=st.none() | USAGE,
)


@st.composite
def written(draw: st.DrawFn, documents: st.SearchStrategy[Any]) -> bytes:
    """JSON as providers write it: compact or not, escaped or not."""
    separators = draw(st.sampled_from([(",", ":"), (", ", ": ")]))
    return json.dumps(draw(documents), ensure_ascii=draw(st.booleans()), separators=separators).encode()


@st.composite
def mutated(draw: st.DrawFn, sound: st.SearchStrategy[bytes]) -> bytes:
    """Now and then with a few bytes that are others."""
    made = bytearray(draw(sound))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        place = draw(st.integers(0, len(made)))
        made[place : place + draw(st.integers(0, 2))] = draw(
            st.sampled_from(
                [b"", b"\n", b"\r", b"\n\n", b" ", b'"', b"}", b"\xff", b"\xc3", b"\\", b"\x00", b"0"]
            )
        )
    return bytes(made)


@st.composite
def an_event(draw: st.DrawFn) -> bytes:
    other = [
        b": ping\n\n",
        b"data: [DONE]\n\n",
        b"event: error\ndata: {}\n\n",
        b"\n",
        b"\xef\xbb\xbf",
        b"data: {}\n\n",
    ]
    if draw(st.integers(0, 6)) == 0:
        return draw(st.sampled_from(other))
    prefix = draw(st.sampled_from([b"data: ", b"data: ", b"data:", b"data:  ", b"event: message\ndata: "]))
    end = draw(st.sampled_from([b"\n\n", b"\n\n", b"\r\n\r\n", b"\r\r", b"\r\n\n", b"\n\r\n"]))
    return prefix + draw(written(CHUNK)) + end


STREAM = mutated(st.lists(an_event(), max_size=5).map(b"".join))


def state(reader: StreamReader) -> tuple[object, ...]:
    return reader.usage, reader.content_bytes, reader.is_complete, reader.has_begun


@settings(max_examples=600)
@given(STREAM)
@example(b'data: {"choices":[{"delta":{"content":"a","tool_calls":[{"function":{}}]},"text":"b"}]}\n\n')
@example(b'data: {"choices":[{"delta":{"x":"\xff","content":"a"}}]}\n\n')
@example(b'data: {"choices":[{"index":1.0,"delta":{"content":"a"}}]}\n\n')
@example(b'data: {"choices":[{"index":true,"delta":{"content":"a"}}]}\r\n\r\n')
@example(b'\n\ndata: {"choices":[{"delta":{"content":"a"}}]} ')
@example(b'data: {"choices":[{"delta":{"content":"a"}}],\r"usage":{}}\n\n')
def test_a_chunk_that_is_skimmed_means_what_it_means_when_it_is_read(stream: bytes) -> None:
    quick, close = StreamReader(), StreamReader()
    begin = 0
    while (found := event_at(stream, begin)) is not None:
        event, after = found
        end_of_one = quick.skim(stream[:after], begin)
        assert end_of_one in (begin, after), "one event, or nothing"
        reading = close.read(event)
        if end_of_one == begin:
            quick.read(event)
        else:
            assert reading.meaning in (Meaning.CONTENT, Meaning.LIFECYCLE)
        assert state(quick) == state(close)
        begin = after
    assert StreamReader().skim(stream, begin) == begin, "nothing that is not whole"


@settings(max_examples=200)
@given(STREAM)
def test_skimming_goes_on_as_far_as_single_events_would(stream: bytes) -> None:
    at_once, singly = StreamReader(), StreamReader()
    end, begin = at_once.skim(stream, 0), 0
    while (found := event_at(stream, begin)) is not None and singly.skim(stream[: found[1]], begin) > begin:
        begin = found[1]
    assert (end, state(at_once)) == (begin, state(singly))


@settings(max_examples=200)
@given(STREAM)
def test_skimming_to_content_stops_where_an_answer_begins(stream: bytes) -> None:
    reader = StreamReader()
    end = reader.skim(stream, 0, to_content=True)
    assert reader.skim(stream[:end], 0, to_content=True) in (0, end) or reader.has_begun
    before = StreamReader()
    begin = 0
    while begin < end:
        assert not before.has_begun
        found = event_at(stream, begin)
        assert found is not None
        before.read(found[0])
        begin = found[1]


@given(STREAM, st.lists(st.integers(0, 400), max_size=4))
def test_bytes_are_joined_to_the_same_events_wherever_they_are_cut(stream: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    splitter, whole = EventSplitter(), EventSplitter()
    pieces = [stream[a:b] for a, b in pairwise(places) if a < b]
    events = [event for piece in pieces for event in splitter.feed(piece)] + splitter.finish()
    assert events == whole.feed(stream) + whole.finish()


@settings(max_examples=600)
@given(mutated(written(ANSWER)), st.sampled_from(["chat", "completions", "embeddings"]))
@example(b'{"choices":[{"message":{"content":"a","x":"\xff"}}]}', "chat")
@example(b'{"data":[{"embedding":[1,2}]}', "embeddings")
@example(b'{"data":[{"embedding":[1,2,]}]}', "embeddings")
def test_an_answer_that_is_read_quickly_is_what_it_is_when_looked_at_closely(
    body: bytes, endpoint: Any
) -> None:
    assert openai_answer.read(body, endpoint) == openai_answer.closely(body, endpoint)


@settings(max_examples=600)
@given(USAGE | ODD, st.sampled_from([10, 30, 1000]), st.sampled_from([(1, 1), (1, 3), (2, 2)]))
def test_usage_that_is_read_quickly_says_what_it_says_when_looked_at_closely(
    said: Any, window: int, asked: tuple[int, int]
) -> None:
    prompts, n = asked
    needs = Needs(operation="completions", prompts=prompts, n=n)
    close = usage.closely(said, window * prompts, window * prompts * n) if isinstance(said, dict) else None
    assert usage.read(said, window, needs) == close


def test_the_usual_answers_are_read_the_quick_way() -> None:
    chunk = b'data: {"choices":[{"index":0,"delta":{"content":"%s"},"finish_reason":null}]}'
    for event in (chunk % b"a" + b"\n\n", chunk % "é".encode() + b"\r\n\r\n"):
        reader = StreamReader()
        assert reader.skim(event * 3, 0) == 3 * len(event)
        assert reader.content_bytes == (3 if event.isascii() else 6)
