"""Every service is restarted in turn under load, as an upgrade does it: no request is lost."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio
from tests.chaos.nemesis import processes_of
from tests.support.models_dev import ModelsDevServer
from tests.support.registry import eventually
from tests.support.system import System
from tests.support.upstream import Behaviour, FakeProvider

MODEL = "talker-2-mini"
ASK: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}
SERVICES = ("registry", "registry", "gateway", "gateway", "sync", "discovery")
CLIENTS = 6


@pytest_asyncio.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    async with FakeProvider("alpha", models=["acme/talker-2-mini"]) as provider:
        provider.behaviour = Behaviour(chunk_delay_s=0.05)
        yield provider


@pytest_asyncio.fixture
async def system(provider: FakeProvider) -> AsyncIterator[System]:
    with ModelsDevServer.of_small_world() as models_dev:
        environment = {
            "SYNAXIS_MODELS_DEV_URL": models_dev.url,
            "SYNAXIS_DISCOVERY_CONFIRM_AFTER": "1",
            "SYNAXIS_DRAIN_DELAY_S": "1",
            "SYNAXIS_LOG_LEVEL": "INFO",
        }
        async with System.started(environment, "--gateways", "2", "--registries", "2") as system:
            body = {"base_url": provider.base_url, "kind": "openai", "api_key_env": None}
            assert (await system.admin("PUT", "/providers/alpha", body)).status == 200
            answered = f"/provider-models?model={MODEL}&available=true"

            async def is_served() -> bool:
                return bool((await system.admin("GET", answered)).body["data"])

            await eventually(is_served, "the model is served")
            yield system


async def new_client(system: System, tenant: str) -> openai.AsyncOpenAI:
    """A client of a tenant that is far from its limits.

    It may ask once more: a connection that the kernel has queued at a port that is just being closed, which
    gateways share here, is reset before anybody has seen a byte of it. Behind a balancer there is none.
    """
    await system.admin("POST", "/tenants", {"id": tenant, "name": tenant})
    limit = {"allowed_rpm": 100_000, "monthly_budget_usd": "1000"}
    assert (await system.admin("PUT", f"/tenants/{tenant}/limits/*", limit)).status == 200
    made = await system.admin("POST", f"/tenants/{tenant}/keys", {"name": ""})
    return system.openai(made.body["key"]).with_options(max_retries=1)


async def restart(system: System, service: str) -> None:
    """End one of a service's processes as an orchestrator does, and wait until another has its place."""
    before = set(processes_of(system.process.pid, service))
    started = _starts_of(system, service)
    os.kill(min(before), signal.SIGTERM)

    async def is_back() -> bool:
        now = set(processes_of(system.process.pid, service))
        return min(before) not in now and len(now) == len(before) and _starts_of(system, service) > started

    await eventually(is_back, f"{service} is there again", within_s=60)


def _starts_of(system: System, service: str) -> int:
    lines = system.log.read_text(errors="replace").splitlines()
    return sum('"event": "started"' in line and f'"service": "{service}"' in line for line in lines)


@pytest.mark.timeout(180)
async def test_no_request_is_lost_while_every_service_is_restarted(
    system: System, provider: FakeProvider
) -> None:
    is_over = asyncio.Event()
    answered: list[str] = []
    failed: list[str] = []

    async def ask_on(number: int) -> None:
        async with await new_client(system, f"tenant-{number}") as client:
            while not is_over.is_set():
                try:
                    answered.append(await _answer(client, stream=number % 2 == 0))
                except openai.APIError as error:
                    failed.append(f"{type(error).__name__}: {error}")

    async with asyncio.TaskGroup() as clients:
        for number in range(CLIENTS):
            clients.create_task(ask_on(number))
        await eventually(_has(answered, CLIENTS), "every client has had an answer")
        for service in SERVICES:
            await restart(system, service)
            await eventually(_has(answered, len(answered) + CLIENTS), f"it goes on after {service}")
        is_over.set()
    assert not failed
    assert set(answered) == {"Hello from the provider"}
    assert len(provider.calls) == len(answered), "and none was sent twice"

    async def is_settled() -> bool:
        rows = (await system.admin("GET", "/usage?group_by=provider")).body["data"]
        return sum(int(row["requests"]) for row in rows) == len(answered)

    await eventually(is_settled, "every request is in the ledger", within_s=30)


def _has(answered: list[str], number: int) -> Any:
    async def has() -> bool:
        return len(answered) >= number

    return has


async def _answer(client: openai.AsyncOpenAI, *, stream: bool) -> str:
    if not stream:
        return (await client.chat.completions.create(**ASK)).choices[0].message.content or ""
    text = ""
    async for chunk in await client.chat.completions.create(**ASK, stream=True):
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
    return text
