"""Failover, streams and answers through a real gateway, with the official client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import aiohttp
import openai
import pytest
from tests.support.gateway import QUICK, Rig, candidate, granted, plan, post, running_gateway
from tests.support.upstream import Behaviour, FakeProvider

from synaxis_common.contracts.routing import RateLimitView
from synaxis_common.contracts.usage import AttemptOutcome, RequestOutcome, TokenUsage

HELLO = "Hello from the provider"
ASK: Any = {"model": "test-model", "messages": [{"role": "user", "content": "hi"}]}
STREAM: Any = {**ASK, "stream": True}
PATIENT = QUICK.model_copy(update={"first_token_s": 30.0, "between_tokens_s": 30.0, "total_s": 60.0})


@pytest.fixture
async def cheap() -> AsyncIterator[FakeProvider]:
    async with FakeProvider("cheap") as provider:
        yield provider


@pytest.fixture
async def dear() -> AsyncIterator[FakeProvider]:
    async with FakeProvider("dear") as provider:
        yield provider


@pytest.fixture
async def rig(nats_url: str, cheap: FakeProvider, dear: FakeProvider) -> AsyncIterator[Rig]:
    async with running_gateway(nats_url, candidate(cheap), candidate(dear)) as rig:
        yield rig


async def read_stream(rig: Rig, **options: Any) -> str:
    stream = await rig.openai().chat.completions.create(**{**STREAM, **options})
    text = ""
    async for chunk in stream:
        for choice in chunk.choices:
            text += choice.delta.content or ""
    return text


async def raw_stream(rig: Rig, body: Any = STREAM) -> bytes:
    async with streaming(rig, body) as answer:
        return await answer.read()


@asynccontextmanager
async def streaming(rig: Rig, body: Any = STREAM) -> AsyncIterator[aiohttp.ClientResponse]:
    """A stream that has begun."""
    async with aiohttp.ClientSession() as session:
        request = session.post(f"{rig.url}/v1/chat/completions", json=body, headers=rig.headers)
        async with request as answer:
            assert answer.status == 200
            yield answer


async def test_the_official_client_gets_an_answer_and_the_registry_a_report(
    rig: Rig, cheap: FakeProvider
) -> None:
    client = rig.openai()
    raw = await client.chat.completions.with_raw_response.create(**ASK)
    answer = raw.parse()

    assert answer.choices[0].message.content == HELLO
    assert raw.headers["x-synaxis-provider"] == "cheap"
    assert raw.headers["x-synaxis-model"] == "test-model"
    assert raw.headers["x-synaxis-attempts"] == "1"
    # 7 tokens in at 0.10 and 5 out at 0.30 USD a million
    assert Decimal(raw.headers["x-synaxis-cost-usd"]) == Decimal("0.0000022")
    assert "set-cookie" not in raw.headers
    assert "x-ratelimit-remaining-requests" not in raw.headers, (
        "the provider's own account is not ours to show"
    )
    report = await rig.report()
    assert str(report.request_id) == raw.headers["x-request-id"]
    assert report.outcome is RequestOutcome.OK
    assert report.attempts[0].usage == TokenUsage(input=7, output=5)
    assert not report.attempts[0].usage_estimated
    assert cheap.calls[0].json["model"] == "cheap/model"


async def test_the_official_client_reads_a_stream_and_the_usage_is_known_without_being_shown(
    rig: Rig,
) -> None:
    assert await read_stream(rig) == HELLO
    raw = await raw_stream(rig)
    assert raw.endswith(b"data: [DONE]\n\n")
    assert b'"usage"' not in raw, "the client did not ask for the usage chunk"
    report = await rig.report(2)
    assert report.attempts[0].usage == TokenUsage(input=7, output=5)
    assert report.stream
    assert report.time_to_first_token_s is not None


async def test_a_client_that_asks_for_usage_in_the_stream_gets_it(rig: Rig) -> None:
    raw = await raw_stream(rig, {**STREAM, "stream_options": {"include_usage": True}})
    assert b'"usage"' in raw


async def test_unknown_fields_go_to_the_provider_byte_for_byte(rig: Rig, cheap: FakeProvider) -> None:
    body = (
        b'{ "odd":  [1.0,\t2.50, {"deep" : "\\u00e9"}], "model":"test-model", "temperature": 0.70,\n'
        b' "messages": [ {"role":"user",  "content":"hi"} ], "provider": {"sort": "price"},'
        b' "models": ["other"] }'
    )
    status, _, _ = await post(rig, body)
    assert status == 200
    assert cheap.calls[0].body == (
        b'{"odd":[1.0,\t2.50, {"deep" : "\\u00e9"}],"model":"cheap/model","temperature":0.70,'
        b'"messages":[ {"role":"user",  "content":"hi"} ]}'
    )
    assert rig.route_requests[0].preferences.models == ("other",)


async def test_a_large_request_reaches_the_provider_whole(rig: Rig, cheap: FakeProvider) -> None:
    text = "é" * 1_000_000
    assert (await post(rig, {**ASK, "messages": [{"role": "user", "content": text}]}))[0] == 200
    assert cheap.calls[0].json["messages"][0]["content"] == text


async def test_an_answer_comes_through_byte_for_byte(rig: Rig, cheap: FakeProvider) -> None:
    said = b'{ "choices" : [ {"message":{"content":"\\u00e9"}} ],\n "own_field":1.50 }'
    cheap.behaviour = Behaviour(body=said.decode())
    async with aiohttp.ClientSession() as session:
        request = session.post(f"{rig.url}/v1/chat/completions", json=ASK, headers=rig.headers)
        async with request as answer:
            assert await answer.read() == said
    report = await rig.report()
    assert report.attempts[0].usage_estimated


FAILURES = {
    "500": (Behaviour(status=500), AttemptOutcome.SERVER_ERROR),
    "503 with retry-after": (
        Behaviour(status=503, headers={"Retry-After": "1"}),
        AttemptOutcome.SERVER_ERROR,
    ),
    "429": (Behaviour(status=429, headers={"Retry-After": "1"}), AttemptOutcome.RATE_LIMITED),
    "401": (Behaviour(status=401), AttemptOutcome.UNAUTHORIZED),
    "403": (Behaviour(status=403), AttemptOutcome.UNAUTHORIZED),
    "404": (Behaviour(status=404), AttemptOutcome.NOT_FOUND),
    "out of credit": (Behaviour(status=402), AttemptOutcome.UNAUTHORIZED),
    "redirect": (
        Behaviour(status=307, headers={"Location": "http://127.0.0.1:1/"}),
        AttemptOutcome.MALFORMED,
    ),
    "drop": (Behaviour(drop=True), AttemptOutcome.CONNECT_ERROR),
    "hang": (Behaviour(hang=True), AttemptOutcome.TIMEOUT),
    "empty": (Behaviour(body=""), AttemptOutcome.MALFORMED),
    "html": (Behaviour(body="<html>hi</html>", content_type="text/html"), AttemptOutcome.MALFORMED),
    "garbage": (Behaviour(body="\x00\x01 garbage"), AttemptOutcome.MALFORMED),
    "200 with an error": (
        Behaviour(body='{"error":{"message":"x","code":503}}'),
        AttemptOutcome.SERVER_ERROR,
    ),
}
WHOLE_FAILURES = {**FAILURES, "no choices": (Behaviour(body='{"choices":[]}'), AttemptOutcome.MALFORMED)}
STREAM_FAILURES = {
    **FAILURES,
    "cut before content": (Behaviour(cut_after=0), AttemptOutcome.MALFORMED),
    "clean end before content": (Behaviour(clean_cut_after=0), AttemptOutcome.MALFORMED),
    "error event first": (
        Behaviour(error_after=0, error={"message": "x", "code": 429}),
        AttemptOutcome.RATE_LIMITED,
    ),
    "error event at the very first": (
        Behaviour(error_after=0, role_chunk=False),
        AttemptOutcome.SERVER_ERROR,
    ),
    "garbage event first": (Behaviour(garbage_after=0), AttemptOutcome.MALFORMED),
    "comments but no content": (
        Behaviour(stall_after=0, comments_while_stalled=True),
        AttemptOutcome.TIMEOUT,
    ),
}


@pytest.mark.parametrize("case", WHOLE_FAILURES)
async def test_a_client_does_not_notice_that_the_first_provider_fails(
    rig: Rig, cheap: FakeProvider, case: str
) -> None:
    cheap.behaviour, outcome = WHOLE_FAILURES[case]
    raw = await rig.openai().chat.completions.with_raw_response.create(**ASK)
    assert raw.parse().choices[0].message.content == HELLO
    assert (raw.headers["x-synaxis-provider"], raw.headers["x-synaxis-attempts"]) == ("dear", "2")
    report = await rig.report()
    assert [attempt.outcome for attempt in report.attempts] == [outcome, AttemptOutcome.OK]
    assert report.outcome is RequestOutcome.OK


@pytest.mark.parametrize("case", STREAM_FAILURES)
async def test_a_streaming_client_does_not_notice_that_the_first_provider_fails(
    rig: Rig, cheap: FakeProvider, case: str
) -> None:
    cheap.behaviour, outcome = STREAM_FAILURES[case]
    assert await read_stream(rig) == HELLO
    report = await rig.report()
    assert [attempt.outcome for attempt in report.attempts] == [outcome, AttemptOutcome.OK]


async def test_a_provider_that_is_gone_is_passed_over(rig: Rig, cheap: FakeProvider) -> None:
    await cheap.stop()
    assert await read_stream(rig) == HELLO
    report = await rig.report()
    assert report.attempts[0].outcome is AttemptOutcome.CONNECT_ERROR
    assert report.attempts[0].usage is None


async def test_a_kept_connection_that_the_provider_closed_costs_no_attempt(
    rig: Rig, cheap: FakeProvider, dear: FakeProvider
) -> None:
    await post(rig, ASK)
    cheap.next_behaviours.append(Behaviour(drop=True))
    _, headers, _ = await post(rig, ASK)
    assert (headers["x-synaxis-provider"], headers["x-synaxis-attempts"]) == ("cheap", "1")
    assert not dear.calls


async def test_a_private_address_is_never_called_unless_an_operator_said_so(
    nats_url: str, cheap: FakeProvider, dear: FakeProvider
) -> None:
    async with running_gateway(nats_url, candidate(cheap, allow_private=False), candidate(dear)) as rig:
        _, headers, _ = await post(rig, ASK)
        assert headers["x-synaxis-provider"] == "dear"
        assert not cheap.calls


@pytest.mark.parametrize("streams", [True, False])
async def test_an_answer_without_end_is_cut(nats_url: str, cheap: FakeProvider, streams: bool) -> None:
    cheap.behaviour = Behaviour(words=["word " * 100] * 100, chunk_delay_s=0.01)
    async with running_gateway(nats_url, candidate(cheap), max_answer_bytes=20_000) as rig:
        if streams:
            assert b"stream_cut" in await raw_stream(rig)
        else:
            status, _, answer = await post(rig, ASK)
            assert (status, answer["error"]["attempts"][0]["outcome"]) == (502, "malformed")


async def test_many_clients_at_once_do_not_notice_that_the_cheapest_is_gone(
    rig: Rig, cheap: FakeProvider, dear: FakeProvider
) -> None:
    patient = QUICK.model_copy(update={"first_token_s": 4.0})
    rig.serve(candidate(cheap, timeouts=patient), candidate(dear, timeouts=patient))
    await cheap.stop()
    answers = await asyncio.gather(*(post(rig, ASK) for _ in range(60)))
    assert [status for status, _, _ in answers] == [200] * 60


async def test_a_provider_that_is_back_is_used_again(rig: Rig, cheap: FakeProvider) -> None:
    await cheap.stop()
    await post(rig, ASK)
    await cheap.start()
    async with asyncio.timeout(10):
        while (await post(rig, ASK))[1]["x-synaxis-provider"] != "cheap":
            pass


CUTS = {
    "reset": Behaviour(cut_after=2),
    "a clean end without a finish": Behaviour(clean_cut_after=2),
    "silence": Behaviour(stall_after=2),
    "comments without content": Behaviour(stall_after=2, comments_while_stalled=True),
    "an error event": Behaviour(error_after=2),
    "garbage": Behaviour(garbage_after=2),
    "done without a finish reason": Behaviour(finish=False),
}


@pytest.mark.parametrize("case", CUTS)
async def test_a_stream_cut_after_content_ends_with_an_error_and_is_not_restarted(
    rig: Rig, cheap: FakeProvider, dear: FakeProvider, case: str
) -> None:
    cheap.behaviour = CUTS[case]
    raw = await raw_stream(rig)
    assert b"[DONE]" not in raw
    last = json.loads(raw.strip().rpartition(b"data: ")[2])
    assert last["error"]["code"] == "stream_cut"
    assert b"Hello" in raw
    assert not dear.calls
    report = await rig.report()
    assert report.outcome is RequestOutcome.STREAM_CUT
    assert report.attempts[0].outcome is AttemptOutcome.STREAM_CUT
    assert report.attempts[0].usage_estimated


async def test_the_official_client_raises_when_its_stream_is_cut(rig: Rig, cheap: FakeProvider) -> None:
    cheap.behaviour = Behaviour(cut_after=2)
    with pytest.raises(openai.APIError, match="broke off"):
        await read_stream(rig)


async def test_a_finish_reason_without_done_is_a_complete_answer(rig: Rig, cheap: FakeProvider) -> None:
    cheap.behaviour = Behaviour(done=False, usage=None)
    assert (await raw_stream(rig)).endswith(b"data: [DONE]\n\n")
    report = await rig.report()
    assert report.outcome is RequestOutcome.OK
    assert report.attempts[0].usage_estimated


async def test_a_provider_that_does_not_close_after_its_finish_is_not_waited_for(
    rig: Rig, cheap: FakeProvider
) -> None:
    cheap.behaviour = Behaviour(hold_open=True)
    assert (await raw_stream(rig)).endswith(b"data: [DONE]\n\n")
    assert (await rig.report()).outcome is RequestOutcome.OK


async def test_a_large_event_passes(rig: Rig, cheap: FakeProvider) -> None:
    cheap.behaviour = Behaviour(words=["x" * 3_000_000])
    assert len(await read_stream(rig)) == 3_000_000


async def test_a_stream_is_passed_on_word_by_word(rig: Rig, cheap: FakeProvider) -> None:
    cheap.behaviour = Behaviour(stall_after=1)
    stream = await rig.openai().chat.completions.create(**STREAM)
    async for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    assert not cheap.calls[0].client_left.is_set(), "the first word is here while the provider still thinks"
    await stream.close()


@pytest.mark.parametrize(
    "behaviour", [Behaviour(hang=True), Behaviour(chunk_delay_s=0.1, words=["w "] * 200)]
)
@pytest.mark.parametrize("streams", [True, False])
async def test_a_client_that_goes_away_cancels_the_provider_at_once(
    nats_url: str, cheap: FakeProvider, behaviour: Behaviour, streams: bool
) -> None:
    cheap.behaviour = behaviour if streams else Behaviour(hang=True)
    async with running_gateway(nats_url, candidate(cheap, timeouts=PATIENT)) as rig:
        call = asyncio.create_task(post(rig, STREAM if streams else ASK))
        received = await cheap.wait_for_call()
        if streams and behaviour.chunk_delay_s:
            await asyncio.sleep(0.3)
        call.cancel()
        async with asyncio.timeout(1):
            await received.client_left.wait()
        report = await rig.report()
        assert report.outcome is RequestOutcome.CLIENT_GONE
        assert report.attempts[0].outcome is AttemptOutcome.CLIENT_GONE
        assert report.attempts[0].usage is not None
        if streams and behaviour.chunk_delay_s:
            assert report.attempts[0].usage.output > 0


async def test_a_request_that_the_provider_refuses_goes_back_as_it_is(
    rig: Rig, cheap: FakeProvider, dear: FakeProvider
) -> None:
    said = '{"error": {"message": "temperature must be at most 2",  "code": "bad_temperature"}}'
    cheap.behaviour = Behaviour(status=400, body=said)
    with pytest.raises(openai.BadRequestError, match="temperature must be at most 2"):
        await rig.openai().chat.completions.create(**ASK)
    assert not dear.calls
    report = await rig.report()
    assert (report.outcome, report.http_status) == (RequestOutcome.CLIENT_ERROR, 400)


async def test_a_provider_that_repeats_our_key_does_not_show_it_to_the_client(
    nats_url: str, cheap: FakeProvider
) -> None:
    cheap.behaviour = Behaviour(status=422, body="you sent secret-provider-key-1")
    one = candidate(cheap, api_key_envs=("CHEAP_API_KEY",))
    async with running_gateway(nats_url, one, environment={"CHEAP_API_KEY": "secret-provider-key-1"}) as rig:
        status, _, answer = await post(rig, ASK)
        assert status == 422
        assert cheap.calls[0].headers["Authorization"] == "Bearer secret-provider-key-1"
        assert "secret-provider-key-1" not in json.dumps(answer)
        assert "secret-provider-key-1" not in (await rig.report()).model_dump_json()


async def test_too_much_context_goes_to_a_larger_candidate(
    rig: Rig, cheap: FakeProvider, dear: FakeProvider
) -> None:
    too_long = '{"error": {"message": "maximum context length is 8", "code": "context_length_exceeded"}}'
    cheap.behaviour = Behaviour(status=400, body=too_long)
    rig.serve(candidate(cheap, context_window=8), candidate(dear, context_window=99))
    assert (await post(rig, ASK))[0] == 200
    await rig.serve_now(candidate(cheap, context_window=8), candidate(dear, context_window=8))
    status, _, answer = await post(rig, ASK)
    assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")
    assert len(dear.calls) == 1


async def test_when_nobody_answers_the_client_is_told_what_was_tried(
    rig: Rig, cheap: FakeProvider, dear: FakeProvider
) -> None:
    cheap.behaviour = Behaviour(status=500, body="secret stack trace")
    dear.behaviour = Behaviour(body="<html>")
    status, headers, answer = await post(rig, ASK)
    assert (status, answer["error"]["code"]) == (502, "upstream_error")
    assert [(each["provider_id"], each["outcome"]) for each in answer["error"]["attempts"]] == [
        ("cheap", "server_error"),
        ("dear", "malformed"),
    ]
    assert headers["x-synaxis-attempts"] == "2"
    assert headers["x-should-retry"] == "false"
    assert "secret" not in json.dumps(answer)


async def test_when_nobody_answers_in_time_it_is_a_504(
    rig: Rig, cheap: FakeProvider, dear: FakeProvider
) -> None:
    cheap.behaviour = dear.behaviour = Behaviour(hang=True)
    status, _, answer = await post(rig, STREAM)
    assert (status, answer["error"]["code"]) == (504, "upstream_timeout")


async def test_a_clients_own_timeout_leaves_time_for_the_second_provider(
    nats_url: str, cheap: FakeProvider, dear: FakeProvider
) -> None:
    patient = QUICK.model_copy(update={"first_token_s": 60.0, "total_s": 600.0})
    cheap.behaviour = Behaviour(hang=True)
    both = candidate(cheap, timeouts=patient), candidate(dear, timeouts=patient)
    async with running_gateway(nats_url, *both) as rig:
        answer = await rig.openai(timeout=2).chat.completions.create(**ASK)
        assert answer.choices[0].message.content == HELLO


async def test_when_all_are_rate_limited_the_client_is_told_the_shortest_wait(
    rig: Rig, cheap: FakeProvider, dear: FakeProvider
) -> None:
    cheap.behaviour = Behaviour(status=429, headers={"Retry-After": "30"})
    dear.behaviour = Behaviour(status=429, headers={"Retry-After-Ms": "4500"})
    status, headers, _ = await post(rig, ASK)
    assert (status, headers["Retry-After"]) == (429, "5")


async def test_a_missing_key_is_no_reason_to_fail(
    nats_url: str, cheap: FakeProvider, dear: FakeProvider
) -> None:
    keyless = candidate(cheap, api_key_envs=("CHEAP_API_KEY",))
    async with running_gateway(nats_url, keyless, candidate(dear)) as rig:
        status, headers, _ = await post(rig, ASK)
        assert (status, headers["x-synaxis-attempts"]) == (200, "1")
        assert [each.outcome.value for each in (await rig.report()).attempts] == ["no_key", "ok"]


async def test_our_own_secrets_are_never_sent_as_a_key(nats_url: str, cheap: FakeProvider) -> None:
    greedy = candidate(cheap, api_key_envs=("SYNAXIS_ADMIN_KEY",))
    async with running_gateway(nats_url, environment={"SYNAXIS_ADMIN_KEY": "x"}) as rig:
        rig.decide = lambda request: plan(request, greedy, permit=granted(request))
        status, _, answer = await post(rig, ASK)
        assert (status, answer["error"]["code"]) == (503, "no_provider_available")
        assert not cheap.calls
        returned = await rig.lease_return()
        assert rig.route_requests[0].lease is not None
        assert returned.lease_id == rig.route_requests[0].lease.lease_id
        assert returned.unused_permits == 1, "the permit was not used"
        assert (await rig.report()).lease_id is None


async def test_no_more_than_four_candidates_are_tried(nats_url: str, cheap: FakeProvider) -> None:
    cheap.behaviour = Behaviour(status=500)
    many = [candidate(cheap, provider_model_id=f"m{number}") for number in range(6)]
    async with running_gateway(nats_url, *many) as rig:
        assert (await post(rig, ASK))[0] == 502
        assert len(cheap.calls) == 4


async def test_the_answer_says_what_is_left_of_the_tenants_limits(rig: Rig, cheap: FakeProvider) -> None:
    view = RateLimitView(limit_requests=10, remaining_requests=9, reset_requests_s=6.5)
    rig.decide = lambda request: plan(request, candidate(cheap), rate_limits=view)
    _, headers, _ = await post(rig, ASK)
    assert headers["x-ratelimit-limit-requests"] == "10"
    assert headers["x-ratelimit-remaining-requests"] == "9"
    assert headers["x-ratelimit-reset-requests"] == "6.5s"


async def test_completions_and_embeddings_take_the_same_way(rig: Rig, cheap: FakeProvider) -> None:
    client = rig.openai()
    completion = await client.completions.create(model="test-model", prompt="hi")
    assert completion.choices[0].text == HELLO
    embeddings = await client.embeddings.create(model="test-model", input="hi", encoding_format="float")
    assert embeddings.data[0].embedding == [0.25, -0.5]
    assert [each.path for each in cheap.calls] == ["/v1/completions", "/v1/embeddings"]


async def test_nothing_of_the_clients_headers_reaches_the_provider(rig: Rig, cheap: FakeProvider) -> None:
    own = {
        "Cookie": "a=b",
        "X-Forwarded-For": "1.2.3.4",
        "OpenAI-Organization": "org-1",
        "x-request-id": "mine",
    }
    _, headers, _ = await post(rig, ASK, headers={**rig.headers, **own})
    sent = {name.lower(): value for name, value in cheap.calls[0].headers.items()}
    assert not {"cookie", "x-forwarded-for", "openai-organization"} & sent.keys()
    assert rig.tenant_key not in json.dumps(sent)
    assert sent["accept-encoding"] == "identity"
    assert headers["x-request-id"] != "mine"
    assert sent["x-request-id"] == headers["x-request-id"]


async def test_a_stopping_gateway_finishes_its_streams_and_its_reports(
    nats_url: str, cheap: FakeProvider
) -> None:
    cheap.behaviour = Behaviour(chunk_delay_s=0.15)
    async with running_gateway(nats_url, candidate(cheap, timeouts=PATIENT), shutdown_grace_s=12.0) as rig:
        async with streaming(rig) as answer:
            await answer.content.readany()
            rig.stop()
            assert (await answer.read()).endswith(b"data: [DONE]\n\n")
        assert (await rig.report()).outcome is RequestOutcome.OK


async def test_a_gateway_out_of_patience_ends_its_streams_with_an_error(
    nats_url: str, cheap: FakeProvider
) -> None:
    cheap.behaviour = Behaviour(chunk_delay_s=0.1, words=["w "] * 300)
    async with running_gateway(nats_url, candidate(cheap, timeouts=PATIENT), shutdown_grace_s=5.5) as rig:
        async with streaming(rig) as answer:
            await answer.content.readany()
            rig.stop()
            assert b"The gateway is stopping" in await answer.read()
        assert (await rig.report()).attempts[0].outcome is AttemptOutcome.ABANDONED
