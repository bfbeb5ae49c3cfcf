"""Which requests to providers go through a proxy, and through which. Pure; the operator's word alone counts.

Exceptions mean what they do for Go's programs, whose reading of `NO_PROXY` is the one that is written down
(https://pkg.go.dev/golang.org/x/net/http/httpproxy), but that nothing is an exception without being named:
`localhost` is not either.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

HOST_NAME: Final = re.compile(
    r"(?:[a-z0-9_-]+\.)*(?!(?:\d+|0x[0-9a-f]*)\.?$)[a-z0-9_-]+\.?", re.ASCII | re.IGNORECASE
)
"""A name in ASCII. What ends in a number is none: to many who resolve it, it is an address that is written in
another way, `127.1` and `2130706433` being 127.0.0.1 (WHATWG's URL standard, "ends in a number")."""
DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_PROXY_IS: Final = "must be http://[user:password@]host:port, with user and password percent-encoded"
_EXEMPTION_IS: Final = (
    "is no host, .suffix, IP address or network; * is everything, commas are between entries"
)


def ascii_host(host: str) -> str:
    """A host's name as it goes over the wire; an address stays what it is. Raises UnicodeError."""
    return host if host.isascii() else host.encode("idna").decode()


def address_of(host: str) -> IPAddress | None:
    """The address that `host` is, if it is one; IPv4 within IPv6 as IPv4."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


@dataclass(frozen=True, slots=True, eq=False)
class Proxy:
    """An HTTP proxy. Equal to itself alone, which costs nothing where connections are kept by it."""

    host: str
    port: int
    authorization: SecretStr | None = None
    """What the header `Proxy-Authorization` says."""

    @property
    def url(self) -> str:
        """Where it is, without its credentials."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Exemption:
    """Hosts that are reached without the proxy."""

    suffix: str = ""
    """The end of a name with a dot before it; empty: every host."""
    only_below: bool = False
    """Not the name itself."""
    network: IPNetwork | None = None
    """Addresses instead of names. No name is resolved to find out."""
    port: int | None = None
    """None: all ports."""

    def covers(self, host: str, port: int) -> bool:
        """Whether `host` is one of them; a name in ASCII, lower case."""
        if self.port not in {None, port}:
            return False
        if self.network is not None:
            address = address_of(host)
            return address is not None and address in self.network
        dotted = f".{host.removesuffix('.')}"
        return dotted.endswith(self.suffix) and not (self.only_below and dotted == self.suffix)


@dataclass(frozen=True, slots=True)
class Proxies:
    """The proxy, if there is one, and who is reached without it."""

    proxy: Proxy | None = None
    exemptions: tuple[Exemption, ...] = ()

    def to(self, host: str, port: int) -> Proxy | None:
        """Through which proxy a host is reached. Raises UnicodeError for a name that is none."""
        if self.proxy is None:
            return None
        name = ascii_host(host).lower()
        return None if any(one.covers(name, port) for one in self.exemptions) else self.proxy

    def to_url(self, url: str) -> Proxy | None:
        """Through which proxy an HTTP URL is asked for. Raises ValueError for one that is none."""
        parts = urlsplit(url)
        return self.to(parts.hostname or "", parts.port or DEFAULT_PORTS.get(parts.scheme, 0))


DIRECT: Final = Proxies()
"""No proxy."""


def parse_proxy(text: str) -> Proxy:
    """The proxy that a URL says. Raises ValueError, which tells nothing of it: it may hold a password."""
    try:
        parts = urlsplit(text.strip())
        host, port = parts.hostname, parts.port
        user = unquote(parts.username or "", errors="strict")
        password = unquote(parts.password or "", errors="strict")
    except ValueError:
        raise ValueError(_PROXY_IS) from None
    is_bare = parts.path in {"", "/"} and not parts.query and not parts.fragment
    if parts.scheme != "http" or not host or not port or not is_bare:
        raise ValueError(_PROXY_IS)
    if address_of(host) is None and not HOST_NAME.fullmatch(host):
        raise ValueError(_PROXY_IS)
    if parts.username is None:
        return Proxy(host, port)
    if ":" in user or not (user + password).isprintable():
        raise ValueError("has a user or password that no proxy can be told (a colon, control characters)")
    token = base64.b64encode(f"{user}:{password}".encode()).decode()
    return Proxy(host, port, SecretStr(f"Basic {token}"))


def parse_exemptions(text: str) -> tuple[Exemption, ...]:
    """Who is reached without the proxy, separated by commas. Raises ValueError, which says which is wrong.

    `example.com` is it and all below it, `.example.com` and `*.example.com` only what is below; addresses,
    networks (`10.0.0.0/8`) and `*` are what they seem. A port may follow a host or an address.
    """
    found = []
    for number, entry in enumerate(text.split(","), 1):
        if entry.strip():
            try:
                found.append(_exemption(entry.strip().lower()))
            except ValueError:
                # Not which: somebody may have put a URL with a password there.
                raise ValueError(f"entry {number} {_EXEMPTION_IS}") from None
    return tuple(found)


def _exemption(entry: str, port: int | None = None) -> Exemption:
    """Raises ValueError."""
    if entry == "*":
        return Exemption(port=port)
    if "/" in entry:
        return Exemption(network=ipaddress.ip_network(entry, strict=False), port=port)
    address = address_of(entry[1:-1] if entry.startswith("[") and entry.endswith("]") else entry)
    if address is not None:
        return Exemption(network=ipaddress.ip_network(address), port=port)
    host, colon, said = entry.rpartition(":")
    if colon and port is None:
        number = int(said)
        if not 0 < number < 65536:
            raise ValueError
        return _exemption(host, number)
    only_below = entry.startswith((".", "*."))
    name = ascii_host(entry.removeprefix("*").removeprefix("."))
    if not HOST_NAME.fullmatch(name):
        raise ValueError
    return Exemption(suffix=f".{name.removesuffix('.')}", only_below=only_below, port=port)
