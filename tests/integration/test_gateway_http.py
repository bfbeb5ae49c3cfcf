"""The gateway's HTTP door: keys, bad input, refusals, models, the admin API."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import tracemalloc
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from tests.support.gateway import ADMIN_KEY, PEPPER, Rig, candidate, post, running_gateway
from tests.support.upstream import Behaviour, FakeProvider

from synaxis_common import ids
from synaxis_common.contracts.admin import (
    ADMIN_ROUTES,
    PROOF_HEADER,
    AdminReply,
    AdminStatus,
    is_admin_proof,
)
from synaxis_common.contracts.catalog import Prices
from synaxis_common.contracts.routing import (
    EndpointView,
    Exclusion,
    ExclusionReason,
    ModelsPage,
    ModelsRequest,
    ModelView,
    RefusalCode,
    RouteRefusal,
)

ASK = {"model": "test-model", "messages": [{"role": "user", "content": "hi"}]}
ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}


@pytest.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    async with FakeProvider("only") as provider:
        yield provider


@pytest.fixture
async def rig(nats_url: str, provider: FakeProvider) -> AsyncIterator[Rig]:
    async with running_gateway(nats_url, candidate(provider)) as rig:
        yield rig


async def send(
    rig: Rig, method: str, path: str, headers: Any = None, **options: Any
) -> tuple[int, Any, bytes]:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, rig.url + path, headers=headers, **options) as answer,
    ):
        return answer.status, answer.headers, await answer.read()


def other_key() -> str:
    return ids.new_tenant_key().key


BAD_KEYS: dict[str, list[tuple[str, str]]] = {
    "none": [],
    "an empty one": [("Authorization", "Bearer ")],
    "another scheme": [("Authorization", "Basic abc")],
    "one of another form": [("Authorization", "Bearer sk-proj-abcdefghijklmnop")],
    "one with a wrong checksum": [("Authorization", f"Bearer {other_key()[:-1]}z")],
    "two headers": [("Authorization", f"Bearer {other_key()}"), ("Authorization", f"Bearer {other_key()}")],
    "two that differ": [("Authorization", f"Bearer {other_key()}"), ("x-api-key", other_key())],
    "not ASCII": [("Authorization", "Bearer clé")],
    "the admin's": [("Authorization", f"Bearer {ADMIN_KEY}")],
}


@pytest.mark.parametrize("case", BAD_KEYS)
async def test_a_request_without_a_sound_key_is_a_401_and_reaches_nobody(rig: Rig, case: str) -> None:
    status, _, body = await send(rig, "POST", "/v1/chat/completions", BAD_KEYS[case], json=ASK)
    assert (status, json.loads(body)["error"]["code"]) == (401, "invalid_api_key")
    assert not rig.route_requests


async def test_a_key_may_come_as_x_api_key_and_only_its_hash_goes_to_the_registry(rig: Rig) -> None:
    status, _, _ = await post(rig, ASK, headers={"x-api-key": rig.tenant_key})
    assert status == 200
    assert rig.route_requests[0].key_hash == ids.key_hash(rig.tenant_key, PEPPER)


BAD_BODIES: dict[str, tuple[Any, str | None]] = {
    "empty": (b"", None),
    "not JSON": (b"hello", None),
    "a list": (b"[1]", None),
    "cut off": (b'{"model": "x"', None),
    "the same field twice": (b'{"model":"a","messages":[],"model":"b"}', None),
    "not UTF-8": (b'{"model":"\xff","messages":[]}', None),
    "UTF-16": (json.dumps(ASK).encode("utf-16"), None),
    "NaN": (b'{"model":"a","temperature":NaN}', None),
    "infinite": (b'{"model":"a","temperature":1e999}', None),
    "too deep": (b'{"model":"a","messages":' + b"[" * 5000 + b"]" * 5000 + b"}", None),
    "no model": ({"messages": []}, "model"),
    "a model that is a number": ({**ASK, "model": 5}, "model"),
    "no messages": ({"model": "a"}, "messages"),
    "messages that are a string": ({**ASK, "messages": "hi"}, "messages"),
    "a message that is a string": ({**ASK, "messages": ["hi"]}, "messages[0]"),
    "stream that is a string": ({**ASK, "stream": "yes"}, "stream"),
    "negative max_tokens": ({**ASK, "max_tokens": -1}, "max_tokens"),
    "max_tokens that is true": ({**ASK, "max_tokens": True}, "max_tokens"),
    "an unknown sort": ({**ASK, "provider": {"sort": "beauty"}}, "provider.sort"),
    "a negative max_price": ({**ASK, "provider": {"max_price": {"prompt": -1}}}, "provider.max_price.prompt"),
    "provider that is a list": ({**ASK, "provider": []}, "provider"),
    "more preferences than fit": ({**ASK, "models": ["m" * 200] * 1000}, "models"),
    "more fields than fit": ({**ASK, **{f"field-{number}": 1 for number in range(300)}}, None),
    "models that are numbers": ({**ASK, "models": [1]}, "models.0"),
}


@pytest.mark.parametrize("case", BAD_BODIES)
async def test_a_bad_body_is_a_400_that_names_the_field(rig: Rig, provider: FakeProvider, case: str) -> None:
    body, param = BAD_BODIES[case]
    status, headers, answer = await post(rig, body)
    assert (status, answer["error"]["type"]) == (400, "invalid_request_error")
    assert answer["error"]["param"] == param
    assert len(headers["x-request-id"]) == 36
    assert not rig.route_requests
    assert not provider.calls


async def test_a_body_of_50_mb_is_a_413(rig: Rig) -> None:
    status, _, answer = await post(rig, b"x" * 52_428_800)
    assert (status, answer["error"]["code"]) == (413, "request_too_large")
    assert (await post(rig, ASK))[0] == 200


async def test_a_body_that_does_not_say_how_large_it_is_is_not_kept_in_memory(rig: Rig) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(800):
            yield b"x" * 65_536

    tracemalloc.start()
    try:
        status, _, answer = await post(rig, pieces())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (status, answer["error"]["code"]) == (413, "request_too_large")
    assert peak < 25_000_000, "50 MB were sent, 10 MiB are allowed"


async def test_a_compressed_body_is_a_415(rig: Rig) -> None:
    status, _, answer = await post(rig, b"x", headers={**rig.headers, "Content-Encoding": "gzip"})
    assert (status, answer["error"]["code"]) == (415, "unsupported_content_encoding")


async def test_a_body_that_does_not_arrive_is_a_408(nats_url: str, provider: FakeProvider) -> None:
    async with running_gateway(nats_url, candidate(provider), body_timeout_s=0.2) as rig:
        address = urlsplit(rig.url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {rig.tenant_key}\r\n"
        writer.write(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        assert b" 408 " in await reader.readline()
        writer.close()
        await writer.wait_closed()


REFUSALS = {
    RefusalCode.INVALID_API_KEY: (401, "invalid_api_key"),
    RefusalCode.MODEL_NOT_ALLOWED: (403, "model_not_allowed"),
    RefusalCode.MODEL_NOT_FOUND: (404, "model_not_found"),
    RefusalCode.RATE_LIMIT_EXCEEDED: (429, "rate_limit_exceeded"),
    RefusalCode.INSUFFICIENT_QUOTA: (429, "insufficient_quota"),
    RefusalCode.NO_PROVIDER_AVAILABLE: (503, "no_provider_available"),
    RefusalCode.CONTEXT_LENGTH_EXCEEDED: (400, "context_length_exceeded"),
    RefusalCode.UNAVAILABLE: (503, "no_provider_available"),
}


@pytest.mark.parametrize("code", RefusalCode)
async def test_a_refusal_becomes_the_status_of_the_design(rig: Rig, code: RefusalCode) -> None:
    rig.decide = lambda request: RouteRefusal(
        request_id=request.request_id,
        code=code,
        message="because",
        nearest=("test-model-2",),
        retry_after_s=2.2,
        excluded=(Exclusion(provider_id="p", provider_model_id="m", reason=ExclusionReason.UNAVAILABLE),),
    )
    status, headers, answer = await post(rig, ASK)
    assert (status, answer["error"]["code"]) == REFUSALS[code]
    assert answer["error"]["message"] == "because"
    if code in (RefusalCode.RATE_LIMIT_EXCEEDED, RefusalCode.UNAVAILABLE, RefusalCode.NO_PROVIDER_AVAILABLE):
        assert headers["Retry-After"] == "3"
    if code is RefusalCode.INSUFFICIENT_QUOTA:
        assert headers["x-should-retry"] == "false"
    if code is RefusalCode.MODEL_NOT_FOUND:
        assert answer["error"]["nearest"] == ["test-model-2"]
    assert not rig.reports, "what was never routed is not reported"


async def test_without_a_registry_it_is_a_503_soon(nats_url: str) -> None:
    async with running_gateway(nats_url, registry=False) as rig:
        async with asyncio.timeout(2):
            status, headers, answer = await post(rig, ASK)
        assert (status, answer["error"]["code"]) == (503, "no_provider_available")
        assert headers["Retry-After"] == "1"


async def test_what_routing_needs_is_told_to_the_registry(rig: Rig) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}
    await post(
        rig,
        {
            "model": "test-model",
            "messages": [{"role": "user", "content": [{"type": "text", "text": "x" * 400}, image]}],
            "tools": [{"type": "function", "function": {"name": "f"}}],
            "response_format": {"type": "json_schema", "json_schema": {}},
            "max_completion_tokens": 80,
            "temperature": 0.5,
            "provider": {
                "order": ["a"],
                "allow_fallbacks": False,
                "max_price": {"prompt": 0.1},
                "require_parameters": True,
            },
        },
    )
    request = rig.route_requests[0]
    needs = request.needs
    assert (needs.tools, needs.vision, needs.structured_output, needs.audio) == (True, True, True, False)
    assert 1_000 < needs.input_tokens < 1_300, "an image counts as an image, not as its base64"
    assert needs.max_output_tokens == 80, "sizes are rounded up to a step; this one is one"
    assert needs.parameters == {"temperature", "tools", "response_format", "max_completion_tokens"}
    assert request.preferences.order == ("a",)
    assert not request.preferences.allow_fallbacks
    assert request.preferences.max_price is not None
    assert request.preferences.max_price.prompt == Decimal("0.1")


def listed(request: ModelsRequest) -> ModelsPage:
    endpoint = EndpointView(
        provider_id="only",
        provider_model_id="only/model",
        prices=Prices(input=Decimal("0.10"), output=Decimal("0.30")),
        context_window=8192,
        is_available=True,
        ttft_p95_s=0.4,
    )
    known = [ModelView(id=f"vendor/m-{number}", endpoints=(endpoint,), created=5) for number in range(3)]
    if request.model is not None:
        found = tuple(model for model in known if model.id == request.model)
        missing = {"refusal": RefusalCode.MODEL_NOT_FOUND, "nearest": ("vendor/m-1",)}
        return ModelsPage(models=found) if found else ModelsPage.model_validate(missing)
    return (
        ModelsPage(models=tuple(known[:2]), next_after=known[1].id)
        if request.after is None
        else ModelsPage(models=tuple(known[2:]))
    )


async def test_the_official_client_lists_all_pages_of_models_with_prices_and_endpoints(rig: Rig) -> None:
    rig.models = listed
    models = [model async for model in await rig.openai().models.list()]
    assert [model.id for model in models] == ["vendor/m-0", "vendor/m-1", "vendor/m-2"]
    extra = models[0].model_extra
    assert extra is not None
    price = {"input": "0.10", "output": "0.30", "unit": "usd_per_million_tokens"}
    assert extra["pricing"] == price
    assert extra["endpoints"][0]["pricing"] == price
    assert extra["endpoints"][0]["is_available"] is True


async def test_one_model_is_found_by_an_id_with_a_slash_and_an_unknown_one_is_a_404(rig: Rig) -> None:
    rig.models = listed
    assert (await rig.openai().models.retrieve("vendor/m-1")).created == 5
    status, _, body = await send(rig, "GET", "/v1/models/vendor/m-9", rig.headers)
    error = json.loads(body)["error"]
    assert (status, error["code"], error["nearest"]) == (404, "model_not_found", ["vendor/m-1"])


async def test_every_line_of_the_admin_table_is_served_with_proof(rig: Rig) -> None:
    bodies: dict[str, Any] = {
        "provider.put": {"base_url": "https://x.example/v1"},
        "model.patch": {"aliases": ["a"]},
        "model.merge": {"into": "b"},
        "model.split": {
            "id": "c",
            "provider_models": [{"provider_id": "p", "provider_model_id": "x"}],
        },
        "provider-model.patch": {"input_price": None},
        "tenant.create": {"id": "acme", "name": "Acme"},
        "key.create": {"name": "k"},
        "limit.put": {"allowed_rpm": 5},
        "webhook.create": {"url": "https://receiver.example/hook"},
        "webhook.replay": {"since": "2026-11-23T10:00:00Z"},
        "route": {"model": "m"},
    }
    for line in ADMIN_ROUTES:
        path = "/admin/v1" + (line.path.replace("{provider_model_id:.+}", "a/b").replace("{model:.+}", "*"))
        for place in ("provider", "model", "tenant", "key_id", "job", "id", "webhook", "delivery"):
            path = path.replace(f"{{{place}}}", f"my-{place}")
        status, _, _ = await send(rig, line.method, path, ADMIN, json=bodies.get(line.verb))
        assert status == 200, f"{line.method} {path}"
        verb, request, headers, payload = rig.admin_requests[-1]
        assert verb == line.verb
        proof = headers[PROOF_HEADER]
        assert is_admin_proof(proof, ADMIN_KEY, verb, payload, float(proof.partition(".")[0]))
        if line.verb == "provider-model.patch":
            assert request.path["provider_model_id"] == "a/b"
            assert request.body == {"input_price": None}, "null takes a word back, absent leaves it"


async def test_a_tenant_key_opens_nothing_of_the_admin_api(rig: Rig) -> None:
    for line in ADMIN_ROUTES:
        path = "/admin/v1" + line.path.replace(":.+", "").replace("{", "").replace("}", "")
        for headers in ({}, rig.headers, {"Authorization": "Bearer x"}):
            status, _, _ = await send(rig, line.method, path, headers)
            assert status == 401, f"{line.method} {path}"
    assert not rig.admin_requests


async def test_a_new_tenant_key_is_shown_once_and_only_its_hash_is_sent(rig: Rig) -> None:
    rig.admin_reply = AdminReply(status=AdminStatus.CREATED, body={"name": "ci"})
    status, headers, body = await send(rig, "POST", "/admin/v1/tenants/acme/keys", ADMIN, json={"name": "ci"})
    answer = json.loads(body)
    assert (status, headers["Cache-Control"]) == (201, "no-store")
    assert ids.is_well_formed_key(answer["key"])
    _, request, _, payload = rig.admin_requests[0]
    assert request.body == {
        "name": "ci",
        "key_id": answer["key_id"],
        "key_hash": ids.key_hash(answer["key"], PEPPER),
    }
    assert answer["key"].encode() not in payload


async def test_a_bad_admin_body_names_the_field_and_reaches_nobody(rig: Rig) -> None:
    for body, field in (({"base_url": "https://x", "tpyo": 1}, "tpyo"), ({}, "base_url")):
        status, _, answer = await send(rig, "PUT", "/admin/v1/providers/x", ADMIN, json=body)
        assert (status, json.loads(answer)["error"]["param"]) == (400, field)
    assert not rig.admin_requests


ADMIN_STATUSES = {"invalid": 400, "forbidden": 403, "not_found": 404, "conflict": 409, "unavailable": 503}


@pytest.mark.parametrize("status", ADMIN_STATUSES)
async def test_an_admin_refusal_says_why(rig: Rig, status: str) -> None:
    rig.admin_reply = AdminReply(status=AdminStatus(status), error="because", field="id")
    got, _, body = await send(rig, "GET", "/admin/v1/providers/x", ADMIN)
    error = json.loads(body)["error"]
    assert (got, error["message"], error["param"]) == (ADMIN_STATUSES[status], "because", "id")


async def test_unknown_paths_and_methods_have_the_same_shape_and_an_id(rig: Rig) -> None:
    status, headers, body = await send(rig, "GET", "/v1/nothing")
    assert (status, json.loads(body)["error"]["code"]) == (404, "not_found")
    assert headers["x-request-id"]
    assert headers["Server"] == "synaxis", "which software in which version is nobody's business"
    status, headers, _ = await send(rig, "GET", "/v1/chat/completions")
    assert (status, headers["Allow"]) == (405, "POST")


async def test_the_description_lists_every_route(rig: Rig) -> None:
    _, _, body = await send(rig, "GET", "/openapi.json")
    document = json.loads(body)
    assert document["paths"]["/v1/chat/completions"]["post"]["security"] == [{"tenantKey": []}]
    limit = document["paths"]["/admin/v1/tenants/{tenant}/limits/{model}"]["put"]
    schema = limit["requestBody"]["content"]["application/json"]["schema"]
    assert schema == {"$ref": "#/components/schemas/LimitPut"}
    assert "allowed_rpm" in document["components"]["schemas"]["LimitPut"]["properties"]


async def test_the_messages_of_the_bus_are_described_as_in_the_committed_document(rig: Rig) -> None:
    committed = Path(__file__).parents[2] / "docs" / "asyncapi.json"
    for _ in range(2):
        status, headers, body = await send(rig, "GET", "/asyncapi.json")
        assert (status, headers["Content-Type"]) == (200, "application/json")
        assert json.loads(body) == json.loads(committed.read_text())


async def test_health_and_metrics_are_public(rig: Rig) -> None:
    await post(rig, ASK)
    assert (await send(rig, "GET", "/healthz"))[0] == 200
    assert (await send(rig, "GET", "/readyz"))[0] == 200
    _, _, body = await send(rig, "GET", "/metrics")
    assert b'synaxis_gateway_attempts_total{outcome="ok",provider="only"}' in body
    rig.health.stopping = True
    assert (await send(rig, "GET", "/readyz"))[0] == 503


async def test_no_secret_and_no_content_reaches_the_log(
    nats_url: str,
    provider: FakeProvider,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    provider.next_behaviours.extend([Behaviour(), Behaviour(status=500, body="canary-answer")])
    keyed = candidate(provider, api_key_envs=("ONLY_API_KEY",))
    async with running_gateway(nats_url, keyed, environment={"ONLY_API_KEY": "canary-provider-key"}) as rig:
        ask = {**ASK, "messages": [{"role": "user", "content": "canary-question"}]}
        await post(rig, ask)
        await post(rig, ask)
        await post(rig, b"{canary-question")
        address = urlsplit(rig.url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(
            f"GET / HTTP/1.1\r\nHost: x\r\nX-Fine: 1\r\nAuthorization: {rig.tenant_key}\r\n\r\n".encode()
        )
        await reader.readline()
        writer.close()
        await writer.wait_closed()
    out, err = capfd.readouterr()
    written = caplog.text + out + err
    assert "request" in written, "the requests are logged"
    for secret in ("canary", rig.tenant_key, ADMIN_KEY, PEPPER):
        assert secret not in written


@pytest.fixture
def shared() -> dict[str, Any]:
    """Settings of gateways that share a port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return {"http_port": probe.getsockname()[1], "reuse_port": True}


async def test_gateways_may_share_a_port(
    nats_url: str, provider: FakeProvider, shared: dict[str, Any]
) -> None:
    async with (
        running_gateway(nats_url, candidate(provider), **shared) as one,
        running_gateway(nats_url, candidate(provider), registry=False, **shared) as two,
    ):
        assert one.url == two.url
        assert (await post(one, ASK))[0] == 200


@pytest.mark.both_loops
async def test_who_has_just_connected_to_a_gateway_that_leaves_a_shared_port_is_answered(
    nats_url: str, provider: FakeProvider, shared: dict[str, Any]
) -> None:
    async def answer(client: socket.socket) -> bytes:
        reader, writer = await asyncio.open_connection(sock=client)
        line = await reader.readline()
        writer.close()
        return line

    async with running_gateway(nats_url, candidate(provider), **shared):
        async with running_gateway(nats_url, candidate(provider), registry=False, **shared):
            # Half of them are queued at either: nobody has run since.
            clients = [socket.create_connection(("127.0.0.1", shared["http_port"])) for _ in range(60)]
            for client in clients:
                client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(10):
            lines = await asyncio.gather(*map(answer, clients))
    assert lines == [b"HTTP/1.1 200 OK\r\n"] * len(clients)
