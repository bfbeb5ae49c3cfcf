"""Requests to providers through a proxy that is as good, or as bad, as a test wants it."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import socket
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from tests.support.certificates import localhost_certificate, server_tls
from tests.support.gateway import QUICK, Rig, candidate, post, running_gateway
from tests.support.http_proxy import HttpProxy, Says
from tests.support.upstream import Behaviour, FakeProvider

from synaxis_common.contracts.usage import AttemptOutcome
from synaxis_common.logging import configure_logging
from synaxis_common.proxies import Proxies, parse_exemptions, parse_proxy
from synaxis_gateway.upstream.client import UpstreamClient, UpstreamRequest
from synaxis_gateway.upstream.connection import Connection
from synaxis_gateway.upstream.dialing import Dialer
from synaxis_gateway.upstream.endpoint import UpstreamEndpoint
from synaxis_gateway.upstream.errors import NoConnection
from synaxis_gateway.upstream.tunnel import MAX_HEAD_BYTES

pytestmark = pytest.mark.both_loops

MIB = 1024 * 1024
PATIENCE_S = 20.0
"""Of who expects an answer; a busy machine takes its time."""
PASSWORD = "hunter2-of-the-proxy"
CREDENTIALS = f"user:{PASSWORD}"
TOKEN = b64encode(CREDENTIALS.encode()).decode()
ASK: Any = {"model": "test-model", "messages": [{"role": "user", "content": "hi"}]}
HELLO = "Hello from the provider"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return localhost_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The certificate of `secure`, trusted by whoever is made from now on."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    return certificate


@pytest.fixture
async def plain() -> AsyncIterator[FakeProvider]:
    async with FakeProvider("plain") as provider:
        yield provider


@pytest.fixture
async def secure(certificate: Path) -> AsyncIterator[FakeProvider]:
    async with FakeProvider("secure", tls=server_tls(certificate)) as provider:
        yield provider


@pytest.fixture
async def proxy() -> AsyncIterator[HttpProxy]:
    async with HttpProxy(CREDENTIALS) as made:
        yield made


@pytest.fixture
async def client(trusted: Path) -> AsyncIterator[UpstreamClient]:
    made = UpstreamClient(max_answer_bytes=MIB)
    yield made
    await made.close()


the_proxy = functools.cache(parse_proxy)
"""One object a proxy, as in a service."""


def request(url: str, proxy: HttpProxy, exempt: str = "", **changes: Any) -> UpstreamRequest:
    proxies = Proxies(the_proxy(proxy.url), parse_exemptions(exempt))
    headers = {"authorization": "Bearer of-the-provider"}
    endpoint = UpstreamEndpoint.of(f"{url}/chat/completions", headers, allow_private=True, proxies=proxies)
    given = {"request_id": "id-1", "connect_timeout_s": PATIENCE_S, "answer_within_s": PATIENCE_S, **changes}
    return UpstreamRequest(endpoint=endpoint, body=json.dumps(ASK).encode(), **given)


async def body_of(client: UpstreamClient, asked: UpstreamRequest) -> bytes:
    answer = await client.open(asked)
    try:
        assert answer.status == 200
        return await answer.read_all()
    finally:
        answer.close()


async def refusal(client: UpstreamClient, asked: UpstreamRequest) -> str:
    """The text with which there is no connection."""
    with pytest.raises(NoConnection) as refused:
        await client.open(asked)
    return str(refused.value)


def only_the_proxy_knows(provider: FakeProvider) -> str:
    """The base URL of `provider` by a name that nobody else can resolve."""
    return f"http://{provider.name}.test:{provider.port}/v1"


# The client.


async def test_one_tunnel_carries_many_requests_and_the_provider_sees_nothing_of_it(
    client: UpstreamClient, proxy: HttpProxy, secure: FakeProvider
) -> None:
    for _ in range(3):
        assert HELLO.encode() in await body_of(client, request(secure.base_url, proxy))
    assert proxy.asked_for == [f"CONNECT localhost:{secure.port}"]
    head = proxy.heads[0].decode()
    assert f"\r\nhost: localhost:{secure.port}\r\n" in head
    assert f"\r\nproxy-authorization: Basic {TOKEN}\r\n" in head
    assert "of-the-provider" not in head
    seen = secure.calls[0]
    assert (len(secure.calls), seen.path) == (3, "/v1/chat/completions")
    assert not any(name.lower().startswith("proxy") for name in seen.headers)


async def test_without_tls_the_proxy_is_told_the_whole_address(
    client: UpstreamClient, proxy: HttpProxy, plain: FakeProvider
) -> None:
    url = only_the_proxy_knows(plain)
    for _ in range(3):
        assert HELLO.encode() in await body_of(client, request(url, proxy))
    assert proxy.asked_for == [f"POST {url}/chat/completions"] * 3
    assert proxy.connections == 1
    assert plain.calls[0].headers["Host"] == f"plain.test:{plain.port}"
    assert not any(name.lower().startswith("proxy") for name in plain.calls[0].headers)


async def test_connections_are_shared_by_origin_not_by_proxy(
    client: UpstreamClient, proxy: HttpProxy, plain: FakeProvider, secure: FakeProvider
) -> None:
    for _ in range(2):
        await body_of(client, request(secure.base_url, proxy))
        await body_of(client, request(only_the_proxy_knows(plain), proxy))
        await body_of(client, request(plain.base_url, proxy, "127.0.0.0/8"))
    assert proxy.connections == 2
    assert (len(secure.calls), len(plain.calls)) == (2, 4)


async def test_a_proxy_that_asks_for_no_credentials_is_told_none(
    client: UpstreamClient, secure: FakeProvider, plain: FakeProvider
) -> None:
    async with HttpProxy() as proxy:
        await body_of(client, request(secure.base_url, proxy))
        await body_of(client, request(only_the_proxy_knows(plain), proxy))
        assert b"authorization" not in proxy.heads[0].lower()
        assert b"proxy-authorization" not in proxy.heads[1].lower()


async def test_a_certificate_is_verified_within_the_tunnel(
    client: UpstreamClient, proxy: HttpProxy, secure: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    other_name = f"https://other.test:{secure.port}/v1"
    assert "SSLCertVerificationError" in await refusal(client, request(other_name, proxy))
    monkeypatch.delenv("SSL_CERT_FILE")
    distrusting = UpstreamClient(MIB)
    assert "SSLCertVerificationError" in await refusal(distrusting, request(secure.base_url, proxy))
    assert not secure.received


@pytest.mark.parametrize(
    ("manners", "why"),
    [
        (Says(b"HTTP/1.1 407 Who\r\nContent-Length: 4\r\n\r\nwho?"), "(407)"),
        (Says(b"HTTP/1.1 403 Forbidden\r\n\r\n", then_closes=True), "(403)"),
        (Says(b"HTTP/1.1 502 Bad Gateway\r\n\r\n", then_closes=True), "(502)"),
        (Says(b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"), "said more"),
        (Says(b"220 mail.example ESMTP\r\n"), "not answer in HTTP"),
        (Says(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 2 * MAX_HEAD_BYTES), "too large"),
        (Says(then_closes=True), "closed the connection"),
        (Says(b"HTTP/1.1 200 OK\r\nVia: ", then_closes=True), "closed the connection"),
        (Says(), "TimeoutError"),
        (Says(b"HTTP/1.1 200 OK\r\n"), "TimeoutError"),
        (Says(b"HTTP/1.1 200 OK\r\n\r\n"), "TimeoutError"),
        (Says(b"HTTP/1.1 200 OK\r\n\r\n", then_closes=True), "through the proxy ("),
    ],
    ids=[
        "407",
        "403",
        "502",
        "an answer behind the head",
        "not HTTP",
        "a giant head",
        "closes",
        "closes within the head",
        "silence",
        "half a head",
        "silence in the tunnel",
        "closes the tunnel",
    ],
)
async def test_a_proxy_that_does_not_let_us_through_is_no_connection_and_soon(
    client: UpstreamClient, proxy: HttpProxy, manners: Says, why: str
) -> None:
    proxy.manners["*"] = manners
    begun = asyncio.get_running_loop().time()
    patience_s = 0.2 if why == "TimeoutError" else PATIENCE_S
    said = await refusal(client, request("https://localhost:9/v1", proxy, connect_timeout_s=patience_s))
    assert said.startswith("cannot be reached through the proxy (")
    assert why in said
    assert PASSWORD not in said
    assert asyncio.get_running_loop().time() - begun < PATIENCE_S / 2


async def test_what_a_proxy_says_behind_the_head_spoils_the_tunnel(
    client: UpstreamClient, proxy: HttpProxy, secure: FakeProvider
) -> None:
    proxy.behind_the_head = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno"
    assert "said more" in await refusal(client, request(secure.base_url, proxy))
    assert not secure.received


async def test_wrong_credentials_are_told_alike_with_a_tunnel_and_without(
    client: UpstreamClient, plain: FakeProvider, secure: FakeProvider
) -> None:
    async with HttpProxy("user:another") as proxy:
        proxy.credentials, asked_with = "user:right", proxy.url
        assert PASSWORD not in asked_with
        wrong = Proxies(parse_proxy(asked_with))
        for url in (secure.base_url, only_the_proxy_knows(plain)):
            endpoint = UpstreamEndpoint.of(url, {}, allow_private=True, proxies=wrong)
            said = await refusal(client, UpstreamRequest(endpoint, b"{}", "id", PATIENCE_S, PATIENCE_S))
            assert said == "cannot be reached through the proxy (407)"


async def test_a_407_of_a_provider_is_its_own_answer(
    client: UpstreamClient, proxy: HttpProxy, plain: FakeProvider, secure: FakeProvider
) -> None:
    for provider, exempt in ((secure, ""), (plain, "127.0.0.1")):
        provider.behaviour = Behaviour(status=407)
        answer = await client.open(request(provider.base_url, proxy, exempt))
        assert answer.status == 407
        answer.close()


async def test_a_proxy_that_is_not_there_is_no_connection(client: UpstreamClient, proxy: HttpProxy) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        proxy.port = free.getsockname()[1]
    for url in ("https://localhost:9/v1", "http://localhost:9/v1"):
        said = await refusal(client, request(url, proxy))
        assert said == "cannot be reached through the proxy (ConnectionRefusedError)"


async def test_who_leaves_while_the_tunnel_is_made_leaves_nothing_open(
    client: UpstreamClient, proxy: HttpProxy
) -> None:
    proxy.manners["*"] = Says()
    opening = asyncio.create_task(client.open(request("https://localhost:9/v1", proxy)))
    async with asyncio.timeout(2):
        while not proxy.heads:
            await asyncio.sleep(0.01)
        opening.cancel()
        while proxy.is_in_use:
            await asyncio.sleep(0.01)


async def test_small_packets_are_not_held_back_in_a_tunnel(
    trusted: Path, proxy: HttpProxy, secure: FakeProvider
) -> None:
    connection: Connection = await Dialer().connect(
        request(secure.base_url, proxy).endpoint.origin, PATIENCE_S
    )
    handle = connection.transport.get_extra_info("socket")
    assert handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert connection.transport.get_extra_info("ssl_object") is not None
    connection.close()


async def test_what_a_url_says_is_checked_though_a_proxy_resolves_it(proxy: HttpProxy) -> None:
    for url in ("http://169.254.169.254/v1", "http://2852039166/v1", "http://0.0.0.0/v1"):
        with pytest.raises(NoConnection):
            request(url, proxy)
    proxies = Proxies(parse_proxy(proxy.url))
    for url in ("https://10.0.0.8/v1", "https://127.1/v1", "https://localhost./v1"):
        with pytest.raises(NoConnection):
            UpstreamEndpoint.of(url, {}, allow_private=False, proxies=proxies)


def test_nothing_shows_credentials_by_accident() -> None:
    proxies = Proxies(parse_proxy(f"http://{CREDENTIALS}@proxy:3128"))
    endpoint = UpstreamEndpoint.of("http://a.test/v1", {}, allow_private=True, proxies=proxies)
    shown = f"{endpoint!r} {endpoint.origin!r} {UpstreamRequest(endpoint, b'{}', 'id', 1.0, 1.0)!r}"
    assert PASSWORD not in shown
    assert TOKEN not in shown


# The whole gateway.


def through(proxy: HttpProxy, exempt: str = "") -> dict[str, Any]:
    """The settings of a gateway."""
    return {"upstream_proxy": SecretStr(proxy.url), "upstream_no_proxy": exempt}


async def streamed(rig: Rig) -> str:
    stream = await rig.openai().chat.completions.create(**{**ASK, "stream": True})
    return "".join([choice.delta.content or "" async for chunk in stream for choice in chunk.choices])


async def test_chat_goes_through_the_proxy_whole_and_streamed(
    nats_url: str, trusted: Path, proxy: HttpProxy, plain: FakeProvider, secure: FakeProvider
) -> None:
    for provider, url in ((secure, secure.base_url), (plain, only_the_proxy_knows(plain))):
        served = candidate(provider, base_url=url)
        async with running_gateway(nats_url, served, **through(proxy)) as rig:
            status, headers, answer = await post(rig, ASK)
            assert (status, answer["choices"][0]["message"]["content"]) == (200, HELLO)
            assert headers["x-synaxis-provider"] == provider.name
            assert await streamed(rig) == HELLO
        assert len(provider.calls) == 2
    assert [asked.partition(" ")[0] for asked in proxy.asked_for] == ["CONNECT", "POST", "POST"]
    assert proxy.connections == 2


async def test_whom_the_proxy_refuses_is_failed_over_and_nobody_hears_of_credentials(
    nats_url: str,
    trusted: Path,
    proxy: HttpProxy,
    plain: FakeProvider,
    secure: FakeProvider,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    configure_logging("gateway", "DEBUG")
    root.addHandler(caplog.handler)
    proxy.manners["refused.test"] = Says(b"HTTP/1.1 407 " + TOKEN.encode() + b"\r\n\r\n")
    candidates = [
        candidate(plain, provider_id="refused", base_url="https://refused.test/v1"),
        candidate(secure),
    ]
    try:
        async with running_gateway(nats_url, *candidates, **through(proxy)) as rig:
            status, headers, _ = await post(rig, ASK)
            assert (status, headers["x-synaxis-provider"]) == (200, "secure")
            report = await rig.report()
            await rig.serve_now(candidates[0])
            status, _, answer = await post(rig, ASK)
            assert status >= 500
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    attempt = report.attempts[0]
    assert (attempt.outcome, attempt.error) == (
        AttemptOutcome.CONNECT_ERROR,
        "cannot be reached through the proxy (407)",
    )
    written = caplog.text + "".join(capfd.readouterr()) + report.model_dump_json() + json.dumps(answer)
    for secret in (PASSWORD, TOKEN):
        assert secret not in written


async def test_who_is_exempt_is_reached_directly(
    nats_url: str, proxy: HttpProxy, plain: FakeProvider
) -> None:
    async with running_gateway(
        nats_url, candidate(plain, timeouts=QUICK), **through(proxy, "127.0.0.0/8")
    ) as rig:
        assert (await post(rig, ASK))[0] == 200
    assert not proxy.connections
