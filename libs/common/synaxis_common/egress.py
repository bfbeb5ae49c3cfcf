"""The only way out to providers: no private addresses, no redirects, no proxies from the environment.

A base URL comes from models.dev or from an operator; either could point at a metadata service or at a
neighbour in the cluster. The address is checked when the name has been resolved, and the connection goes
to that very address, so that a second answer of the name server cannot change it.

Through an operator's proxy (`proxies.py`) it is the proxy that resolves names. What a URL says is checked
here all the same (`check_url`); what a name stands for is not, and is for the proxy's own rules to refuse.
Where the proxy itself is, is the operator's choice.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from synaxis_common.proxies import DIRECT, HOST_NAME, Proxies, ascii_host

DNS_CACHE_S = 60
CONNECT_TIMEOUT_S = 3.0
RESOLVE_TIMEOUT_S = 5.0
KEEPALIVE_S = 75.0


class ForbiddenAddress(Exception):
    """The URL or the address behind its name is one we do not send to."""


def _is_link_local(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    mapped = getattr(address, "ipv4_mapped", None)
    return address.is_link_local or (mapped is not None and mapped.is_link_local)


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_global and not address.is_multicast


def check_address(text: str, *, allow_private: bool) -> None:
    """Raise ForbiddenAddress unless connecting to the IP address `text` is allowed.

    Link-local addresses, where clouds keep their metadata services, never are; other addresses that are
    not public are only with `allow_private`.
    """
    address = ipaddress.ip_address(text.partition("%")[0])
    if _is_link_local(address) or address.is_unspecified or address.is_multicast:
        raise ForbiddenAddress(f"{text} is a link-local, unspecified or multicast address")
    if not allow_private and not _is_public(address):
        raise ForbiddenAddress(f"{text} is not a public address")


def check_url(url: str, *, allow_private: bool) -> None:
    """Raise ForbiddenAddress unless `url` is one that we would send a key to.

    Plain HTTP is for private addresses only, which have to be allowed. Names are checked when they are
    resolved (`client_session`), literal addresses here, in the one way of writing them.
    """
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError as error:
        raise ForbiddenAddress(f"not a URL: {error}") from error
    if "${" in url or "{" in url:
        raise ForbiddenAddress("the URL is a template with parts to fill in")
    if not host or parts.username is not None or parts.password is not None:
        raise ForbiddenAddress("the URL needs a host and must not hold a user name or password")
    if parts.query or parts.fragment:
        raise ForbiddenAddress("the URL must not have a query or fragment")
    if parts.scheme not in ({"https", "http"} if allow_private else {"https"}):
        raise ForbiddenAddress("the URL must begin with https://")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        _check_name(host, allow_private=allow_private)
    else:
        check_address(host, allow_private=allow_private)


def _check_name(host: str, *, allow_private: bool) -> None:
    try:
        name = ascii_host(host).lower()
    except UnicodeError as error:
        raise ForbiddenAddress(f"{host} is no name of a host") from error
    if not HOST_NAME.fullmatch(name):
        raise ForbiddenAddress(f"{host} is no name of a host, nor an address as it is usually written")
    if not allow_private and f".{name.removesuffix('.')}".endswith((".localhost", ".local", ".internal")):
        raise ForbiddenAddress(f"{host} is not a public name")


async def check_resolved(url: str, *, allow_private: bool) -> None:
    """`check_url`, and the addresses behind the name as they are now. Raises ForbiddenAddress."""
    check_url(url, allow_private=allow_private)
    host = urlsplit(url).hostname
    assert host is not None
    try:
        async with asyncio.timeout(RESOLVE_TIMEOUT_S):
            found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError) as error:
        raise ForbiddenAddress(f"{host} cannot be resolved") from error
    for *_, address in found:
        check_address(str(address[0]), allow_private=allow_private)


class _CheckedResolver(AbstractResolver):
    """Resolves names and leaves out the addresses that we do not send to."""

    def __init__(self, *, allow_private: bool) -> None:
        self._inner = ThreadedResolver()
        self._allow_private = allow_private

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        allowed: list[ResolveResult] = []
        refusal: ForbiddenAddress | None = None
        for found in await self._inner.resolve(host, port, family):
            try:
                check_address(found["host"], allow_private=self._allow_private)
            except ForbiddenAddress as error:
                refusal = error
            else:
                allowed.append(found)
        if not allowed:
            raise OSError(f"{host} has no address we may send to") from refusal
        return allowed

    async def close(self) -> None:
        await self._inner.close()


def client_session(*, allow_private: bool, connections: int = 0) -> aiohttp.ClientSession:
    """An HTTP client for providers. `connections`: most at a time, 0 for no bound.

    Callers check literal addresses with `check_url` and pass `allow_redirects=False` on every request: a
    redirect could take a key elsewhere.
    """
    return _session(_CheckedResolver(allow_private=allow_private), connections)


def _session(resolver: AbstractResolver, connections: int) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(
        resolver=resolver,
        limit=connections,
        ttl_dns_cache=DNS_CACHE_S,
        keepalive_timeout=KEEPALIVE_S,
    )
    return aiohttp.ClientSession(
        connector=connector,
        trust_env=False,
        auto_decompress=True,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
    )


class HttpClient:
    """Asks providers, each directly or through the proxy. What `client_session` says of callers is true here
    too, but that no redirect is ever followed."""

    def __init__(self, proxies: Proxies = DIRECT, *, allow_private: bool, connections: int = 0) -> None:
        self._proxies = proxies
        self._direct = client_session(allow_private=allow_private, connections=connections)
        # What it resolves is the name of the proxy, which is the operator's choice.
        self._proxied = _session(ThreadedResolver(), connections)

    def get(
        self, url: str, headers: Mapping[str, str], **options: Any
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """GET, with `options` as aiohttp has them. Raises ValueError for what is no URL."""
        proxy = self._proxies.to_url(url)
        if proxy is None:
            return self._direct.get(url, headers=headers, allow_redirects=False, **options)
        if proxy.authorization is not None:
            said = {"Proxy-Authorization": proxy.authorization.get_secret_value()}
            if urlsplit(url).scheme == "https":
                options["proxy_headers"] = said  # of the tunnel; the provider does not see them
            else:
                headers = {**headers, **said}
        return self._proxied.get(url, headers=headers, proxy=proxy.url, allow_redirects=False, **options)

    async def close(self) -> None:
        """Close all connections."""
        await self._direct.close()
        await self._proxied.close()


def proxy_failure(error: aiohttp.ClientHttpProxyError) -> str:
    """What it means that the proxy refused, without what it wrote."""
    return f"cannot be reached through the proxy ({error.status})"
