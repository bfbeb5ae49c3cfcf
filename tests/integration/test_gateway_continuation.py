"""A stream that breaks off and goes on at another provider, through a real gateway."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import openai
import pytest
from tests.support.gateway import Rig, candidate, running_gateway
from tests.support.upstream import Behaviour, FakeProvider

from synaxis_common.contracts.usage import AttemptOutcome, RequestOutcome

CONTINUE = {"x-synaxis-continue": "true"}
ASK: Any = {"model": "test-model", "messages": [{"role": "user", "content": "hi"}], "stream": True}
WITH_USAGE: Any = {**ASK, "stream_options": {"include_usage": True}}
REST = Behaviour(words=(" the", " other", " one"))


@pytest.fixture
async def providers() -> AsyncIterator[list[FakeProvider]]:
    """Two that can go on from a partial answer, with one between them that cannot."""
    async with AsyncExitStack() as stack:
        names = ("vllm-first", "other", "vllm-second")
        yield [await stack.enter_async_context(FakeProvider(name)) for name in names]


@pytest.fixture
async def rig(nats_url: str, providers: list[FakeProvider]) -> AsyncIterator[Rig]:
    async with running_gateway(nats_url, *map(candidate, providers)) as rig:
        yield rig


async def chunks(rig: Rig, **options: Any) -> list[Any]:
    stream = await rig.openai().chat.completions.create(**{**WITH_USAGE, **options}, extra_headers=CONTINUE)
    return [chunk async for chunk in stream]


def text(found: list[Any]) -> str:
    return "".join(choice.delta.content or "" for chunk in found for choice in chunk.choices)


async def test_the_client_gets_one_whole_answer(rig: Rig, providers: list[FakeProvider]) -> None:
    first, between, second = providers
    first.behaviour, second.behaviour = Behaviour(cut_after=2), REST
    found = await chunks(rig)
    assert text(found) == "Hello from the other one"
    assert len({chunk.id for chunk in found}) == 1, "the second goes on in the frame of the first"
    assert [choice.finish_reason for chunk in found for choice in chunk.choices][-1] == "stop"
    assert found[-1].synaxis == {"continued": True, "providers": ["vllm-first", "vllm-second"]}
    assert not between.calls, "it is not known to go on from a partial answer"
    asked = second.calls[0].json
    assert asked["messages"][-1] == {"role": "assistant", "content": "Hello from"}
    assert asked["continue_final_message"] is True


async def test_both_attempts_are_reported_and_the_client_sees_what_both_used(
    rig: Rig, providers: list[FakeProvider]
) -> None:
    first, _, second = providers
    first.behaviour, second.behaviour = Behaviour(cut_after=2), REST
    found = await chunks(rig)
    report = await rig.report()
    assert report.outcome is RequestOutcome.OK
    assert [attempt.outcome for attempt in report.attempts] == [AttemptOutcome.STREAM_CUT, AttemptOutcome.OK]
    broken, whole = report.attempts
    assert broken.usage is not None
    assert broken.usage_estimated
    assert whole.usage is not None
    assert not whole.usage_estimated
    assert found[-1].usage.completion_tokens == broken.usage.output + whole.usage.output
    assert found[-1].usage.prompt_tokens == broken.usage.input + whole.usage.input


async def test_without_the_header_the_stream_ends_in_an_error(
    rig: Rig, providers: list[FakeProvider]
) -> None:
    first, _, second = providers
    first.behaviour = Behaviour(cut_after=2)
    stream = await rig.openai().chat.completions.create(**ASK)
    with pytest.raises(openai.APIError, match="broke off"):
        _ = [chunk async for chunk in stream]
    assert not second.calls


@pytest.mark.parametrize(
    "fields",
    [{"response_format": {"type": "json_object"}}, {"n": 2}, {"logprobs": True}],
    ids=lambda fields: next(iter(fields)),
)
async def test_what_cannot_be_continued_ends_in_an_error(
    rig: Rig, providers: list[FakeProvider], fields: dict[str, Any]
) -> None:
    first, _, second = providers
    first.behaviour = Behaviour(cut_after=2)
    with pytest.raises(openai.APIError, match="broke off"):
        await chunks(rig, **fields)
    assert not second.calls


async def test_when_the_second_fails_too_the_stream_ends_in_one_error(
    rig: Rig, providers: list[FakeProvider]
) -> None:
    first, _, second = providers
    first.behaviour, second.behaviour = Behaviour(cut_after=2), Behaviour(status=503)
    async with aiohttp.ClientSession() as session:
        request = session.post(
            f"{rig.url}/v1/chat/completions", json=ASK, headers={**rig.headers, **CONTINUE}
        )
        async with request as answer:
            raw = await answer.read()
    assert b"[DONE]" not in raw
    assert raw.count(b'"error"') == 1
    assert json.loads(raw.strip().rpartition(b"data: ")[2])["error"]["code"] == "stream_cut"
    report = await rig.report()
    assert report.outcome is RequestOutcome.STREAM_CUT
