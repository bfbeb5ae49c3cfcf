"""Where a provider's requests go, and the part of their head that is the same for all of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple
from urllib.parse import quote, urlsplit

from synaxis_common import egress
from synaxis_gateway.upstream.errors import NoConnection

_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
"""A token of RFC 9110, as header names are."""
_NOT_IN_A_VALUE: Final = re.compile(r"[\r\n\x00]")
_PORTS: Final = {"http": 80, "https": 443}


class Origin(NamedTuple):
    """What connections can be shared by."""

    host: str
    port: int
    is_tls: bool
    allow_private: bool


@dataclass(frozen=True, slots=True, repr=False)
class UpstreamEndpoint:
    """One path of one provider, with one key."""

    origin: Origin
    head: bytes
    """The request line and all headers but those that differ from request to request."""

    @classmethod
    def of(cls, url: str, headers: Mapping[str, str], *, allow_private: bool) -> UpstreamEndpoint:
        """Raises NoConnection for an address that we do not send to, or headers that are none."""
        try:
            egress.check_url(url, allow_private=allow_private)
        except egress.ForbiddenAddress as error:
            raise NoConnection("its address is one we do not send to") from error
        parts = urlsplit(url)
        assert parts.hostname is not None  # check_url has seen it
        origin = Origin(
            parts.hostname, parts.port or _PORTS[parts.scheme], parts.scheme == "https", allow_private
        )
        path = quote(parts.path or "/", safe="/:@!$&'()*+,;=~%-._")
        lines = [f"POST {path} HTTP/1.1", f"host: {_host(origin)}"]
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


def _host(origin: Origin) -> str:
    """The host as its header has it. Raises NoConnection for a name that is none."""
    try:
        host = origin.host if origin.host.isascii() else origin.host.encode("idna").decode()
    except UnicodeError as error:
        raise NoConnection("its name is no name of a host") from error
    if ":" in host:
        host = f"[{host}]"
    return host if origin.port == _PORTS["https" if origin.is_tls else "http"] else f"{host}:{origin.port}"
