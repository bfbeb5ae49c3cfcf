"""What the lean path is made of: the journal, tallies, reports without a model, prepared candidates, keys."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel

from synaxis_common import ids
from synaxis_common.clock import SystemClock
from synaxis_common.contracts.catalog import Prices
from synaxis_common.contracts.leases import LeaseDraw
from synaxis_common.contracts.routing import Candidate, Needs, RoutePlan, Timeouts
from synaxis_common.contracts.usage import (
    AttemptOutcome,
    AttemptReport,
    CallReport,
    RequestOutcome,
    TokenUsage,
)
from synaxis_gateway.admission.admission import Admitted
from synaxis_gateway.admission.held_plan import HeldPlan
from synaxis_gateway.admission.shape import rounded_up, shape_of
from synaxis_gateway.by_identity import ByIdentity
from synaxis_gateway.dispatch import call_report
from synaxis_gateway.dispatch.call import Call
from synaxis_gateway.dispatch.classify import Follows, Verdict
from synaxis_gateway.dispatch.destination import Destination, Destinations
from synaxis_gateway.http import auth
from synaxis_gateway.http.auth import TenantKeys
from synaxis_gateway.http.errors import ApiError
from synaxis_gateway.http.journal import PIECE_BYTES, Journal
from synaxis_gateway.http.under_way import UnderWay
from synaxis_gateway.tallies import Counts, Level, Spreads
from synaxis_gateway.wire import header_lines, json_object, openai_request
from synaxis_gateway.wire.openai_request import Measures
from synaxis_gateway.wire.usage import UsageReading

SECRET = "sk-proj-abcdefghijklmnopqrstuvwxyz"
BEGUN_AT = datetime(2026, 11, 27, 12, 0, 0, 123456, tzinfo=UTC)


class HandClock(SystemClock):
    """A clock that is put forward by hand."""

    seconds = 100.0

    def monotonic(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return BEGUN_AT


# The journal.


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    """What is written to the first in one piece is read from the second in one piece."""
    writing, reading = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reading.settimeout(5)
    with writing, reading:
        yield writing, reading


@pytest.fixture(autouse=True)
def lines_are_wanted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="synaxis_gateway.http.journal")


def note(journal: Journal, **notes: str | int | None) -> None:
    journal.note("POST", "/v1/chat/completions", 200, 0.0123456, "the-id", notes)


def lost() -> float:
    return REGISTRY.get_sample_value("synaxis_gateway_log_lines_lost_total") or 0.0


def test_a_line_is_json_and_says_what_was_noted(sockets: tuple[socket.socket, socket.socket]) -> None:
    writing, reading = sockets
    journal = Journal(HandClock(), writing.fileno())
    note(journal, tenant="acme", attempts=2, stream=True, provider=None)
    journal.flush()
    piece = reading.recv(65_536)
    assert piece.endswith(b"\n")
    assert json.loads(piece) == {
        "event": "request",
        "method": "POST",
        "endpoint": "/v1/chat/completions",
        "status": 200,
        "latency_s": 0.0123,
        "tenant": "acme",
        "attempts": 2,
        "stream": True,
        "provider": None,
        "request_id": "the-id",
        "logger": "synaxis_gateway.http.journal",
        "level": "info",
        "timestamp": "2026-11-27T12:00:00.123456Z",
        "service": "gateway",
    }


def test_lines_that_are_alike_are_still_each_their_own(
    sockets: tuple[socket.socket, socket.socket],
) -> None:
    writing, reading = sockets
    journal = Journal(HandClock(), writing.fileno())
    note(journal, tenant="acme", attempts=1)
    note(journal, tenant="acme", attempts=1)
    note(journal, tenant="acme", attempts=2)
    note(journal, key_id="acme", attempts=2)
    journal.note("POST", "/v1/chat/completions", 502, 1.5, "another", {"tenant": "acme", "attempts": 2})
    journal.flush()
    lines = [json.loads(line) for line in reading.recv(65_536).splitlines()]
    assert lines[0] == lines[1]
    assert [line["attempts"] for line in lines] == [1, 1, 2, 2, 2]
    assert [line.get("tenant") for line in lines] == ["acme", "acme", "acme", None, "acme"]
    assert [(line["status"], line["request_id"]) for line in lines[3:]] == [(200, "the-id"), (502, "another")]


def test_lines_go_out_in_pieces_that_a_pipe_takes_whole(
    sockets: tuple[socket.socket, socket.socket],
) -> None:
    writing, reading = sockets
    journal = Journal(HandClock(), writing.fileno())
    sizes = [10, 900, 900, 900, 900, 900, 2_000, 900, 10, 10]
    for number, size in enumerate(sizes):
        note(journal, number=number, **{f"model_{part}": "m" * (size // 10) for part in range(10)})
    note(journal, number=len(sizes), **{f"model_{part}": "m" * 900 for part in range(10)})
    note(journal, number=len(sizes) + 1)
    journal.flush()
    pieces: list[list[bytes]] = []
    while sum(map(len, pieces)) < len(sizes) + 2:
        pieces.append(reading.recv(65_536).splitlines(keepends=True))
    numbers = [json.loads(line)["number"] for piece in pieces for line in piece]
    assert numbers == list(range(len(sizes) + 2)), "every line once, in order and whole"
    long = [piece for piece in pieces if sum(map(len, piece)) > PIECE_BYTES]
    assert [len(piece) for piece in long] == [1], "only a line that is longer by itself"
    assert len(pieces) < len(sizes), "lines go together"


async def test_lines_are_written_while_it_runs(sockets: tuple[socket.socket, socket.socket]) -> None:
    writing, reading = sockets
    reading.setblocking(False)
    journal = Journal(HandClock(), writing.fileno())
    running = asyncio.create_task(journal.run())
    async with asyncio.timeout(5):
        for number in range(2):
            note(journal, number=number)
            piece = await asyncio.get_running_loop().sock_recv(reading, 65_536)
            assert json.loads(piece)["number"] == number
    running.cancel()


def test_when_nobody_reads_the_log_lines_are_lost_and_counted_and_no_request_fails() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    journal = Journal(HandClock(), writing)
    before = lost()
    for _ in range(3):
        note(journal)
    journal.flush()
    assert lost() == before + 3
    os.close(writing)
    note(journal)
    journal.flush()
    assert lost() == before + 4


def test_what_looks_like_a_key_is_not_written(sockets: tuple[socket.socket, socket.socket]) -> None:
    writing, reading = sockets
    journal = Journal(HandClock(), writing.fileno())
    for model in (SECRET, f"vendor/{SECRET}", f"Bearer {SECRET}", f"api_key={SECRET}"):
        note(journal, model_asked=model)
    journal.flush()
    written = reading.recv(65_536)
    assert written.count(b"\n") == 4
    assert SECRET.encode() not in written
    assert written.count(b"[redacted]") == 4


def test_lines_that_nobody_wants_are_not_made_but_counted(
    sockets: tuple[socket.socket, socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    def counted() -> float:
        labels = {"endpoint": "/healthz", "status": "200"}
        return REGISTRY.get_sample_value("synaxis_gateway_requests_total", labels) or 0.0

    writing, reading = sockets
    before = counted()
    for level, request_id in ((logging.INFO, "one"), (logging.DEBUG, "two")):
        caplog.set_level(level, logger="synaxis_gateway.http.journal")
        journal = Journal(HandClock(), writing.fileno())
        journal.note("GET", "/healthz", 200, 0.001, request_id, {})
        journal.flush()
    (line,) = reading.recv(65_536).splitlines()
    assert (json.loads(line)["request_id"], json.loads(line)["level"]) == ("two", "debug")
    assert counted() == before + 2


# Tallies.


@pytest.fixture
def name() -> str:
    return f"test_{uuid4().hex}"


def samples(name: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = generate_latest(REGISTRY).decode()
    return {
        (one.name.removeprefix(name), tuple(sorted(one.labels.items()))): one.value
        for family in text_string_to_metric_families(text)
        if family.name.startswith(name)
        for one in family.samples
    }


def test_counts_and_levels_are_read_as_prometheus_does(name: str) -> None:
    counts, plain, level = (
        Counts(name, "By label", ["a"]),
        Counts(f"{name}_plain", "."),
        Level(f"{name}_now", "."),
    )
    counts.of('odd "one"\n').count += 2
    counts.of("b").count += 1
    assert counts.of("b") is counts.of("b")
    plain.of().count += 3
    level.count += 5
    level.count -= 1
    found = samples(name)
    assert found["_total", (("a", 'odd "one"\n'),)] == 2
    assert found["_total", (("a", "b"),)] == 1
    assert found["_plain_total", ()] == 3
    assert found["_now", ()] == 4


@given(values=st.lists(st.sampled_from([0.0, 0.1, 0.10001, 1.0, 2.0, 5.0, 1e9]) | st.floats(0, 10)))
def test_a_histogram_is_cumulative_and_its_bounds_belong_to_their_buckets(values: list[float]) -> None:
    name, bounds = f"test_{uuid4().hex}", (0.1, 1.0, 5.0)
    spreads = Spreads(name, "A histogram", bounds, ["a"])
    try:
        for value in values:
            spreads.observe(value, "b")
        found = samples(name)
    finally:
        REGISTRY.unregister(spreads)
    if not values:
        assert not found
        return
    for bound in (*bounds, math.inf):
        said = "+Inf" if bound == math.inf else str(bound)
        assert found["_bucket", (("a", "b"), ("le", said))] == sum(value <= bound for value in values)
    assert found["_count", (("a", "b"),)] == len(values)
    assert found["_sum", (("a", "b"),)] == pytest.approx(sum(values))


# Reports.

PRICES = Prices(input=Decimal("0.10"), output=Decimal("0.30"), cache_read=Decimal("0.000000001"))


def candidate(provider_id: str, **changes: Any) -> Candidate:
    return Candidate(
        **{
            "provider_id": provider_id,
            "provider_model_id": f"{provider_id}/model ü",
            "global_model_id": f"model-of-{provider_id}",
            "base_url": "https://provider.example/v1",
            "kind": "openai",
            "prices": PRICES,
            **changes,
        }
    )


def call(*candidates: Candidate, stream: bool = False, draws: int = 0) -> Call:
    body = {"model": "a model", "messages": [{"role": "user", "content": "hi"}], "stream": stream}
    ask = openai_request.parse(json.dumps(body).encode(), "chat")
    plan = RoutePlan(
        request_id=ids.uuid7(),
        tenant_id="acme",
        key_id="key-1",
        global_model_id="model-asked",
        candidates=candidates,
    )
    drawn = [
        LeaseDraw(lease_id=ids.uuid7(), permits=1 - number, tokens=7, usd=Decimal("0.00000012"))
        for number in range(draws)
    ]
    shape = shape_of(ask, "hash")
    clock = HandClock()
    admitted = Admitted(HeldPlan.of(plan), shape, None, shape.measures.needs(), ends_at=math.inf, draws=drawn)
    return Call(
        request_id=ids.uuid7_text(),
        ask=ask,
        admitted=admitted,
        gateway_id="g-1",
        clock=clock,
        started=clock.seconds,
        started_at=BEGUN_AT,
        deadline=math.inf,
    )


def forward(made: Call, seconds: float) -> None:
    assert isinstance(made.clock, HandClock)
    made.clock.seconds += seconds


def read_back(made: Call, http_status: int) -> CallReport:
    """What is written of a call, as the registry reads it; it has all fields, and no others."""
    written = call_report.written(made, http_status)
    assert b"\n" not in written, "lines separate the reports in a message"
    document = json.loads(written)

    def has_all_fields(found: Any, model: type[BaseModel]) -> None:
        assert found.keys() == model.model_fields.keys(), model

    has_all_fields(document, CallReport)
    for draw in document["draws"]:
        has_all_fields(draw, LeaseDraw)
    for attempt in document["attempts"]:
        has_all_fields(attempt, AttemptReport)
        has_all_fields(attempt["prices"], Prices)
        if attempt["usage"] is not None:
            has_all_fields(attempt["usage"], TokenUsage)
    return CallReport.model_validate_json(written)


def expected(made: Call, **fields: Any) -> CallReport:
    return CallReport(
        **{
            "request_id": UUID(made.request_id),
            "gateway_id": "g-1",
            "tenant_id": "acme",
            "key_id": "key-1",
            "global_model_id": "model-of-p",
            "model_asked": "a model",
            "started_at": BEGUN_AT,
            **fields,
        }
    )


def attempted(provider_id: str, **fields: Any) -> AttemptReport:
    return AttemptReport(
        provider_id=provider_id, provider_model_id=f"{provider_id}/model ü", prices=PRICES, **fields
    )


def test_the_report_of_an_answer_is_what_the_contract_reads() -> None:
    made = call(candidate("p"))
    attempt = made.begin(Destination(made.plan.candidates[0], {}), made.ask)
    forward(made, 0.5)
    attempt.http_status, attempt.first_token = 200, made.clock.monotonic()
    forward(made, 0.25)
    made.succeed(attempt, UsageReading(10, 20, 3, 4, 5, 6, 7))
    forward(made, 0.25)
    assert read_back(made, 200) == expected(
        made,
        outcome=RequestOutcome.OK,
        http_status=200,
        latency_s=1.0,
        time_to_first_token_s=0.5,
        attempts=(
            attempted(
                "p",
                outcome=AttemptOutcome.OK,
                http_status=200,
                latency_s=0.75,
                time_to_first_token_s=0.5,
                usage=TokenUsage(
                    input=10,
                    output=20,
                    cache_read=3,
                    cache_write=4,
                    reasoning=5,
                    input_audio=6,
                    output_audio=7,
                ),
            ),
        ),
    )


def test_the_report_of_a_failure_is_what_the_contract_reads() -> None:
    made = call(candidate("o"), candidate("p"))
    first, second = (made.begin(Destination(one, {}), made.ask) for one in made.plan.candidates)
    first.http_status = 429
    reason = f"refused with {SECRET}: " + "x" * 500
    made.fail(first, Verdict(AttemptOutcome.RATE_LIMITED, Follows.NEXT, reason, retry_after_s=2.5))
    forward(made, 1.5)
    report = read_back(made, 502)
    error = report.attempts[0].error
    assert error is not None
    assert error.startswith("refused with [redacted]: x")
    assert len(error) == call_report.MAX_REASON
    assert report == expected(
        made,
        outcome=RequestOutcome.UPSTREAM_ERROR,
        http_status=502,
        latency_s=1.5,
        attempts=(
            attempted(
                "o",
                outcome=AttemptOutcome.RATE_LIMITED,
                http_status=429,
                latency_s=0.0,
                retry_after_s=2.5,
                error=error,
            ),
            attempted("p", outcome=AttemptOutcome.ABANDONED, latency_s=1.5),
        ),
    )
    assert second.outcome is None, "who is written of is not changed by it"


def test_the_report_of_a_stream_whose_client_left_is_what_the_contract_reads() -> None:
    made = call(candidate("p"), stream=True)
    attempt = made.begin(Destination(made.plan.candidates[0], {}), made.ask)
    attempt.content_bytes = 40
    made.break_off(AttemptOutcome.CLIENT_GONE, "the client is gone")
    assert attempt.reading is not None
    assert read_back(made, 499) == expected(
        made,
        stream=True,
        outcome=RequestOutcome.CLIENT_GONE,
        http_status=499,
        latency_s=0.0,
        attempts=(
            attempted(
                "p",
                outcome=AttemptOutcome.CLIENT_GONE,
                latency_s=0.0,
                usage=attempt.reading.usage,
                usage_estimated=True,
                error="the client is gone",
            ),
        ),
    )


def test_the_report_of_a_leased_call_without_an_attempt_is_what_the_contract_reads() -> None:
    made = call(draws=2)
    draws = tuple(made.admitted.draws)
    assert read_back(made, 503) == expected(
        made,
        lease_id=draws[0].lease_id,
        draws=draws,
        global_model_id="model-asked",
        outcome=RequestOutcome.UPSTREAM_ERROR,
        http_status=503,
        latency_s=0.0,
    )


# What requests are measured by.


def test_measures_are_needs_and_those_that_a_shape_changes_come_last() -> None:
    fields = Measures._fields
    assert set(fields) == Needs.model_fields.keys()
    assert fields[-3:] == ("input_tokens", "max_output_tokens", "parameters")
    for name, default in Measures._field_defaults.items():
        assert Needs.model_fields[name].default == default, name


def test_a_shape_rounds_sizes_and_keeps_everything_else() -> None:
    body = json.dumps(
        {
            "model": "m",
            "messages": [{"role": "user", "content": "x" * 1_001}],
            "max_tokens": 1_001,
            "n": 3,
            "temperature": 1,
            "stream": True,
        }
    ).encode()
    ask = openai_request.parse(body, "chat")
    measures = ask.measures
    assert shape_of(ask, "hash").measures == measures._replace(
        input_tokens=rounded_up(measures.input_tokens),
        max_output_tokens=rounded_up(1_001),
        parameters=frozenset(),
    )


# Bodies as most clients write them.

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(
    ["a", "é", "\x00", '"', "\\", "/", "😀", "a\u0301"]
)
VALUES = st.sampled_from(["1", '""', "null", "{}", "[]", '{"a":1,"a":2}', '"é"', '"\\u00e9"', " 1 ", "12345"])


@st.composite
def written_names(draw: st.DrawFn) -> tuple[str, str]:
    """A name, and one of the ways to write it."""
    name = draw(NAMES)
    written = ""
    for char in name:
        if char > "\uffff" or draw(st.booleans()):
            written += json.dumps(char, ensure_ascii=draw(st.booleans()))[1:-1]
        else:
            written += f"\\u{ord(char):04x}"
    return name, f'"{written}"'


@given(st.lists(st.tuples(written_names(), VALUES), min_size=1, max_size=4), st.data())
def test_a_body_with_a_name_twice_never_passes_as_compact(
    members: list[tuple[tuple[str, str], str]], data: st.DataObject
) -> None:
    name, written = data.draw(st.sampled_from(members))[0]
    others = [written, json.dumps(name), json.dumps(name, ensure_ascii=False)]
    again = (name, data.draw(st.sampled_from(others))), data.draw(VALUES)
    members = data.draw(st.permutations([*members, again]))
    body = ("{" + ",".join(f"{name}:{value}" for (_, name), value in members) + "}").encode()
    raw = {name: bytes(value) for name, value in json_object._RAW_OBJECT.decode(body).items()}
    assert len(raw) < len(members)
    assert not json_object._is_compact(body, raw)


@given(
    st.lists(
        st.tuples(st.text("abcdefgh_", max_size=9), VALUES.map(str.strip)),
        min_size=1,
        unique_by=lambda one: one[0],
    )
)
def test_a_body_as_most_clients_write_it_passes_as_compact(members: list[tuple[str, str]]) -> None:
    body = ("{" + ",".join(f'"{name}":{value}' for name, value in members) + "}").encode()
    raw = {name: bytes(value) for name, value in json_object._RAW_OBJECT.decode(body).items()}
    assert json_object._is_compact(body, raw)


# Keys.


def test_the_hash_of_a_key_is_the_same_however_it_comes_and_the_second_time() -> None:
    key = ids.new_tenant_key().key
    keys = TenantKeys("pepper")
    expected = ids.key_hash(key, "pepper")
    for _ in range(2):
        assert keys.hash_of((f"Bearer {key}",), ()) == expected
        assert keys.hash_of((f"bearer  {key} ",), ()) == expected
        assert keys.hash_of((), (key,)) == expected
        assert keys.hash_of((f"Bearer {key}",), (key,)) == expected
    assert TenantKeys("other").hash_of((), (key,)) != expected


def test_what_is_no_key_is_refused_each_time_and_not_remembered() -> None:
    keys = TenantKeys("pepper")
    one, other = ids.new_tenant_key().key, ids.new_tenant_key().key
    keys.hash_of((), (one,))
    keys.hash_of((), (other,))
    for authorizations, plain in (
        ((), ()),
        (("Bearer ",), ()),
        ((f"Bearer {one[:-1]}!",), ()),
        ((f"Bearer {one}", f"Bearer {one}"), ()),
        ((), (one, one)),
        ((f"Bearer {one}",), (other,)),
        ((f"Basic {one}",), ()),
        (("Bearer cl\udce9",), ()),
    ):
        for _ in range(2):
            with pytest.raises(ApiError) as refused:
                keys.hash_of(authorizations, plain)
            assert (refused.value.status, refused.value.code) == (401, "invalid_api_key")
            assert one not in refused.value.message
    assert len(keys._known) == 2


def test_no_more_keys_are_remembered_than_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "REMEMBERED", 3)
    keys = TenantKeys("pepper")
    for _ in range(10):
        key = ids.new_tenant_key().key
        assert keys.hash_of((), (key,)) == ids.key_hash(key, "pepper")
        assert len(keys._known) <= 3


# Candidates, prepared.


def test_a_candidate_is_prepared_once_and_as_long_as_it_is_the_same() -> None:
    prepared = Destinations({})
    one = candidate("p")
    assert prepared.of(one) is prepared.of(one)
    twin = one.model_copy()
    assert prepared.of(twin).candidate is twin
    assert prepared.of(twin) is not prepared.of(one)


def test_what_is_derived_is_made_once_for_each_object_and_of_no_more_than_are_allowed() -> None:
    made: list[list[int]] = []

    def length(value: list[int]) -> int:
        made.append(value)
        return len(value)

    known = ByIdentity[list[int], int](length, most=2)
    first, equal, other = [1], [1], [1, 2]
    assert [known.of(first), known.of(first), known.of(equal)] == [1, 1, 1]
    assert len(made) == 2
    assert known.of(other) == 2
    assert known.of(first) == 1
    assert len(made) == 4, "the first was forgotten with all others"


def test_a_destination_says_who_it_is_in_headers_that_can_be_sent() -> None:
    made = Destination(candidate("p", global_model_id="vendor/mödel 1\rx: y"), {})
    assert header_lines.split(made.header_lines) == {
        "x-synaxis-provider": "p",
        "x-synaxis-model": "vendor/m%C3%B6del%201%0Dx:%20y",
    }


def test_a_destination_has_its_providers_key_or_knows_that_it_is_missing() -> None:
    keyed = candidate("p", api_key_envs=("FIRST_API_KEY", "SECOND_API_KEY"))
    found = Destination(keyed, {"SECOND_API_KEY": "of-the-second"})
    assert (found.key, found.has_no_key) == ("of-the-second", False)
    assert b"of-the-second" in found.endpoint("chat", stream=False).head
    assert Destination(keyed, {}).has_no_key
    assert not Destination(candidate("p"), {}).has_no_key, "it wants none"


def test_an_endpoint_is_made_once_for_each_way_to_ask() -> None:
    made = Destination(candidate("p", base_url="https://provider.example/v1/"), {})
    chat = made.endpoint("chat", stream=False)
    assert chat.head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
    assert made.endpoint("chat", stream=False) is chat
    assert made.endpoint("chat", stream=True) is not chat
    assert made.endpoint("embeddings", stream=False).head.startswith(b"POST /v1/embeddings ")


def test_an_attempt_takes_no_longer_than_the_shorter_of_its_times() -> None:
    for first, total, shorter in ((1.0, 5.0, 1.0), (9.0, 5.0, 5.0)):
        timeouts = Timeouts(connect_s=1.0, first_token_s=first, between_tokens_s=1.0, total_s=total)
        assert Destination(candidate("p", timeouts=timeouts), {}).timeout_s == shorter


# Requests under way.


async def test_a_gateway_that_stops_waits_for_the_requests_under_way() -> None:
    under_way = UnderWay()
    assert await under_way.finished(5.0), "there are none"
    release = asyncio.Event()

    async def request() -> None:
        await release.wait()

    tasks = [asyncio.create_task(request()) for _ in range(2)]
    for task in tasks:
        under_way.add(task)
        task.add_done_callback(under_way.discard)
    assert not await under_way.finished(0.01)
    release.set()
    assert await under_way.finished(5.0)


async def test_what_does_not_finish_is_cut_and_may_clean_up() -> None:
    under_way = UnderWay()
    cleaned = asyncio.Event()

    async def request() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            cleaned.set()

    async def stubborn() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    release = asyncio.Event()
    tasks = [asyncio.create_task(request()), asyncio.create_task(stubborn())]
    for task in tasks:
        under_way.add(task)
    await asyncio.sleep(0)
    await under_way.cut(0.2)
    assert cleaned.is_set()
    assert not tasks[1].done(), "it is not waited for any longer"
    release.set()
    await asyncio.gather(*tasks, return_exceptions=True)
