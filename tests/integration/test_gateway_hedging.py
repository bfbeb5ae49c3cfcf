"""Hedging: the slow get company, the first to answer wins, both are accounted for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.support.gateway import QUICK, Rig, candidate, plan, post, running_gateway
from tests.support.upstream import Behaviour, FakeProvider

from synaxis_common.contracts.routing import Candidate

ASK: dict[str, Any] = {"model": "test-model", "messages": [{"role": "user", "content": "hi"}]}
STREAM = {**ASK, "stream": True}
P95_S = 0.05
PATIENT = QUICK.model_copy(update={"first_token_s": 3.0})


@pytest.fixture
async def slow() -> AsyncIterator[FakeProvider]:
    async with FakeProvider("slow") as provider:
        provider.behaviour = Behaviour(delay_s=2.0)
        yield provider


@pytest.fixture
async def fast() -> AsyncIterator[FakeProvider]:
    async with FakeProvider("fast") as provider:
        yield provider


def measured(provider: FakeProvider) -> Candidate:
    return candidate(provider, begins_within_s=P95_S, timeouts=PATIENT)


@pytest.fixture
async def rig(nats_url: str, slow: FakeProvider, fast: FakeProvider) -> AsyncIterator[Rig]:
    async with running_gateway(nats_url, measured(slow), measured(fast)) as running:
        yield running


async def hedged(rig: Rig, body: dict[str, Any] = ASK) -> tuple[int, Any, Any]:
    headers = {**rig.headers, "Content-Type": "application/json", "x-synaxis-hedge": "true"}
    return await post(rig, body, headers=headers)


async def test_without_a_word_of_the_request_nobody_gets_company(
    rig: Rig, slow: FakeProvider, fast: FakeProvider
) -> None:
    slow.behaviour = Behaviour(delay_s=0.2)
    _, headers, _ = await post(rig, ASK)
    assert headers["x-synaxis-provider"] == "slow"
    assert not fast.calls


async def test_a_tenant_may_have_all_its_requests_hedged_and_a_request_says_otherwise(
    rig: Rig, slow: FakeProvider, fast: FakeProvider
) -> None:
    rig.decide = lambda request: plan(request, measured(slow), measured(fast), hedge=True)
    slow.behaviour = Behaviour(delay_s=1.0)
    _, headers, _ = await post(rig, ASK)
    assert headers["x-synaxis-provider"] == "fast"
    said = {**rig.headers, "Content-Type": "application/json", "x-synaxis-hedge": "false"}
    _, headers, _ = await post(rig, ASK, headers=said)
    assert headers["x-synaxis-provider"] == "slow"


async def test_who_has_not_begun_by_its_p95_gets_company_and_the_first_to_answer_wins(
    rig: Rig, slow: FakeProvider, fast: FakeProvider
) -> None:
    status, headers, _ = await hedged(rig)
    assert (status, headers["x-synaxis-provider"], headers["x-synaxis-attempts"]) == (200, "fast", "2")
    async with asyncio.timeout(2):
        await slow.calls[0].client_left.wait()


async def test_both_attempts_are_reported_and_the_slower_one_as_given_up(rig: Rig) -> None:
    await hedged(rig)
    report = await rig.report()
    assert [(one.provider_id, one.outcome.value) for one in report.attempts] == [
        ("slow", "abandoned"),
        ("fast", "ok"),
    ]
    assert report.attempts[0].usage_estimated, "it may be billed all the same"


async def test_the_first_may_still_win(rig: Rig, slow: FakeProvider, fast: FakeProvider) -> None:
    slow.behaviour = Behaviour(delay_s=0.3)
    fast.behaviour = Behaviour(delay_s=2.0)
    _, headers, _ = await hedged(rig)
    assert headers["x-synaxis-provider"] == "slow"
    async with asyncio.timeout(2):
        await fast.calls[0].client_left.wait()
    report = await rig.report()
    assert [(one.provider_id, one.outcome.value) for one in report.attempts] == [
        ("fast", "abandoned"),
        ("slow", "ok"),
    ]


async def test_when_the_company_fails_the_first_is_waited_for(
    rig: Rig, slow: FakeProvider, fast: FakeProvider
) -> None:
    slow.behaviour = Behaviour(delay_s=0.3)
    fast.behaviour = Behaviour(status=503)
    status, headers, _ = await hedged(rig)
    assert (status, headers["x-synaxis-provider"]) == (200, "slow")


async def test_when_both_fail_the_client_is_told(rig: Rig, slow: FakeProvider, fast: FakeProvider) -> None:
    slow.behaviour = Behaviour(delay_s=0.2, status=503)
    fast.behaviour = Behaviour(status=503)
    status, _, answer = await hedged(rig)
    assert (status, len(answer["error"]["attempts"])) == (502, 2)


async def test_streams_race_to_their_first_content(rig: Rig, slow: FakeProvider) -> None:
    client = rig.openai(default_headers={"x-synaxis-hedge": "true"})
    stream = await client.chat.completions.create(**STREAM)
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
    assert text == "Hello from the provider"
    async with asyncio.timeout(2):
        await slow.calls[0].client_left.wait()


async def test_a_client_that_leaves_ends_both(rig: Rig, slow: FakeProvider, fast: FakeProvider) -> None:
    fast.behaviour = Behaviour(delay_s=2.0)
    asking = asyncio.create_task(hedged(rig))
    async with asyncio.timeout(2):
        while not fast.calls:
            await asyncio.sleep(0.01)
    asking.cancel()
    async with asyncio.timeout(2):
        await slow.calls[0].client_left.wait()
        await fast.calls[0].client_left.wait()
    report = await rig.report()
    assert [one.outcome.value for one in report.attempts] == ["client_gone", "client_gone"]


async def test_hedging_adds_no_more_than_a_twentieth(
    rig: Rig, slow: FakeProvider, fast: FakeProvider
) -> None:
    slow.behaviour = Behaviour(delay_s=0.1)
    fast.behaviour = Behaviour(delay_s=0.1)
    for _ in range(4):
        await asyncio.gather(*(hedged(rig) for _ in range(10)))
    extra = len(slow.calls) + len(fast.calls) - 40
    assert 1 <= extra <= 3, "one that was saved up, and one in twenty"
