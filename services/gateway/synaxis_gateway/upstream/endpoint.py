"""Where a provider's requests go, and the part of their head that is the same for all of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple
from urllib.parse import quote, urlsplit

from synaxis_common import egress
from synaxis_common.proxies import DEFAULT_PORTS, DIRECT, Proxies, Proxy, ascii_host
from synaxis_gateway.upstream.errors import NoConnection

_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
"""A token of RFC 9110, as header names are."""
_NOT_IN_A_VALUE: Final = re.compile(r"[\r\n\x00]")


class Origin(NamedTuple):
    """What connections can be shared by."""

    host: str
    port: int
    is_tls: bool
    allow_private: bool
    proxy: Proxy | None = None
    """Through which it is reached."""

    @property
    def authority(self) -> str:
        """Host and port as HTTP has them. Raises NoConnection for a name that is none."""
        return f"{_host(self.host)}:{self.port}"


@dataclass(frozen=True, slots=True, repr=False)
class UpstreamEndpoint:
    """One path of one provider, with one key."""

    origin: Origin
    head: bytes
    """The request line and all headers but those that differ from request to request."""

    @classmethod
    def of(
        cls, url: str, headers: Mapping[str, str], *, allow_private: bool, proxies: Proxies = DIRECT
    ) -> UpstreamEndpoint:
        """Raises NoConnection for an address that we do not send to, or headers that are none."""
        try:
            egress.check_url(url, allow_private=allow_private)
        except egress.ForbiddenAddress as error:
            raise NoConnection("its address is one we do not send to") from error
        parts = urlsplit(url)
        assert parts.hostname is not None  # check_url has seen it
        host, port = parts.hostname, parts.port or DEFAULT_PORTS[parts.scheme]
        said = _host(host) if port == DEFAULT_PORTS[parts.scheme] else f"{_host(host)}:{port}"
        origin = Origin(host, port, parts.scheme == "https", allow_private, proxies.to(host, port))
        target = quote(parts.path or "/", safe="/:@!$&'()*+,;=~%-._")
        proxy = None if origin.is_tls else origin.proxy  # one with a tunnel through it sees nothing of this
        if proxy is not None:
            target = f"http://{said}{target}"
        lines = [f"POST {target} HTTP/1.1", f"host: {said}"]
        if proxy is not None and proxy.authorization is not None:
            lines.append(f"proxy-authorization: {proxy.authorization.get_secret_value()}")
        for name, value in headers.items():
            if not _NAME.fullmatch(name) or _NOT_IN_A_VALUE.search(value):
                raise NoConnection("a header for it cannot be sent")
            lines.append(f"{name}: {value}")
        return cls(origin, "\r\n".join(lines).encode())

    def request_head(self, request_id: str, length: int) -> bytes:
        """The head of one request."""
        return b"%b\r\nx-request-id: %b\r\ncontent-length: %d\r\n\r\n" % (
            self.head,
            request_id.encode(),
            length,
        )


def _host(host: str) -> str:
    """A host as headers have it. Raises NoConnection for a name that is none."""
    try:
        name = ascii_host(host)
    except UnicodeError as error:
        raise NoConnection("its name is no name of a host") from error
    return f"[{name}]" if ":" in name else name
