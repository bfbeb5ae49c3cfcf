"""What is really on the bus is what the AsyncAPI document says."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator

import nats
import pytest
import pytest_asyncio
from nats.aio.msg import Msg
from tests.support.models_dev import ModelsDevServer
from tests.support.registry import eventually
from tests.support.system import System
from tests.support.upstream import FakeProvider

from synaxis_common import subjects
from synaxis_common.channels import BUCKET, CHANNELS, Channel
from synaxis_common.contracts.usage import CallReport, split_reports

MODEL = "talker-2-mini"
ASK = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}
SEEN_AT_LEAST = (
    subjects.ROUTE,
    subjects.MODELS,
    subjects.USAGE,
    subjects.LEASE_ALIVE,
    subjects.JOB_CLAIM,
    subjects.CATALOG_COMPLETE,
    f"{subjects.CATALOG}.provider.*.*",
    f"{subjects.OBSERVATION}.*",
    f"{subjects.EVENTS}.>",
    f"{BUCKET}.*.*",
    f"{BUCKET}._cursor",
    subjects.admin("provider.put"),
)


@pytest.fixture
def models_dev() -> Iterator[ModelsDevServer]:
    with ModelsDevServer.of_small_world() as server:
        yield server


@pytest_asyncio.fixture
async def system(models_dev: ModelsDevServer) -> AsyncIterator[System]:
    async with System.started({"SYNAXIS_MODELS_DEV_URL": models_dev.url}) as system:
        yield system


def is_on(subject: str, channel: Channel) -> bool:
    """Whether a message of this subject belongs to a channel."""
    tokens, pattern = subject.split("."), channel.subject.split(".")
    if pattern[-1] == ">":
        return len(tokens) >= len(pattern) and tokens[: len(pattern) - 1] == pattern[:-1]
    return len(tokens) == len(pattern) and all(
        wanted in ("*", token) for wanted, token in zip(pattern, tokens, strict=True)
    )


@pytest.mark.timeout(120)
async def test_every_message_is_of_a_documented_channel_and_of_its_kind(
    system: System, models_dev: ModelsDevServer
) -> None:
    heard: list[Msg] = []

    async def hear(message: Msg) -> None:
        heard.append(message)

    bus = await nats.connect(system.info["nats_url"])
    for subject in ("synaxis.>", f"{BUCKET}.>"):
        await bus.subscribe(subject, cb=hear)
    await bus.flush()
    async with FakeProvider("alpha", models=["acme/talker-2-mini"]) as provider:
        body = {"base_url": provider.base_url, "kind": "openai", "api_key_env": None}
        assert (await system.admin("PUT", "/providers/alpha", body)).status == 200
        api = models_dev.documents["/api.json"]
        models_dev.documents["/api.json"] = api.replace(b'"input": 0.3', b'"input": 0.25')
        await system.admin("POST", "/jobs/models-dev-sync/run")

        async def is_served() -> bool:
            answer = await system.http("POST", "/v1/chat/completions", json.dumps(ASK).encode())
            return answer.status == 200

        await eventually(is_served, "the model is served")
        await system.http("GET", "/v1/models")

        async def all_were_heard() -> bool:
            known = {channel.subject: channel for channel in CHANNELS}
            return all(any(is_on(msg.subject, known[name]) for msg in heard) for name in SEEN_AT_LEAST)

        try:
            await eventually(all_were_heard, "all of it is on the bus", within_s=40)
        finally:
            await bus.close()
    for message in heard:
        if message.subject.startswith(BUCKET) and not message.data:
            continue  # a key that is deleted has no value
        found = [channel for channel in CHANNELS if is_on(message.subject, channel)]
        assert len(found) == 1, message.subject
        kind = found[0].message
        for data in split_reports(message.data) if kind is CallReport else [message.data]:
            kind.model_validate_json(data)
            assert set(json.loads(data)) <= set(kind.model_fields), message.subject
