"""The main job on the whole system: real processes, real bus and database, the official client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import nats
import openai
import pytest
import pytest_asyncio
from tests.support.models_dev import ModelsDevServer
from tests.support.registry import eventually
from tests.support.system import System
from tests.support.upstream import Behaviour, FakeProvider

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODEL = "talker-2-mini"
ASK: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}
SERVED = {"alpha": "acme/talker-2-mini", "beta": "talker-2-mini", "gamma": "acme/Talker-2-Mini"}
"""What each provider calls the model; alpha is the cheapest, gamma the dearest."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstreams() -> AsyncIterator[dict[str, FakeProvider]]:
    providers = {name: FakeProvider(name, models=[model]) for name, model in SERVED.items()}
    for provider in providers.values():
        await provider.start()
    yield providers
    for provider in providers.values():
        await provider.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(upstreams: dict[str, FakeProvider]) -> AsyncIterator[System]:
    """Two registries and two gateways, and three providers that serve one model at different prices."""
    with ModelsDevServer.of_small_world() as models_dev:
        environment = {
            "SYNAXIS_MODELS_DEV_URL": models_dev.url,
            "SYNAXIS_DISCOVERY_CONFIRM_AFTER": "1",
            "SYNAXIS_DISCOVERY_SCHEDULE": "2s",
        }
        async with System.started(environment, "--gateways", "2", "--registries", "2") as system:
            for name, provider in upstreams.items():
                body = {"base_url": provider.base_url, "kind": "openai", "api_key_env": None}
                answer = await system.admin("PUT", f"/providers/{name}", body)
                assert answer.status == 200, answer.body

            async def all_available() -> bool:
                answer = await system.admin("GET", f"/provider-models?model={MODEL}&available=true")
                return answer.status == 200 and len(answer.body["data"]) == len(upstreams)

            await eventually(all_available, "every provider serves the model")
            yield system


@pytest_asyncio.fixture(loop_scope="module")
async def system(running: System, upstreams: dict[str, FakeProvider]) -> System:
    """The running system with every provider well, and what a former test did to them forgotten."""
    for provider in upstreams.values():
        provider.behaviour = Behaviour()

    async def cheapest_answers() -> bool:
        return {(await chat(running))[0] for _ in range(8)} == {"alpha"}

    await eventually(cheapest_answers, "the cheapest provider answers every request")
    return running


async def chat(system: System, **more: Any) -> tuple[str, str]:
    """The provider that answered one request, and what it said."""
    async with system.openai() as client:
        raw = await client.chat.completions.with_raw_response.create(**ASK, **more)
    return raw.headers["x-synaxis-provider"], raw.parse().choices[0].message.content or ""


async def test_a_dead_provider_is_replaced_marked_and_taken_back(
    system: System, upstreams: dict[str, FakeProvider]
) -> None:
    bus = await nats.connect(system.info["nats_url"])
    events: list[str] = []

    async def note(message: Any) -> None:
        events.append(message.subject)

    await bus.subscribe("synaxis.events.v1.model.>", cb=note)
    assert await chat(system) == ("alpha", "Hello from the provider")

    await upstreams["alpha"].stop()
    for _ in range(5):
        provider, text = await chat(system)
        assert (provider, text) == ("beta", "Hello from the provider")

    async def gone() -> bool:
        return f"synaxis.events.v1.model.unavailable.alpha.{MODEL}" in events

    await eventually(gone, "an event says that alpha is gone")
    row = (await system.admin("GET", "/provider-models/alpha/acme/talker-2-mini")).body
    assert row["is_available"] is False
    assert row["unavailable_reason"] == "unreachable"

    await upstreams["alpha"].start()

    async def back() -> bool:
        return f"synaxis.events.v1.model.available.alpha.{MODEL}" in events

    await eventually(back, "an event says that alpha is back")

    async def cheapest_again() -> bool:
        return (await chat(system))[0] == "alpha"

    await eventually(cheapest_again, "alpha answers again")
    await bus.close()


async def test_streams_fail_over_before_content_and_are_never_ended_falsely(
    system: System, upstreams: dict[str, FakeProvider]
) -> None:
    upstreams["alpha"].behaviour = Behaviour(error_after=0)
    async with system.openai() as client:
        stream = await client.chat.completions.create(**ASK, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
        assert text == "Hello from the provider"
        for provider in upstreams.values():
            provider.behaviour = Behaviour(cut_after=2)
        with pytest.raises(openai.APIError):
            async for _ in await client.chat.completions.create(**ASK, stream=True):
                pass


async def test_a_key_made_through_one_gateway_works_at_once_through_all(system: System) -> None:
    assert (await system.admin("POST", "/tenants", {"id": "acme", "name": "Acme"})).status == 201
    made = await system.admin("POST", "/tenants/acme/keys", {"name": "first"})
    assert made.status == 201
    async with system.openai(key=made.body["key"]) as client:
        answers = await asyncio.gather(*(client.chat.completions.create(**ASK) for _ in range(20)))
    assert len(answers) == 20
    assert (await system.admin("DELETE", f"/tenants/acme/keys/{made.body['key_id']}")).status == 200

    async def refused() -> bool:
        async with system.openai(key=made.body["key"]) as client:
            try:
                await client.chat.completions.create(**ASK)
            except openai.AuthenticationError:
                return True
        return False

    await eventually(refused, "the revoked key is refused", within_s=1.0)


async def test_a_limit_holds_over_both_gateways_and_registries(system: System) -> None:
    await system.admin("POST", "/tenants", {"id": "bounded", "name": "Bounded"})
    key = (await system.admin("POST", "/tenants/bounded/keys", {"name": ""})).body["key"]
    put = await system.admin("PUT", f"/tenants/bounded/limits/{MODEL}", {"allowed_rpm": 7})
    assert put.status == 200
    async with system.openai(key=key) as client:
        asked = [client.chat.completions.create(**ASK) for _ in range(30)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
    admitted = [answer for answer in answers if not isinstance(answer, BaseException)]
    refused = [answer for answer in answers if isinstance(answer, openai.RateLimitError)]
    assert (len(admitted), len(refused)) == (7, 23)
    assert 0 < float(refused[0].response.headers["retry-after"]) <= 61
    assert refused[0].code == "rate_limit_exceeded"


async def test_every_request_is_in_the_ledger_once_with_its_exact_cost(system: System) -> None:
    await system.admin("POST", "/tenants", {"id": "accountant", "name": "Accountant"})
    made = (await system.admin("POST", "/tenants/accountant/keys", {"name": ""})).body
    async with system.openai(made["key"]) as client:
        for _ in range(3):
            await client.chat.completions.create(**ASK)
    found: dict[str, Any] = {}

    async def settled() -> bool:
        found.update((await system.admin("GET", "/usage?tenant=accountant")).body["data"][0])
        return int(found["requests"]) >= 3

    await eventually(settled, "three requests are in the ledger")
    assert int(found["requests"]) == 3
    each = 7 * Decimal("0.1") + 5 * Decimal(
        "0.4"
    )  # what the provider says it used, at alpha's prices a million
    assert Decimal(found["cost_usd"]) == 3 * each / 1_000_000


async def test_a_second_sync_with_the_same_data_changes_no_row_and_emits_no_event(system: System) -> None:
    bus = await nats.connect(system.info["nats_url"])
    stream = bus.jetstream()

    async def runs() -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = (await system.admin("GET", "/jobs/models-dev-sync/runs")).body["data"]
        return rows

    events = (await stream.stream_info("SYNAXIS_EVENTS")).state.messages
    rows = await system.query(
        "SELECT xmin::text, * FROM provider_model ORDER BY provider_id, provider_model_id"
    )
    known = len(await runs())
    assert (await system.admin("POST", "/jobs/models-dev-sync/run")).status == 202

    async def finished() -> bool:
        newest = await runs()
        return len(newest) > known and newest[0]["status"] == "succeeded"

    await eventually(finished, "the second sync has succeeded")
    assert (await stream.stream_info("SYNAXIS_EVENTS")).state.messages == events
    again = await system.query(
        "SELECT xmin::text, * FROM provider_model ORDER BY provider_id, provider_model_id"
    )
    assert [row["xmin"] for row in again] == [row["xmin"] for row in rows]
    await bus.close()


BAD_INPUT: dict[str, tuple[str, bytes | None, str | None, int, str | None]] = {
    "not JSON": ("/v1/chat/completions", b"{not json", "tenant", 400, None),
    "a list": ("/v1/chat/completions", b"[1, 2]", "tenant", 400, None),
    "model of a wrong type": ("/v1/chat/completions", b'{"model": 7, "messages": []}', "tenant", 400, None),
    "messages of a wrong type": (
        "/v1/chat/completions",
        b'{"model": "m", "messages": "hi"}',
        "tenant",
        400,
        None,
    ),
    "too deep": ("/v1/chat/completions", b"[" * 5000, "tenant", 400, None),
    "an unknown model": (
        "/v1/chat/completions",
        b'{"model": "nobody-has-this", "messages": [{"role": "user", "content": "x"}]}',
        "tenant",
        404,
        "model_not_found",
    ),
    "no key": ("/v1/chat/completions", b"{}", None, 401, "invalid_api_key"),
    "a wrong key": ("/v1/chat/completions", b"{}", "sk-syn-wrong", 401, "invalid_api_key"),
    "50 MB": ("/v1/chat/completions", b"x" * 50_000_000, "tenant", 413, None),
    "models without a key": ("/v1/models", None, None, 401, "invalid_api_key"),
    "a tenant's key for the admin API": ("/admin/v1/providers", None, "tenant", 401, "invalid_api_key"),
    "a provider at a metadata service": (
        "/admin/v1/providers/evil",
        b'{"base_url": "http://169.254.169.254/latest"}',
        "admin",
        400,
        None,
    ),
    "a variable of ours as a provider's key": (
        "/admin/v1/providers/evil",
        b'{"base_url": "https://evil.example/v1", "api_key_env": "SYNAXIS_ADMIN_KEY"}',
        "admin",
        400,
        None,
    ),
    "a limit that is none": (
        "/admin/v1/tenants/default/limits/*",
        b'{"allowed_rpm": -1}',
        "admin",
        400,
        None,
    ),
    "a misspelt field": ("/admin/v1/tenants/default/limits/*", b'{"alowed_rpm": 1}', "admin", 400, None),
}


async def test_bad_input_gets_a_clear_error_and_harms_nobody(system: System) -> None:
    found = {}
    for what, (path, body, key, _, _) in BAD_INPUT.items():
        method = "GET" if body is None else "PUT" if path.startswith("/admin") else "POST"
        answer = await system.http(method, path, body, key)
        error = answer.body["error"]
        assert error["message"], what
        found[what] = (answer.status, error["code"])
    expected = {what: (status, code) for what, (_, _, _, status, code) in BAD_INPUT.items()}
    assert {what: status for what, (status, _) in found.items()} == {w: s for w, (s, _) in expected.items()}
    assert {w: c for w, (_, c) in found.items() if expected[w][1]} == {
        w: c for w, (_, c) in expected.items() if c
    }
    assert await chat(system) == ("alpha", "Hello from the provider")
    log = system.log.read_text(errors="replace")
    assert str(system.info["tenant_key"]) not in log
    assert str(system.info["admin_key"]) not in log
    assert "Traceback" not in log


@pytest.mark.parametrize(
    "behaviour",
    [
        Behaviour(body="<html>oops</html>", content_type="text/html"),
        Behaviour(body=""),
        Behaviour(body='{"error": {"message": "overloaded"}}'),
        Behaviour(drop=True),
        Behaviour(status=500),
        Behaviour(status=429, headers={"Retry-After": "1"}),
    ],
    ids=["html", "empty", "error-with-200", "drops", "500", "429"],
)
async def test_an_upstream_that_misbehaves_is_replaced_and_alone_gives_a_clear_error(
    system: System, upstreams: dict[str, FakeProvider], behaviour: Behaviour
) -> None:
    upstreams["alpha"].behaviour = behaviour
    provider_id, said = await chat(system)
    assert provider_id in ("beta", "gamma"), "whichever of them rests from the case before"
    assert said == "Hello from the provider"
    for provider in upstreams.values():
        provider.behaviour = behaviour
    async with system.openai() as client:
        with pytest.raises(openai.APIStatusError) as caught:
            await client.chat.completions.create(**ASK)
    assert caught.value.status_code in (429, 502, 503)
