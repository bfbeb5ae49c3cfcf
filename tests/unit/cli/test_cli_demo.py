"""The demo providers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer

from synaxis_cli.demo import SWIFT, THRIFTY, DemoProvider, Flavour

ASK: dict[str, Any] = {"model": "demo-chat-1", "messages": [{"role": "user", "content": "Good morning"}]}
QUICK = Flavour("demo-swift", SWIFT.prompt_price, SWIFT.completion_price, 0.0)

Demo = TestClient[Any, Any]


@pytest.fixture
async def demo() -> AsyncIterator[Demo]:
    async with TestClient(TestServer(DemoProvider(QUICK).application())) as client:
        yield client


async def chat(demo: Demo, **more: Any) -> aiohttp.ClientResponse:
    return await demo.post("/v1/chat/completions", json={**ASK, **more})


async def events(response: aiohttp.ClientResponse) -> list[Any]:
    """The data of a stream's events; the closing one as it stands."""
    lines = [line.removeprefix("data: ") for line in (await response.text()).split("\n\n") if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def test_the_thrifty_one_is_cheaper_and_slower() -> None:
    assert Decimal(THRIFTY.prompt_price) < Decimal(SWIFT.prompt_price)
    assert Decimal(THRIFTY.completion_price) < Decimal(SWIFT.completion_price)
    assert THRIFTY.delay_s > SWIFT.delay_s


async def test_it_lists_its_model_with_prices(demo: Demo) -> None:
    entry = (await (await demo.get("/v1/models")).json())["data"][0]
    assert entry["id"] == "demo-chat-1"
    assert entry["pricing"] == {"prompt": SWIFT.prompt_price, "completion": SWIFT.completion_price}


@pytest.mark.parametrize("content", ["Good morning", [{"type": "text", "text": "Good morning"}]])
async def test_an_answer_says_that_it_is_a_demo_and_counts_what_it_used(demo: Demo, content: Any) -> None:
    answer = await (await chat(demo, messages=[{"role": "user", "content": content}])).json()
    text = answer["choices"][0]["message"]["content"]
    assert "demo provider" in text
    assert "no language model" in text
    assert text.endswith("You said: Good morning")
    used = answer["usage"]
    assert used["prompt_tokens"] == 2
    assert used["total_tokens"] == used["prompt_tokens"] + used["completion_tokens"]


async def test_a_stream_is_the_same_answer_in_pieces(demo: Demo) -> None:
    whole = (await (await chat(demo)).json())["choices"][0]["message"]["content"]
    *chunks, usage, done = await events(await chat(demo, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == whole
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert usage["choices"] == []
    assert usage["usage"]["prompt_tokens"] == 2
    assert done == "[DONE]"


async def test_it_fails_as_told_and_recovers(demo: Demo) -> None:
    assert (await demo.post("/demo/fail", data='{"mode": "500"}')).status == 200
    assert (await chat(demo)).status == 500
    assert (await chat(demo, stream=True)).status == 500
    assert (await demo.post("/demo/fail", json={"mode": "off"})).status == 200
    assert (await chat(demo)).status == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_it_can_cut_its_answers_in_the_middle(demo: Demo, stream: bool) -> None:
    await demo.post("/demo/fail", json={"mode": "cut"})
    response = await chat(demo, stream=stream)
    assert response.status == 200
    with pytest.raises(aiohttp.ClientPayloadError):
        await response.read()


async def test_it_can_hang(demo: Demo) -> None:
    await demo.post("/demo/fail", json={"mode": "hang"})
    with pytest.raises(TimeoutError):
        await demo.post("/v1/chat/completions", json=ASK, timeout=aiohttp.ClientTimeout(total=0.2))


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/demo/fail", '{"mode": "explode"}', 400),
        ("/demo/fail", "{", 400),
        ("/demo/fail", "[]", 400),
        ("/v1/chat/completions", "{", 400),
        ("/v1/chat/completions", '{"model": "demo-chat-1"}', 400),
        ("/v1/chat/completions", '{"model": "demo-chat-1", "messages": ["hi"]}', 400),
        ("/v1/chat/completions", '{"model": "another", "messages": []}', 404),
    ],
)
async def test_what_it_cannot_serve_is_an_error_of_the_right_status(
    demo: Demo, path: str, body: str, status: int
) -> None:
    response = await demo.post(path, data=body)
    assert response.status == status
    assert (await response.json())["error"]["message"]
