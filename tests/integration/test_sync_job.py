"""Sync reads models.dev over HTTP and tells the registry over the bus what changed."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest
from aiohttp import web
from pydantic import SecretStr
from tests.support.http_proxy import HttpProxy
from tests.support.models_dev import SHARED, ModelsDevServer, small_world
from tests.support.workers import StubRegistry, worker_world

from synaxis_common import subjects
from synaxis_common.contracts.catalog import (
    MAX_CATALOG_MESSAGE_BYTES,
    CatalogComplete,
    CatalogMetadata,
    CatalogProvider,
)
from synaxis_common.contracts.jobs import JobFinish, RunStatus
from synaxis_common.service import Runtime
from synaxis_sync.app import syncing
from synaxis_sync.settings import SyncSettings

World = tuple[Runtime, StubRegistry]
JOB = "models-dev-sync"


@pytest.fixture
async def world(fresh_nats_url: str) -> AsyncIterator[World]:
    async with worker_world(fresh_nats_url) as made:
        yield made


async def one_run(
    world: World, url: str, checkpoint: dict[str, str] | None = None, **settings: Any
) -> JobFinish:
    """Run sync once and wait for its end; what it said is in `registry.catalog`."""
    runtime, registry = world
    registry.catalog.clear()
    registry.ends.clear()
    run_id = registry.grant_once(checkpoint)
    async with syncing(runtime, SyncSettings(models_dev_url=url, **settings)):
        end = await registry.end(timeout=40)
    assert end.run_id == run_id
    assert all(said.run_id == run_id for _, said in registry.catalog)
    return end


def complete(registry: StubRegistry) -> CatalogComplete:
    subject, said = registry.catalog[-1]
    assert subject == subjects.CATALOG_COMPLETE
    assert isinstance(said, CatalogComplete)
    return said


def providers(registry: StubRegistry) -> list[CatalogProvider]:
    return [said for _, said in registry.catalog if isinstance(said, CatalogProvider)]


def applied(registry: StubRegistry, *, etags: bool = True) -> dict[str, str]:
    """The checkpoint of a registry that has applied the last run."""
    said = complete(registry)
    checkpoint = {f"provider/{seen.provider_id}": seen.content_hash for seen in said.providers}
    if said.metadata_hash is not None:
        checkpoint["models"] = said.metadata_hash
    if etags:
        checkpoint |= {f"etag/{name}": etag for name, etag in said.etags.items()}
    return checkpoint


async def test_everything_of_models_dev_arrives_models_first_closing_message_last(world: World) -> None:
    _, registry = world
    is_real = (SHARED / "api.json").exists()
    server = ModelsDevServer.of_shared() if is_real else ModelsDevServer.of_small_world()
    document = json.loads(server.documents["/api.json"], parse_float=Decimal)
    with server:
        end = await one_run(world, server.url)
    assert (end.status, end.error) == (RunStatus.SUCCEEDED, None)
    assert end.counts["providers"] == len(document) == (147 if is_real else 3)
    assert end.counts["provider_models"] == (5276 if is_real else 3)
    assert end.counts["skipped"] == 0

    kinds = [type(said) for _, said in registry.catalog]
    assert kinds == sorted(kinds, key=[CatalogMetadata, CatalogProvider, CatalogComplete].index)
    told = {
        (said.provider_id, model.provider_model_id): model
        for said in providers(registry)
        for model in said.models
    }
    assert set(told) == {(provider, model) for provider in document for model in document[provider]["models"]}
    for (provider, model), found in told.items():
        cost = document[provider]["models"][model].get("cost", {})
        assert (found.prices.input, found.prices.output) == (cost.get("input"), cost.get("output"))
    assert {seen.provider_id for seen in complete(registry).providers} == set(document)
    assert set(complete(registry).etags) == {"api.json", "models.json"}


async def test_the_messages_are_stored_in_the_stream_and_small_enough(world: World) -> None:
    runtime, registry = world
    with ModelsDevServer.of_small_world() as server:
        await one_run(world, server.url)
    stream = await runtime.bus.jetstream.stream_info(subjects.STREAM_CATALOG)
    assert stream.state.messages == len(registry.catalog) == 5
    for sequence in range(1, 6):
        stored = await runtime.bus.jetstream.get_msg(subjects.STREAM_CATALOG, sequence)
        assert len(stored.data or b"") < MAX_CATALOG_MESSAGE_BYTES


async def test_the_same_documents_are_asked_for_by_their_tags_and_nothing_is_said(world: World) -> None:
    _, registry = world
    with ModelsDevServer.of_small_world() as server:
        await one_run(world, server.url)
        checkpoint = applied(registry)
        server.requests.clear()
        end = await one_run(world, server.url, checkpoint)
        assert server.requests == [("/api.json", 304), ("/models.json", 304)]
    assert (end.status, end.counts) == (RunStatus.SUCCEEDED, {"not_modified": 1})
    assert not registry.catalog


async def test_the_same_data_without_tags_is_only_the_closing_message(world: World) -> None:
    _, registry = world
    with ModelsDevServer.of_small_world() as server:
        await one_run(world, server.url)
        checkpoint = applied(registry, etags=False)
        end = await one_run(world, server.url, checkpoint)
    assert end.status == RunStatus.SUCCEEDED
    assert [subject for subject, _ in registry.catalog] == [subjects.CATALOG_COMPLETE]
    assert applied(registry, etags=False) == checkpoint


async def test_only_what_changed_is_said_when_one_document_changes(world: World) -> None:
    _, registry = world
    with ModelsDevServer.of_small_world() as server:
        await one_run(world, server.url)
        checkpoint = applied(registry)
        api, _ = small_world()
        api["gamma"]["models"]["acme/Talker-2-Mini"]["cost"]["input"] = 0.31
        server.documents["/api.json"] = json.dumps(api).encode()
        end = await one_run(world, server.url, checkpoint)
    assert end.counts["providers_changed"] == 1
    assert [said.provider_id for said in providers(registry)] == ["gamma"]
    assert providers(registry)[0].models[0].prices.input == Decimal("0.31")
    assert complete(registry).metadata_hash == checkpoint["models"]


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("500", "api.json: HTTP 500"),
        ("truncated", "not JSON"),
        ("html", "not JSON"),
        ("hang", "no complete answer in 0.5 s"),
    ],
)
async def test_a_models_dev_that_misbehaves_fails_the_run_and_changes_nothing(
    world: World, mode: str, reason: str
) -> None:
    _, registry = world
    with ModelsDevServer.of_small_world() as server:
        await one_run(world, server.url)
        checkpoint = applied(registry)
        server.mode = mode
        end = await one_run(world, server.url, checkpoint, models_dev_timeout_s=0.5)
    assert end.status == RunStatus.FAILED
    assert reason in (end.error or "")
    assert not registry.catalog


async def test_a_document_that_lost_most_of_its_providers_is_not_believed(world: World) -> None:
    _, registry = world
    with ModelsDevServer.of_small_world() as server:
        await one_run(world, server.url)
        checkpoint = applied(registry, etags=False)
        api, _ = small_world()
        for body in (json.dumps({"alpha": api["alpha"]}), "{}", "[]", '{"error": "no"}'):
            server.documents["/api.json"] = body.encode()
            end = await one_run(world, server.url, checkpoint)
            assert end.status == RunStatus.FAILED
            assert not registry.catalog


async def test_an_empty_registry_is_filled_from_the_snapshot_and_the_run_is_to_be_retried(
    world: World,
) -> None:
    _, registry = world
    end = await one_run(world, "http://127.0.0.1:9/api.json")
    assert end.status == RunStatus.FAILED
    assert "snapshot in models-dev" in (end.error or "")
    assert end.counts["providers"] > 100
    assert end.counts["provider_models"] > 4000
    assert len({said.provider_id for said in providers(registry)}) == end.counts["providers"]
    assert (complete(registry).source, complete(registry).etags) == ("snapshot", {})


async def test_a_registry_that_has_data_keeps_it_when_models_dev_is_away(world: World) -> None:
    _, registry = world
    end = await one_run(world, "http://127.0.0.1:9/api.json", {"provider/alpha": "sha256:x"})
    assert end.status == RunStatus.FAILED
    assert "snapshot" not in (end.error or "")
    assert not registry.catalog


async def test_a_copy_without_models_json_is_enough(world: World) -> None:
    _, registry = world
    with ModelsDevServer.of_small_world() as server:
        del server.documents["/models.json"]
        end = await one_run(world, server.url)
    assert end.status == RunStatus.SUCCEEDED
    assert len(providers(registry)) == 3
    assert complete(registry).metadata_hash is None


async def test_a_broken_entry_is_counted_and_the_others_arrive(world: World) -> None:
    _, registry = world
    api, models = small_world()
    api["alpha"]["models"]["acme/broken"] = {"cost": {"input": "cheap"}}
    api["beta"] = "broken"
    models["acme/broken"] = []
    with ModelsDevServer(json.dumps(api).encode(), json.dumps(models).encode()) as server:
        end = await one_run(world, server.url)
    assert (end.status, end.counts["skipped"]) == (RunStatus.SUCCEEDED, 3)
    assert [said.provider_id for said in providers(registry)] == ["alpha", "gamma"]


BOMB = gzip.compress(b"[" + b" " * 200_000_000 + b"]")


async def _redirect(_request: web.Request) -> web.StreamResponse:
    raise web.HTTPFound("/elsewhere.json")


async def _bomb(_request: web.Request) -> web.StreamResponse:
    return web.Response(body=BOMB, headers={"Content-Encoding": "gzip", "Content-Type": "application/json"})


async def _endless(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse()
    await answer.prepare(request)
    while True:
        await answer.write(b" " * 65_536)


@pytest.mark.parametrize(
    ("handler", "reason"), [(_redirect, "HTTP 302"), (_bomb, "larger than"), (_endless, "larger than")]
)
async def test_redirects_bombs_and_endless_answers_are_refused(
    world: World, handler: Any, reason: str
) -> None:
    app = web.Application()
    app.router.add_get("/api.json", handler)
    app.router.add_get("/elsewhere.json", _bomb)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/api.json"
    try:
        end = await one_run(world, url, {"provider/alpha": "x"}, models_dev_max_bytes=5_000_000)
    finally:
        await runner.cleanup()
    assert end.status == RunStatus.FAILED
    assert reason in (end.error or "")


async def test_models_dev_is_read_through_the_proxy_unless_it_is_exempt(world: World) -> None:
    async with HttpProxy("user:password") as proxy:
        through: dict[str, Any] = {"upstream_proxy": SecretStr(proxy.url)}
        with ModelsDevServer.of_small_world() as server:
            named = server.url.replace("127.0.0.1", "only.the.proxy.test")
            assert (await one_run(world, named, **through)).status == RunStatus.SUCCEEDED
            assert proxy.asked_for == [f"GET {named}", f"GET {named.replace('api.json', 'models.json')}"]
            await one_run(world, server.url, **through, upstream_no_proxy="127.0.0.1")
            assert (len(server.requests), len(proxy.heads)) == (4, 2)


async def test_a_proxy_that_refuses_is_named_without_its_credentials(world: World) -> None:
    async with HttpProxy("user:right") as proxy:
        wrong = SecretStr(proxy.url.replace("right", "hunter2"))
        url, held = "https://models.test/api.json", {"provider/alpha": "sha256:x"}
        end = await one_run(world, url, held, upstream_proxy=wrong)
    assert end.status == RunStatus.FAILED
    assert "cannot be reached through the proxy (407)" in (end.error or "")
    assert "hunter2" not in end.model_dump_json()
