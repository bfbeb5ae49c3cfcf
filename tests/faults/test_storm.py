"""Providers that fail in turn: as long as one of them is well no client sees an error."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any, Final

import openai
import pytest
import pytest_asyncio
from tests.support.models_dev import ModelsDevServer
from tests.support.registry import eventually
from tests.support.system import System
from tests.support.upstream import Behaviour, FakeProvider

MODEL: Final = "talker-2-mini"
ASK: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}
SERVED: Final = {"alpha": "acme/talker-2-mini", "beta": "talker-2-mini", "gamma": "acme/Talker-2-Mini"}
FAILURES: Final = (
    Behaviour(status=500),
    Behaviour(drop=True),
    Behaviour(status=503, headers={"Retry-After": "5"}),
    Behaviour(body="<html>oops</html>", content_type="text/html"),
    Behaviour(status=429, headers={"Retry-After": "30"}),
    Behaviour(body='{"error": {"message": "overloaded"}}'),
    Behaviour(status=401, body='{"error": {"code": "invalid_api_key"}}'),
    Behaviour(error_after=0),
    Behaviour(cut_after=0),
)
TURN_S: Final = 0.6
CLIENTS: Final = 6
ANSWERS_EACH: Final = 20
"""What a client has at least in a turn: retries are a share of all requests, and are earned again before the
next turn costs up to two for each client."""


@pytest_asyncio.fixture
async def upstreams() -> AsyncIterator[dict[str, FakeProvider]]:
    async with AsyncExitStack() as stack:
        providers = {name: FakeProvider(name, models=[model]) for name, model in SERVED.items()}
        for provider in providers.values():
            await stack.enter_async_context(provider)
        yield providers


@pytest_asyncio.fixture
async def system(upstreams: dict[str, FakeProvider]) -> AsyncIterator[System]:
    with ModelsDevServer.of_small_world() as models_dev:
        environment = {"SYNAXIS_MODELS_DEV_URL": models_dev.url}
        async with System.started(environment, "--gateways", "2", "--registries", "2") as system:
            for name, provider in upstreams.items():
                body = {"base_url": provider.base_url, "kind": "openai", "api_key_env": None}
                assert (await system.admin("PUT", f"/providers/{name}", body)).status == 200

            async def all_available() -> bool:
                answer = await system.admin("GET", f"/provider-models?model={MODEL}&available=true")
                return len(answer.body["data"]) == len(upstreams)

            await eventually(all_available, "every provider serves the model")
            yield system


@pytest.mark.timeout(300)
async def test_no_client_sees_an_error_while_one_provider_is_well(
    system: System, upstreams: dict[str, FakeProvider]
) -> None:
    is_over = asyncio.Event()
    answered: Counter[str] = Counter()
    failed: list[str] = []
    requests = [0] * CLIENTS
    """By client: how many are over."""

    async def ask_on(number: int) -> None:
        async with system.openai() as client:
            while not is_over.is_set():
                try:
                    answered[await _provider_of(client, stream=number % 2 == 0)] += 1
                except openai.APIError as error:
                    failed.append(f"{type(error).__name__}: {error}")
                requests[number] += 1

    async def each_has_made(more: int) -> None:
        before = list(requests)

        async def have_made() -> bool:
            return all(now - then >= more for now, then in zip(requests, before, strict=True))

        await eventually(have_made, f"each client has made {more} more requests", within_s=60)

    turns = itertools.cycle(SERVED)
    async with asyncio.TaskGroup() as clients:
        for number in range(CLIENTS):
            clients.create_task(ask_on(number))
        for failure in FAILURES:
            well = next(turns)
            upstreams[well].behaviour = Behaviour()
            # Who has found it ill may be on the way to the last one that was well, which is ill after that.
            await each_has_made(1)
            for name in upstreams.keys() - {well}:
                upstreams[name].behaviour = failure
            await asyncio.gather(asyncio.sleep(TURN_S), each_has_made(ANSWERS_EACH))
        is_over.set()
    assert not failed
    assert set(answered) == set(SERVED), f"each of them was the one that was well: {answered}"


async def _provider_of(client: openai.AsyncOpenAI, *, stream: bool) -> str:
    if not stream:
        whole = await client.chat.completions.with_raw_response.create(**ASK)
        assert whole.parse().choices[0].message.content == "Hello from the provider"
        return str(whole.headers["x-synaxis-provider"])
    raw = await client.chat.completions.with_raw_response.create(**ASK, stream=True)
    text = ""
    async for chunk in raw.parse():
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
    assert text == "Hello from the provider"
    return str(raw.headers["x-synaxis-provider"])
