"""How a provider's stream can end after content, and what the client gets of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synaxis_common.clock import SystemClock
from synaxis_common.contracts.routing import Candidate, Needs, Timeouts
from synaxis_common.contracts.usage import AttemptOutcome
from synaxis_gateway.dispatch import classify, stream
from synaxis_gateway.dispatch.call import Attempt
from synaxis_gateway.dispatch.classify import Verdict
from synaxis_gateway.dispatch.destination import Destination
from synaxis_gateway.dispatch.stream import StreamCut, UpstreamStream, error_event
from synaxis_gateway.upstream.errors import Reset, Unreadable
from synaxis_gateway.wire import openai_request

ASK = b'{"model": "m", "stream": true, "messages": [{"role": "user", "content": "Hello?"}]}'

Step = bytes | Exception | float


class Script:
    """An answer whose pieces arrive as written: bytes, a failure, or seconds of silence."""

    def __init__(self, *steps: Step) -> None:
        self._steps = list(steps)
        self.headers: dict[str, str] = {}

    @property
    def at_eof(self) -> bool:
        return not self._steps

    async def read_some(self, timeout: float | None = None) -> bytes:
        async with asyncio.timeout(timeout):
            while self._steps:
                step = self._steps.pop(0)
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, bytes):
                    return step
                await asyncio.sleep(step)
            return b""


def reading(*steps: Step, drop_usage: bool = False) -> UpstreamStream:
    candidate = Candidate(
        provider_id="p",
        provider_model_id="m",
        global_model_id="m",
        base_url="https://x.example",
        kind="openai",
        timeouts=Timeouts(between_tokens_s=0.05),
    )
    attempt = Attempt(Destination(candidate, {}), openai_request.parse(ASK, "chat"), 0.0)
    return UpstreamStream(Script(*steps), attempt, SystemClock(), Needs(), drop_usage=drop_usage)  # type: ignore[arg-type]


def event(**fields: object) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def chunk(delta: dict[str, object] | None = None, finish: str | None = None, index: int = 0) -> bytes:
    return event(choices=[{"index": index, "delta": delta or {}, "finish_reason": finish}])


ROLE, HELLO, STOP = (
    chunk({"role": "assistant", "content": ""}),
    chunk({"content": "Hello"}),
    chunk(finish="stop"),
)
USAGE = event(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 1})
DONE = b"data: [DONE]\n\n"
COMMENTS: list[Step] = [0.02, b": still here\n\n"] * 10
EMPTY: list[Step] = [0.02, chunk({})] * 10
ERROR = event(error={"message": "insufficient_quota of sk-secret", "code": 500})


async def client_gets(*steps: Step) -> tuple[bytes, str | None]:
    """What goes to the client, and why it was cut; the error event is as the HTTP layer adds it."""
    upstream = reading(*steps)
    assert await upstream.wait_for_content() is None
    sent = b""
    try:
        while piece := await upstream.next_piece():
            assert not upstream.is_over or piece.endswith(DONE)
            sent += piece
    except StreamCut as cut:
        assert not upstream.is_over
        return sent + error_event("broken off", AttemptOutcome.STREAM_CUT), str(cut)
    assert upstream.is_over
    return sent, None


CUTS: dict[str, tuple[Sequence[Step], str]] = {
    "the connection is reset": ([ROLE, HELLO, Reset("closed the connection")], "closed"),
    "the body breaks off": ([ROLE, HELLO, Unreadable("broke off its answer")], "broke off"),
    "a clean close without a finish": ([ROLE, HELLO], "without a finish reason"),
    "a clean close in the midst of an event": ([ROLE, HELLO, b'data: {"choices":[{"del'], "not JSON"),
    "done without a finish": ([ROLE, HELLO, DONE], "without a finish reason"),
    "an error event": ([ROLE, HELLO, ERROR], "an error in the midst"),
    "a named error event": (
        [ROLE, HELLO, b'event: error\ndata: {"message":"x"}\n\n'],
        "an error in the midst",
    ),
    "a named error in words": ([ROLE, HELLO, b"event: error\ndata: oh no\n\n"], "an error in the midst"),
    "an error as vLLM has it": ([HELLO, event(object="error", message="x", code=500), DONE], "an error"),
    "an error in a choice": (
        [HELLO, event(choices=[{"index": 0, "error": {"code": 502}}]), DONE],
        "an error",
    ),
    "a finish that is an error": ([HELLO, chunk(finish="error"), DONE], "an error in the midst"),
    "an answer given up": ([HELLO, chunk(finish="abort"), DONE], "an error in the midst"),
    "an error without an event": ([HELLO, b'{"error":{"message":"x"}}\n\n'], "an error in the midst"),
    "a page of a front": ([HELLO, b"<html>502</html>\n\n"], "not JSON"),
    "a malformed event": ([ROLE, HELLO, b"data: {not json\n\n"], "not JSON"),
    "an event that is no chunk": ([ROLE, HELLO, b"data: 5\n\n"], "not JSON"),
    "silence": ([ROLE, HELLO, 1.0, STOP, DONE], "fell silent"),
    "comments and nothing else": ([ROLE, HELLO, *COMMENTS, STOP, DONE], "fell silent"),
    "empty deltas and nothing else": ([HELLO, *EMPTY, STOP, DONE], "fell silent"),
    "a finish of one choice of two": (
        [chunk({"content": "a"}), chunk({"content": "b"}, index=1), STOP, DONE],
        "without a finish reason",
    ),
    "finish reasons that say nothing": ([chunk({"content": "a"}, finish="")], "without a finish reason"),
}


@pytest.mark.parametrize("case", CUTS)
async def test_a_stream_that_breaks_off_ends_in_an_error_and_never_as_if_it_were_whole(case: str) -> None:
    steps, why = CUTS[case]
    sent, reason = await client_gets(*steps)
    assert reason is not None
    assert why in reason
    assert b"[DONE]" not in sent
    assert b'"stop"' not in sent or case == "a finish of one choice of two", "not of our making"
    events = [json.loads(line[6:]) for line in sent.split(b"\n\n") if line.startswith(b"data: ")]
    assert events[-1]["error"] == {
        "message": "broken off",
        "type": "upstream_error",
        "param": None,
        "code": "stream_cut",
    }
    assert b"sk-secret" not in sent, "what the provider wrote of its error stays here"


@pytest.mark.parametrize("after", [ERROR, b"data: {not json\n\n"], ids=["an error", "garbage"])
async def test_a_finish_that_is_taken_back_is_no_end(after: bytes) -> None:
    sent, reason = await client_gets(ROLE, HELLO, STOP, after)
    assert reason is not None
    assert STOP in sent, "it was the provider's own word"
    assert b"[DONE]" not in sent
    assert b"stream_cut" in sent


@pytest.mark.parametrize(
    "steps",
    [
        [ROLE, HELLO, STOP, USAGE, DONE],
        [ROLE + HELLO + STOP + DONE],
        [ROLE, HELLO, STOP, USAGE],
        [ROLE, HELLO, STOP, Reset("closed")],
        [ROLE, HELLO, chunk(finish="length"), 1.0],
        [ROLE, HELLO, STOP.rstrip()],
        [ROLE, HELLO, STOP, DONE.rstrip()],
        [ROLE, HELLO, STOP.replace(b"\n", b"\r\n").rstrip(b"\n")],
        [STOP, DONE],
    ],
    ids=str,
)
async def test_an_answer_that_says_why_it_ended_is_whole(steps: Sequence[Step]) -> None:
    sent, reason = await client_gets(*steps)
    assert reason is None
    events = [part for part in sent.replace(b"\r\n", b"\n").split(b"\n\n") if part.strip()]
    assert events[-1] == b"data: [DONE]"
    assert sent.count(b"[DONE]") == 1
    assert all(part.count(b"data: ") == 1 for part in events), "no event runs into the next"


async def test_after_a_long_silence_the_usage_behind_the_finish_is_still_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream, "AFTER_FINISH_S", 0.05)
    sent, _ = await client_gets(ROLE, HELLO, 0.04, STOP, 0.03, USAGE, DONE)
    assert USAGE in sent


@pytest.mark.parametrize("size", [512 * 1024 + 1, 5 * 1024 * 1024])
async def test_a_large_event_passes_however_it_is_cut(size: int) -> None:
    large = chunk({"content": "x" * size})
    pieces = [large[begin : begin + 65_536] for begin in range(0, len(large), 65_536)]
    sent, reason = await client_gets(ROLE, *pieces, STOP, DONE)
    assert (sent, reason) == (ROLE + large + STOP + DONE, None)


@pytest.mark.parametrize(
    ("steps", "verdict"),
    [
        ([ROLE, ERROR], "a failure"),
        ([b'{"error":{"message":"x","code":"rate_limit_exceeded"}}'], "rate limited"),
        ([b'{\n  "error": {\n    "message": "x", "code": 401\n  }\n}\n'], "refused our key"),
        ([ROLE, DONE], "ended without content"),
        ([ROLE], "ended without content"),
        ([b"<html>x</html>"], "sent an event that is not JSON"),
        ([b": hi\n\n", STOP.replace(b"stop", b"error")], "answered 200 with an error inside"),
    ],
)
async def test_before_any_content_nothing_has_happened(steps: Sequence[Step], verdict: str) -> None:
    found = await reading(*steps).wait_for_content()
    assert isinstance(found, Verdict)
    assert found.reason == verdict.replace("a failure", "failed")
    assert found.follows is classify.Follows.NEXT


async def passed_on(upstream: UpstreamStream) -> list[bytes]:
    assert await upstream.wait_for_content() is None
    pieces = []
    while piece := await upstream.next_piece():
        pieces.append(piece)
    return pieces


async def test_what_arrives_together_goes_on_together_as_the_very_bytes() -> None:
    several = HELLO * 3 + STOP
    pieces = await passed_on(reading(ROLE, HELLO, HELLO, several, USAGE + DONE))
    assert pieces == [ROLE + HELLO, HELLO, several, USAGE + DONE]
    assert pieces[1] is HELLO
    assert pieces[2] is several


@pytest.mark.parametrize(
    "steps",
    [
        [ROLE, HELLO, STOP, USAGE, DONE],
        [ROLE, HELLO, STOP + USAGE, DONE],
        [ROLE, HELLO, USAGE + STOP, USAGE[:20], USAGE[20:] + DONE],
        [ROLE + HELLO + STOP + USAGE + DONE],
        [ROLE, USAGE + HELLO, USAGE, STOP, DONE],
    ],
    ids=str,
)
async def test_usage_that_nobody_asked_for_is_read_and_left_out_wherever_it_comes(
    steps: Sequence[Step],
) -> None:
    upstream = reading(*steps, drop_usage=True)
    assert b"".join(await passed_on(upstream)) == ROLE + HELLO + STOP + DONE
    counted = upstream.usage()
    assert counted is not None
    assert (counted.input, counted.output) == (3, 1)


async def test_nothing_follows_the_last_piece() -> None:
    upstream = reading(HELLO, STOP + DONE + HELLO)
    assert await passed_on(upstream) == [HELLO, STOP + DONE]
    assert upstream.is_over
    assert await upstream.next_piece() == b""


async def test_what_came_before_a_cut_is_passed_on_first() -> None:
    upstream = reading(ROLE, HELLO, HELLO + ERROR + HELLO)
    assert await upstream.wait_for_content() is None
    assert [await upstream.next_piece(), await upstream.next_piece()] == [ROLE + HELLO, HELLO]
    for _ in range(2):
        with pytest.raises(StreamCut, match="an error"):
            await upstream.next_piece()


PARTS = [
    ROLE,
    HELLO,
    HELLO,
    HELLO.replace(b"\n", b"\r\n"),
    STOP,
    USAGE,
    DONE,
    b": hi\n\n",
    ERROR,
    b"\n",
    b"data: x",
]


@given(st.lists(st.sampled_from(PARTS), max_size=8), st.lists(st.integers(0, 800), max_size=5), st.booleans())
def test_where_a_stream_is_cut_into_reads_makes_no_difference(
    parts: list[bytes], cuts: list[int], drop_usage: bool
) -> None:
    async def outcome(*steps: bytes) -> tuple[object, ...]:
        upstream = reading(*steps, drop_usage=drop_usage)
        verdict = await upstream.wait_for_content()
        if verdict is not None:
            return verdict.reason, upstream.usage()
        sent = b""
        try:
            while piece := await upstream.next_piece():
                sent += piece
        except StreamCut as cut:
            return sent, str(cut), upstream.usage()
        return sent, upstream.is_over, upstream.usage()

    said = b"".join(parts)
    places = [0, *sorted(min(cut, len(said)) for cut in cuts), len(said)]
    pieces = [said[begin:end] for begin, end in pairwise(places) if begin < end]
    assert asyncio.run(outcome(*pieces)) == asyncio.run(outcome(*([said] if said else [])))
