"""Discovery polls real HTTP servers, well-behaved and not, and tells what came of it on the bus."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from pydantic import SecretStr
from tests.support.certificates import localhost_certificate, server_tls
from tests.support.http_proxy import HttpProxy, Says
from tests.support.upstream import FakeProvider
from tests.support.workers import StubRegistry, worker_world

from synaxis_common.contracts.jobs import JobFinish, RunStatus
from synaxis_common.contracts.observation import (
    DiscoveryTarget,
    PollOutcome,
    ProviderObservation,
    WireKind,
)
from synaxis_common.logging import configure_logging
from synaxis_common.service import Runtime
from synaxis_discovery.app import discovering
from synaxis_discovery.settings import DiscoverySettings

World = tuple[Runtime, StubRegistry]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
KEY = "canary-key-that-must-not-be-seen"
ENVIRONMENT = {"ALPHA_API_KEY": KEY, "BETA_API_KEY": "beta-key", "EMPTY_API_KEY": " ", "UNASKED_KEY": "x"}
QUICK = {"discovery_timeout_s": 1.0, "discovery_spread_s": 0.0, "discovery_targets_interval_s": 0.2}


@pytest.fixture
async def world(nats_url: str) -> AsyncIterator[World]:
    async with worker_world(nats_url) as made:
        yield made


@asynccontextmanager
async def server(handler: Handler, path: str = "/v1/models") -> AsyncIterator[str]:
    """A provider on loopback, by its base URL."""
    app = web.Application()
    app.router.add_get(path, handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


def target(base_url: str, provider_id: str = "alpha", **fields: Any) -> DiscoveryTarget:
    said = {
        "provider_id": provider_id,
        "base_url": base_url,
        "kind": "openai",
        "api_key_envs": ("ALPHA_API_KEY",),
        "poll": True,
        "allow_private": True,
        **fields,
    }
    return DiscoveryTarget.model_validate(said)


@asynccontextmanager
async def discovery(world: World, **settings: Any) -> AsyncIterator[StubRegistry]:
    """Discovery, running, with keys of two providers."""
    runtime, registry = world
    chosen = DiscoverySettings(**{**QUICK, **settings})
    async with discovering(runtime, chosen, ENVIRONMENT):
        yield registry


async def poll(world: World, asked: DiscoveryTarget, **settings: Any) -> ProviderObservation:
    """Have one provider polled because the registry asks for it."""
    return (await poll_each(world, asked, **settings))[0]


async def poll_each(world: World, *asked: DiscoveryTarget, **settings: Any) -> list[ProviderObservation]:
    """The same of several, one after the other."""
    async with discovery(world, **settings) as registry:
        await registry.until(lambda: bool(registry.targets_requests))
        for one in asked:
            await _ask(registry, one)
        return registry.observations[:]


async def _ask(registry: StubRegistry, asked: DiscoveryTarget) -> None:
    known = len(registry.observations)
    await registry.ask_poll(asked)
    await registry.until(lambda: len(registry.observations) > known, timeout=20)


async def run_job(world: World, *targets: DiscoveryTarget, **settings: Any) -> JobFinish:
    """Do the hourly run once."""
    _, registry = world
    registry.targets.extend(sorted(targets, key=lambda one: one.provider_id))
    registry.grant_once()
    async with discovery(world, **settings):
        return await registry.end(timeout=30)


def answering(document: Any, status: int = 200, headers: dict[str, str] | None = None) -> Handler:
    async def handler(_request: web.Request) -> web.StreamResponse:
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        return web.Response(body=body, status=status, headers=headers)

    return handler


LIST = {"object": "list", "data": [{"id": "a/one", "context_length": 1000}, {"id": "two"}]}


async def test_a_good_list_is_told_with_what_it_says(world: World) -> None:
    seen: list[web.Request] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append(request)
        return web.json_response(LIST)

    async with server(handler) as url:
        observation = await poll(world, target(url, headers={"X-Project": "p"}))
    assert (observation.outcome, observation.http_status, observation.error) == (PollOutcome.OK, 200, None)
    assert [model.provider_model_id for model in observation.models] == ["a/one", "two"]
    assert observation.models[0].facts.context_window == 1000
    assert observation.latency_s is not None
    assert 0 < observation.latency_s < 1
    assert (seen[0].headers["Authorization"], seen[0].headers["X-Project"]) == (f"Bearer {KEY}", "p")


async def test_a_provider_that_needs_no_key_is_sent_none(world: World) -> None:
    seen: list[web.Request] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append(request)
        return web.json_response(LIST)

    async with server(handler) as url:
        observation = await poll(world, target(url, api_key_envs=()))
    assert observation.outcome == PollOutcome.OK
    assert "Authorization" not in seen[0].headers


async def _hang(_request: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def _trickle(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse()
    await answer.prepare(request)
    while True:
        await answer.write(b" ")
        await asyncio.sleep(0.05)


async def _endless(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse()
    await answer.prepare(request)
    while True:
        await answer.write(b" " * 1_000_000)


async def _cut(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Length": "10000"})
    await answer.prepare(request)
    await answer.write(json.dumps(LIST).encode())
    assert request.transport is not None
    request.transport.close()
    return answer


async def _redirect(_request: web.Request) -> web.StreamResponse:
    raise web.HTTPFound("/elsewhere")


GZIP = {"Content-Encoding": "gzip"}
BOMB = gzip.compress(b"[" + b" " * 300_000_000 + b"]")
HUGE = {"data": [{"id": f"vendor/model-with-quite-a-long-name-{number:06}"} for number in range(20_000)]}
ECHO = {"error": {"message": f"Incorrect API key provided: {KEY}"}}

MISBEHAVIOUR: dict[str, tuple[Handler, PollOutcome]] = {
    "hangs": (_hang, PollOutcome.UNREACHABLE),
    "trickles": (_trickle, PollOutcome.UNREACHABLE),
    "cuts": (_cut, PollOutcome.UNREACHABLE),
    "500": (answering("no", 500), PollOutcome.UNREACHABLE),
    "503": (answering("no", 503), PollOutcome.UNREACHABLE),
    "529": (answering("no", 529), PollOutcome.UNREACHABLE),
    "401": (answering(ECHO, 401), PollOutcome.UNAUTHORIZED),
    "403": (answering(ECHO, 403), PollOutcome.UNAUTHORIZED),
    "429": (answering("no", 429), PollOutcome.RATE_LIMITED),
    "404": (answering("no", 404), PollOutcome.NOT_A_MODEL_LIST),
    "400": (answering("no", 400), PollOutcome.NOT_A_MODEL_LIST),
    "redirects": (_redirect, PollOutcome.NOT_A_MODEL_LIST),
    "HTML": (answering(b"<html>hello</html>"), PollOutcome.NOT_A_MODEL_LIST),
    "empty": (answering(b""), PollOutcome.NOT_A_MODEL_LIST),
    "half a list": (answering(json.dumps(LIST).encode()[:40]), PollOutcome.NOT_A_MODEL_LIST),
    "an error in a 200": (answering(ECHO), PollOutcome.NOT_A_MODEL_LIST),
    "too deep": (answering(b"[" * 100_000), PollOutcome.NOT_A_MODEL_LIST),
    "never ends": (_endless, PollOutcome.NOT_A_MODEL_LIST),
    "a gzip bomb": (answering(BOMB, headers=GZIP), PollOutcome.NOT_A_MODEL_LIST),
    "bad gzip": (answering(b"xxxx", headers=GZIP), PollOutcome.UNREACHABLE),
    "too many models": (answering(HUGE), PollOutcome.NOT_A_MODEL_LIST),
}


@pytest.mark.parametrize("case", MISBEHAVIOUR)
async def test_what_a_provider_does_is_told_apart_and_its_key_is_never_told(world: World, case: str) -> None:
    handler, outcome = MISBEHAVIOUR[case]
    patience = {} if case in ("hangs", "trickles") else {"discovery_timeout_s": 20.0}
    async with server(handler) as url:
        observation = await poll(world, target(url), **patience)
    assert (observation.outcome, observation.models) == (outcome, ())
    assert observation.error
    assert KEY not in observation.model_dump_json()


async def test_an_empty_list_is_a_list(world: World) -> None:
    async with server(answering({"object": "list", "data": []})) as url:
        observation = await poll(world, target(url))
    assert (observation.outcome, observation.models) == (PollOutcome.OK, ())


async def test_broken_entries_are_counted(world: World) -> None:
    async with server(answering({"data": [{"id": "good"}, {}, 5]})) as url:
        observation = await poll(world, target(url))
    assert (observation.outcome, len(observation.models), observation.skipped_entries) == (
        PollOutcome.OK,
        1,
        2,
    )


async def test_nobody_listening_is_unreachable(world: World) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        observation = await poll(world, target(f"http://127.0.0.1:{taken.getsockname()[1]}/v1"))
    assert (observation.outcome, observation.http_status) == (PollOutcome.UNREACHABLE, None)


@pytest.mark.parametrize(
    ("base_url", "allow_private"),
    [
        ("http://127.0.0.1:{port}/v1", False),
        ("https://localhost:{port}/v1", False),
        ("http://169.254.169.254/latest", True),
        ("https://${{HOST}}/v1", True),
        ("http://user:password@127.0.0.1:{port}/v1", True),
    ],
)
async def test_a_key_goes_to_no_address_that_is_not_allowed(
    world: World, base_url: str, allow_private: bool
) -> None:
    seen: list[web.Request] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append(request)
        return web.json_response(LIST)

    async with server(handler) as url:
        port = url.rpartition(":")[2].partition("/")[0]
        asked = target(base_url.format(port=port), allow_private=allow_private)
        observation = await poll(world, asked)
    assert observation.outcome == PollOutcome.UNREACHABLE
    assert not seen


def pages(kind: WireKind, seen: list[dict[str, str]]) -> Handler:
    """Three pages in the way of Anthropic or Google."""

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append({**request.headers, **request.query})
        after = request.query.get("after_id" if kind == "anthropic" else "pageToken", "0")
        number = int(after.removeprefix("model-")) + 1
        if kind == "anthropic":
            entry = {"type": "model", "id": f"model-{number}"}
            return web.json_response({"data": [entry], "has_more": number < 3, "last_id": entry["id"]})
        more = {"nextPageToken": f"model-{number}"} if number < 3 else {}
        return web.json_response({"models": [{"name": f"models/model-{number}"}], **more})

    return handler


@pytest.mark.parametrize(("kind", "header"), [("anthropic", "x-api-key"), ("google", "x-goog-api-key")])
async def test_all_pages_are_read_with_the_key_where_the_provider_wants_it(
    world: World, kind: WireKind, header: str
) -> None:
    seen: list[dict[str, str]] = []
    async with server(pages(kind, seen)) as url:
        observation = await poll(world, target(url, kind=kind))
    assert [model.provider_model_id for model in observation.models] == ["model-1", "model-2", "model-3"]
    assert {request[header] for request in seen} == {KEY}
    assert all("Authorization" not in request for request in seen)
    if kind == "anthropic":
        assert {request["anthropic-version"] for request in seen} == {"2023-06-01"}


async def test_a_failure_on_a_later_page_fails_the_poll(world: World) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        if "after_id" in request.query:
            return web.Response(status=500)
        return web.json_response({"data": [{"id": "a"}], "has_more": True, "last_id": "a"})

    async with server(handler) as url:
        observation = await poll(world, target(url, kind="anthropic"))
    assert (observation.outcome, observation.models) == (PollOutcome.UNREACHABLE, ())


@pytest.mark.parametrize("repeats", [True, False])
async def test_pages_without_end_are_no_list(world: World, repeats: bool) -> None:
    numbers = iter(range(10_000))

    async def handler(_request: web.Request) -> web.StreamResponse:
        last = "same" if repeats else f"{next(numbers)}"
        return web.json_response({"data": [{"id": "a"}], "has_more": True, "last_id": last})

    async with server(handler) as url:
        observation = await poll(world, target(url, kind="anthropic"), discovery_timeout_s=20.0)
    assert (observation.outcome, observation.models) == (PollOutcome.NOT_A_MODEL_LIST, ())
    assert "without end" in (observation.error or "")


async def test_google_s_answer_to_a_wrong_key_is_about_the_key(world: World) -> None:
    body = {"error": {"code": 400, "status": "INVALID_ARGUMENT", "details": [{"reason": "API_KEY_INVALID"}]}}
    async with server(answering(body, 400)) as url:
        observation = await poll(world, target(url, kind="google"))
    assert observation.outcome == PollOutcome.UNAUTHORIZED


async def test_the_hourly_run_polls_everybody_who_is_on_and_counts_what_came(world: World) -> None:
    _, registry = world
    registry.page_size = 2
    priced = {"data": [{"id": "x", "pricing": {"prompt": "0.00000015", "completion": "0.0000006"}}]}
    async with server(answering(LIST)) as good, server(answering(priced)) as rich, server(_hang) as dead:
        end = await run_job(
            world,
            target(good, "a-good"),
            target(rich, "b-rich", api_key_envs=("MISSING", "BETA_API_KEY")),
            target(dead, "c-dead"),
            target(good, "d-without-key", api_key_envs=("EMPTY_API_KEY",)),
            target(good, "e-not-polled", poll=False),
            target(good, "f-open", api_key_envs=()),
        )
        await registry.until(lambda: len(registry.observations) == 4)
    assert end.status == RunStatus.SUCCEEDED
    assert end.counts == {"targets": 6, "polled": 4, "ok": 3, "unreachable": 1, "models": 5}
    assert {one.provider_id for one in registry.observations} == {"a-good", "b-rich", "c-dead", "f-open"}
    prices = registry.observation("b-rich").models[0].prices
    assert prices is not None
    assert (prices.input, prices.output) == (Decimal("0.15"), Decimal("0.6"))


async def test_slow_providers_are_polled_at_the_same_time(world: World) -> None:
    runtime, _ = world
    async with server(_hang) as dead:
        begun = runtime.clock.monotonic()
        end = await run_job(world, *(target(dead, f"p{number:02}") for number in range(20)))
        took_s = runtime.clock.monotonic() - begun
    assert end.counts["unreachable"] == 20
    assert took_s < 5  # one after another they would take 20 s


async def test_no_more_are_polled_at_the_same_time_than_is_allowed(world: World) -> None:
    now, most = 0, 0

    async def handler(_request: web.Request) -> web.StreamResponse:
        nonlocal now, most
        now, most = now + 1, max(most, now + 1)
        await asyncio.sleep(0.02)
        now -= 1
        return web.json_response(LIST)

    async with server(handler) as url:
        targets = [target(url, f"p{number:02}") for number in range(20)]
        end = await run_job(world, *targets, discovery_concurrency=3)
    assert end.counts["ok"] == 20
    assert most == 3


async def test_without_a_registry_to_say_whom_to_poll_the_run_fails(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("synaxis_discovery.targets.REPLY_TIMEOUT_S", 0.2)
    monkeypatch.setattr("synaxis_common.subjects.DISCOVERY_TARGETS", "nobody.is.here")
    _, registry = world
    registry.grant_once()
    async with discovery(world):
        end = await registry.end()
    assert end.status == RunStatus.FAILED
    assert "does not say whom to poll" in (end.error or "")


async def test_the_registry_is_told_which_keys_are_here_by_name_only(world: World) -> None:
    _, registry = world
    registry.key_variables = ("ALPHA_API_KEY", "BETA_API_KEY", "EMPTY_API_KEY", "MISSING_API_KEY", "PATH")
    async with discovery(world):
        await registry.until(lambda: len(registry.targets_requests) >= 2)
    first, second = registry.targets_requests[:2]
    assert first.keys_present is None
    assert second.keys_present == ("ALPHA_API_KEY", "BETA_API_KEY")
    assert all(KEY not in request.model_dump_json() for request in registry.targets_requests)


async def test_variables_that_become_known_later_are_told_soon(world: World) -> None:
    _, registry = world
    async with discovery(world):
        await registry.until(lambda: len(registry.targets_requests) >= 2)
        registry.key_variables = ("BETA_API_KEY",)
        await registry.until(
            lambda: registry.targets_requests[-1].keys_present == ("BETA_API_KEY",), timeout=3.0
        )


async def test_that_no_key_is_here_is_told_too(world: World) -> None:
    _, registry = world
    registry.key_variables = ("MISSING_API_KEY",)
    async with discovery(world):
        await registry.until(
            lambda: registry.targets_requests[-1:] != [] and len(registry.targets_requests) > 1
        )
    assert registry.targets_requests[1].keys_present == ()


async def test_a_request_that_is_none_does_no_harm(world: World) -> None:
    _, registry = world
    async with server(answering(LIST)) as url, discovery(world):
        await registry.until(lambda: bool(registry.targets_requests))
        for body in (b"", b"not json", b'{"target": 5}'):
            await registry.client.publish("synaxis.discovery.v1.poll", body)
        await registry.ask_poll(target(url))
        await registry.until(lambda: bool(registry.observations))
    assert registry.observations[0].outcome == PollOutcome.OK


async def test_no_key_is_in_the_logs(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    configure_logging("discovery", "DEBUG")
    try:
        async with server(answering(ECHO, 401)) as url, server(_cut) as cut:
            await run_job(world, target(url, "one"), target(cut, "two"))
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    written = capfd.readouterr().err
    assert "provider_polled" in written
    assert KEY not in written


PROXY_PASSWORD = "hunter2-of-the-proxy"


async def test_lists_are_asked_for_through_the_proxy_unless_their_host_is_exempt(world: World) -> None:
    async with FakeProvider() as provider, HttpProxy(f"user:{PROXY_PASSWORD}") as proxy:
        named = f"http://only.the.proxy.test:{provider.port}/v1"
        through = {"upstream_proxy": SecretStr(proxy.url), "upstream_no_proxy": "127.0.0.0/8"}
        told = await poll_each(world, target(named), target(provider.base_url), **through)
        assert [one.outcome for one in told] == [PollOutcome.OK] * 2
        assert proxy.asked_for == [f"GET {named}/models"]
        assert len(provider.received) == 2
        assert "Proxy-Authorization" not in provider.received[0].headers


async def test_lists_are_asked_for_with_tls_within_a_tunnel(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = localhost_certificate(tmp_path)
    trusting = ssl.create_default_context(cafile=str(certificate))
    monkeypatch.setattr(aiohttp.connector, "_SSL_CONTEXT_VERIFIED", trusting)
    async with FakeProvider(tls=server_tls(certificate)) as provider, HttpProxy("user:secret") as proxy:
        told = await poll(world, target(provider.base_url), upstream_proxy=SecretStr(proxy.url))
        assert told.outcome == PollOutcome.OK
        assert proxy.asked_for == [f"CONNECT localhost:{provider.port}"]
        assert "Proxy-Authorization" not in provider.received[0].headers


async def test_a_proxy_that_refuses_is_no_word_of_the_provider_and_its_password_is_told_to_nobody(
    world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    configure_logging("discovery", "DEBUG")
    refusal = f"HTTP/1.1 502 {PROXY_PASSWORD}\r\n\r\n".encode()
    try:
        async with HttpProxy("user:right", {"says.test": Says(refusal, then_closes=True)}) as proxy:
            told = await poll_each(
                world,
                target("https://provider.test/v1"),
                target("http://provider.test:9/v1"),
                target("https://says.test/v1"),
                upstream_proxy=SecretStr(proxy.url.replace("right", PROXY_PASSWORD)),
            )
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    assert [(one.outcome, one.error) for one in told] == [
        (PollOutcome.UNREACHABLE, "cannot be reached through the proxy (407)"),
        (PollOutcome.UNREACHABLE, "HTTP 407"),
        (PollOutcome.UNREACHABLE, "cannot be reached through the proxy (502)"),
    ]
    assert PROXY_PASSWORD not in capfd.readouterr().err
