"""What of a candidate is the same for every request that goes to it, made once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

import msgspec

from synaxis_common import key_variables
from synaxis_common.contracts.routing import Candidate
from synaxis_common.proxies import DIRECT, Proxies
from synaxis_gateway.by_identity import ByIdentity
from synaxis_gateway.dispatch.tariff import Tariff
from synaxis_gateway.upstream import headers
from synaxis_gateway.upstream.endpoint import UpstreamEndpoint
from synaxis_gateway.wire import header_lines

PATHS: Final = {"chat": "/chat/completions", "completions": "/completions", "embeddings": "/embeddings"}
MAX_KNOWN: Final = 4_096
"""A couple of KiB each; a plan has four candidates that are ever tried."""
_SAFE: Final = "/:.@+-_"


class Destination:
    """A candidate, prepared."""

    __slots__ = (
        "_endpoints",
        "_proxies",
        "candidate",
        "connect_s",
        "context_window",
        "global_model_id",
        "has_no_key",
        "header_lines",
        "is_rate_limited",
        "key",
        "prices",
        "provider_id",
        "provider_model_id",
        "tariff",
        "timeout_s",
    )

    def __init__(
        self, candidate: Candidate, environment: Mapping[str, str], proxies: Proxies = DIRECT
    ) -> None:
        self.candidate = candidate
        self._proxies = proxies
        self.provider_id = candidate.provider_id
        self.provider_model_id = candidate.provider_model_id
        self.global_model_id = candidate.global_model_id
        self.context_window = candidate.context_window
        self.is_rate_limited = candidate.is_rate_limited
        self.connect_s = candidate.timeouts.connect_s
        self.key = key_variables.find_key(candidate.api_key_envs, environment)
        self.has_no_key = self.key is None and bool(candidate.api_key_envs)
        """The variable that should hold its key is not set here."""
        self.header_lines = header_lines.join(
            {
                "x-synaxis-provider": quote(candidate.provider_id, safe=_SAFE),
                "x-synaxis-model": quote(candidate.global_model_id, safe=_SAFE),
            }
        )
        """What an answer says of it."""
        self.tariff = Tariff(candidate.prices)
        self.prices = msgspec.Raw(candidate.prices.to_bytes())
        """As reports have them."""
        self._endpoints: dict[tuple[str, bool], UpstreamEndpoint] = {}
        # In the plan of a request without a stream the first token is the whole answer.
        self.timeout_s = min(candidate.timeouts.first_token_s, candidate.timeouts.total_s)
        """How long an attempt may take up to the point of no return, in seconds."""

    def endpoint(self, operation: str, *, stream: bool) -> UpstreamEndpoint:
        """Where requests for an operation go. Raises NoConnection for an address that we do not send to."""
        known = self._endpoints.get((operation, stream))
        if known is not None:
            return known
        candidate = self.candidate
        made = self._endpoints[operation, stream] = UpstreamEndpoint.of(
            f"{candidate.base_url.rstrip('/')}{PATHS[operation]}",
            headers.build(candidate, self.key, stream=stream),
            allow_private=candidate.allow_private,
            proxies=self._proxies,
        )
        return made


class Destinations:
    """The latest ones. Keys are read from `environment` and go nowhere but to their provider."""

    def __init__(self, environment: Mapping[str, str] = os.environ, proxies: Proxies = DIRECT) -> None:
        self._known = ByIdentity[Candidate, Destination](
            lambda candidate: Destination(candidate, environment, proxies), MAX_KNOWN
        )

    def of(self, candidate: Candidate) -> Destination:
        """`candidate`, prepared."""
        return self._known.of(candidate)
