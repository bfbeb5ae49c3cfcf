"""What real providers send when they fail, and what follows: a row for each."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synaxis_common.contracts.usage import AttemptOutcome as Outcome
from synaxis_gateway.dispatch import classify, retry_after
from synaxis_gateway.dispatch.classify import NO_KEY, Blame, Evidence, Follows, Verdict
from synaxis_gateway.dispatch.conditions import Condition
from synaxis_gateway.dispatch.retry_after import MAX_RETRY_AFTER_S
from synaxis_gateway.upstream.errors import NoConnection, Reset, Unreadable, UpstreamError
from synaxis_gateway.wire import error_said, openai_answer
from synaxis_gateway.wire.openai_answer import EmbeddedError
from synaxis_gateway.wire.openai_stream import Meaning, StreamReader
from synaxis_gateway.wire.sse import EventSplitter

NOW = datetime(2026, 11, 23, 8, 0, 0, tzinfo=UTC)


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one provider sends, and what it means. The bodies are in the shapes that providers document."""

    who: str
    status: int
    body: Any
    means: str
    follows: str = "next"
    evidence: str = "none"
    wait_s: float | None = None
    headers: dict[str, str] = {}

    def bytes(self) -> bytes:
        return self.body.encode() if isinstance(self.body, str) else json.dumps(self.body).encode()


TABLE = Path(__file__).parents[2] / "data" / "provider_errors.jsonl"
ROWS = [msgspec.json.decode(line, type=Row) for line in TABLE.read_bytes().splitlines()]
QUOTA = "You exceeded your current quota, please check your plan and billing details."


def openai(message: str, kind: str | None = "invalid_request_error", code: Any = None, **more: Any) -> Any:
    return {"error": {"message": message, "type": kind, "param": None, "code": code, **more}}


def anthropic(kind: str, message: str, **more: Any) -> Any:
    return {"type": "error", "error": {"type": kind, "message": message, **more}, "request_id": "req_1"}


BLAMES = {
    Condition.CREDIT: Blame.KEY,
    Condition.CREDIT_FOR_THIS: Blame.KEY,
    Condition.KEY: Blame.KEY,
    Condition.REGION: Blame.PROVIDER,
    Condition.MODEL: Blame.CANDIDATE,
    Condition.PATH: Blame.PROVIDER,
    Condition.FRONT_DOOR: Blame.PROVIDER,
    Condition.REDIRECT: Blame.PROVIDER,
    Condition.UNREACHABLE: Blame.PROVIDER,
    Condition.RATE_LIMIT: Blame.OVERLOAD,
    Condition.OVER_LIMIT: Blame.OVERLOAD,
    Condition.OVERLOAD: Blame.OVERLOAD,
    Condition.TRANSIENT: Blame.CANDIDATE,
    Condition.UNKNOWN: Blame.UNKNOWN,
    **dict.fromkeys(
        (
            Condition.REQUEST,
            Condition.CONTENT,
            Condition.CONTEXT,
            Condition.UNSUPPORTED,
            Condition.GENERATION,
        ),
        Blame.REQUEST,
    ),
}


@pytest.mark.parametrize("row", ROWS, ids=[row.who for row in ROWS])
def test_what_a_provider_sends_means(row: Row) -> None:
    verdict = classify.status(row.status, row.headers, row.bytes(), NOW)
    found = verdict.condition.value, verdict.follows.name.lower(), verdict.evidence.name.lower()
    assert found == (row.means, row.follows, row.evidence)
    wait_s = None if row.wait_s is None else pytest.approx(row.wait_s)
    assert verdict.retry_after_s == wait_s
    if wait_s is not None:
        assert verdict.cool_down_s == wait_s
    if verdict.condition is Condition.FAILURE:
        assert verdict.blames is (Blame.OVERLOAD if row.wait_s else Blame.CANDIDATE)
    else:
        assert verdict.blames is BLAMES[verdict.condition]
    assert (verdict.reached, verdict.may_be_billed) == (True, False)


def test_every_condition_is_shown_and_every_row_has_a_name_of_its_own() -> None:
    assert {row.means for row in ROWS} == {condition.value for condition in Condition}
    assert len({row.who for row in ROWS}) == len(ROWS)


CLIENTS_OWN = "insufficient_quota: your credit balance is too low, invalid api key"


@pytest.mark.parametrize(
    "body",
    [
        openai(f"Invalid value: '{CLIENTS_OWN}'. Supported values are: 'low'."),
        openai(f"Invalid value {CLIENTS_OWN}", code="invalid_value"),
        {"detail": [{"type": "literal_error", "loc": ["body"], "msg": "Not allowed", "input": CLIENTS_OWN}]},
        openai(f'Unknown role "{CLIENTS_OWN}"'),
    ],
)
def test_what_a_client_wrote_cannot_stop_a_provider(body: Any) -> None:
    verdict = classify.status(400, {}, json.dumps(body).encode(), NOW)
    assert verdict.evidence is Evidence.NONE
    assert verdict.follows is Follows.ANSWER


@pytest.mark.parametrize(
    ("body", "condition", "outcome"),
    [
        (openai(QUOTA, "insufficient_quota", "insufficient_quota"), Condition.CREDIT, Outcome.UNAUTHORIZED),
        ({"error": {"code": 429, "message": "busy"}}, Condition.RATE_LIMIT, Outcome.RATE_LIMITED),
        (anthropic("overloaded_error", "Overloaded"), Condition.OVERLOAD, Outcome.SERVER_ERROR),
        (openai("x", code="context_length_exceeded"), Condition.CONTEXT, Outcome.REQUEST_ERROR),
        ({"error": "something"}, Condition.UNKNOWN, Outcome.MALFORMED),
        ({"object": "error", "message": "x", "code": 404}, Condition.MODEL, Outcome.NOT_FOUND),
        (
            {"choices": [{"message": {"content": ""}, "finish_reason": "error", "error": {"code": 502}}]},
            Condition.FAILURE,
            Outcome.SERVER_ERROR,
        ),
    ],
)
def test_a_200_with_an_error_inside_means_what_the_error_says(
    body: Any, condition: Condition, outcome: Outcome
) -> None:
    found = openai_answer.read(json.dumps(body).encode(), "chat")
    assert isinstance(found, EmbeddedError)
    verdict = classify.embedded(found, {}, NOW)
    assert (verdict.condition, verdict.outcome, verdict.follows) == (condition, outcome, Follows.NEXT)


@pytest.mark.parametrize(
    ("stream", "condition"),
    [
        (b'data: {"error":{"message":"x","code":429}}\n\n', Condition.RATE_LIMIT),
        (b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error"}}\n\n', Condition.OVERLOAD),
        (
            b'data: {"object":"error","message":"x","type":"BadRequestError","code":503}\n\n',
            Condition.FAILURE,
        ),
        (b"event: error\ndata: model is currently loading\n\n", Condition.OVERLOAD),
        (b'{"error":{"message":"x","code":"insufficient_quota"}}', Condition.CREDIT),
        (
            b'data: {"choices":[{"delta":{},"finish_reason":"error","error":{"code":502}}]}\n\n',
            Condition.FAILURE,
        ),
    ],
)
def test_a_stream_that_begins_with_an_error_means_what_the_error_says(
    stream: bytes, condition: Condition
) -> None:
    splitter = EventSplitter()
    first = (splitter.feed(stream) + splitter.finish())[0]
    reading = StreamReader().read(first)
    assert reading.meaning is Meaning.ERROR
    assert reading.error is not None
    assert classify.embedded(reading.error, {}, NOW).condition is condition


@pytest.mark.parametrize(
    ("error", "outcome", "evidence", "reached", "billed"),
    [
        (NoConnection("cannot be reached"), Outcome.CONNECT_ERROR, Evidence.PROVIDER, False, False),
        (Reset("closed"), Outcome.CONNECT_ERROR, Evidence.PROVIDER, True, False),
        (Unreadable("broke off"), Outcome.MALFORMED, Evidence.CANDIDATE, True, True),
        (TimeoutError(), Outcome.TIMEOUT, Evidence.CANDIDATE, True, True),
    ],
)
def test_no_answer_means(
    error: UpstreamError | TimeoutError, outcome: Outcome, evidence: Evidence, reached: bool, billed: bool
) -> None:
    verdict = classify.failure(error)
    assert (verdict.outcome, verdict.evidence) == (outcome, evidence)
    assert (verdict.reached, verdict.may_be_billed) == (reached, billed)


def test_a_stream_that_broke_off_may_be_billed_and_counts_against_the_candidate() -> None:
    verdict = classify.cut("fell silent")
    assert verdict.outcome is Outcome.STREAM_CUT
    assert (verdict.evidence, verdict.may_be_billed) == (Evidence.CANDIDATE, True)


def test_a_key_that_is_not_set_stops_the_provider_without_a_word_to_it() -> None:
    assert (NO_KEY.evidence, NO_KEY.reached) == (Evidence.TRIPS_PROVIDER, False)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("please try again in 2.1s.", 2.1),
        ("please try again in 6m0s", 360),
        ("please try again in 120ms", 0.12),
        ("please retry after 6 seconds", 6),
        ("try again in 2 minutes", 120),
        ("retry in 500 milliseconds", 0.5),
        ("try again in 99999999 seconds", MAX_RETRY_AFTER_S),
        ("try again in .", None),
        ("try again later", None),
    ],
)
def test_a_wait_in_words_is_understood(text: str, seconds: float | None) -> None:
    assert retry_after.in_words(text) == (None if seconds is None else pytest.approx(seconds))


HEADER_NAMES = [
    "retry-after",
    "retry-after-ms",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-tokens",
    "anthropic-ratelimit-tokens-remaining",
    "anthropic-ratelimit-tokens-reset",
]
headers = st.dictionaries(
    st.sampled_from(HEADER_NAMES),
    st.one_of(
        st.text(max_size=30),
        st.sampled_from(["0", "9" * 15, "6m0s", "2026-11-23T08:00:00Z", "0001-01-01T00:00:00+14:00", "1e9"]),
    ),
)
NAMES = """error message code type status detail details innererror metadata raw headers retryDelay
    estimated_time object errors choices title"""
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=40),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES.split()), inner, max_size=4)
    ),
    max_leaves=12,
)


def is_sound(verdict: Verdict) -> bool:
    waits = [wait for wait in (verdict.retry_after_s, verdict.cool_down_s) if wait is not None]
    return all(0 <= wait <= MAX_RETRY_AFTER_S for wait in waits)


@given(st.integers(-1, 1000), headers, st.binary(max_size=300))
def test_any_answer_has_a_verdict(code: int, given_headers: dict[str, str], body: bytes) -> None:
    assert is_sound(classify.status(code, given_headers, body, NOW))


@given(st.integers(100, 599), headers, json_values)
def test_any_json_has_a_verdict(code: int, given_headers: dict[str, str], document: Any) -> None:
    body = json.dumps(document).encode()
    verdict = classify.status(code, given_headers, body, NOW)
    assert is_sound(verdict)
    if code >= 500:
        assert verdict.follows is Follows.NEXT
    said = error_said.of(document)
    assert is_sound(classify.embedded(EmbeddedError(said.status, said.text, said), given_headers, NOW))


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"error":' * 5_000,
        b"model " * 100_000,
        b"tokens per min " * 20_000,
        b'{"error":{"message":"' + b"function model 'x " * 3_000 + b'"}}',
        b'{"error":{"message":"' + b'\\"' * 20_000 + b'"}}',
    ],
)
@pytest.mark.parametrize("code", [400, 404, 429, 500])
def test_a_hostile_body_costs_little(code: int, body: bytes) -> None:
    took = []
    for _ in range(5):
        begun = time.perf_counter()
        classify.status(code, {}, body, NOW)
        took.append(time.perf_counter() - begun)
    assert min(took) < 0.005


def test_a_usual_error_costs_microseconds() -> None:
    body = json.dumps(openai("Rate limit reached for x. " * 10, "tokens", None)).encode()
    took = []
    for _ in range(200):
        begun = time.perf_counter()
        classify.status(400, {}, body, NOW)
        took.append(time.perf_counter() - begun)
    assert min(took) < 0.000_5, "a failover is not slowed down by understanding why"
