"""Which headers a provider is sent: those named here, and no other."""

from __future__ import annotations

from collections.abc import Mapping

from synaxis_common.contracts.routing import Candidate

USER_AGENT = "synaxis-gateway"

_NEVER_FROM_A_PLAN = frozenset(
    {
        "authorization",
        "connection",
        "content-length",
        "cookie",
        "expect",
        "host",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-request-id",
    }
)
"""Headers that frame the message or carry the key: a provider's own entry must not touch them."""


def build(candidate: Candidate, key: str | None, *, stream: bool) -> Mapping[str, str]:
    """The headers of all requests to `candidate`. Nothing of the client's own headers is in them."""
    headers = {name.lower(): value for name, value in candidate.headers.items()}
    for name in _NEVER_FROM_A_PLAN & headers.keys():
        del headers[name]
    headers |= {
        "content-type": "application/json",
        "accept": "text/event-stream" if stream else "application/json",
        # A compressed answer could unfold to any size, and could not be passed on as it comes.
        "accept-encoding": "identity",
        "user-agent": USER_AGENT,
    }
    if key is not None:
        headers["authorization"] = f"Bearer {key}"
    return headers
