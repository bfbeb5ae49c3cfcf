"""Errors as clients get them, in OpenAI's shape. Only here do they become HTTP statuses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from aiohttp import web

from synaxis_common.contracts.routing import RateLimitView, RefusalCode, RouteRefusal
from synaxis_common.contracts.usage import AttemptOutcome
from synaxis_gateway.by_identity import ByIdentity
from synaxis_gateway.dispatch.call import Attempt
from synaxis_gateway.dispatch.failover import Exhausted, Refused
from synaxis_gateway.http.exchange import Answer
from synaxis_gateway.wire import header_lines

LONGEST_RETRY_AFTER_S = 60.0
"""OpenAI's clients obey a wait of up to 60 s, and take their own, which is shorter, where it is longer."""
BUSY_RETRY_AFTER_S = 1
"""Said where something of ours is away: it is back within seconds or needs a human."""
NO_PROVIDER_RETRY_AFTER_S = 5
MAX_SHOWN_EXCLUSIONS = 50
LATEST_VIEWS = 1_024
"""Views of rate limits whose headers are remembered; each serves the requests of a plan for two seconds."""


@dataclass(eq=False)
class ApiError(Exception):
    """An answer that is an error."""

    status: int
    code: str
    message: str
    kind: str = "invalid_request_error"
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    """Further members of the error object."""

    def answer(self) -> Answer:
        """The error as an HTTP answer."""
        error = {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.code,
            **self.details,
        }
        return Answer(self.status, msgspec.json.encode({"error": error}), header_lines.join(self.headers))

    def response(self) -> web.Response:
        """The same for aiohttp's server."""
        return response(self.answer())


def response(answer: Answer) -> web.Response:
    """An answer as aiohttp's server sends it."""
    return web.Response(
        status=answer.status,
        body=answer.body,
        headers={"Content-Type": answer.content_type, **header_lines.split(answer.header_lines)},
    )


def bad_request(message: str, param: str | None = None, code: str = "invalid_request") -> ApiError:
    """The client's mistake."""
    return ApiError(400, code, message, param=param)


def unauthorized(message: str) -> ApiError:
    """No key, or one that is not valid here."""
    return ApiError(401, "invalid_api_key", message, headers={"WWW-Authenticate": "Bearer"})


def unavailable(message: str) -> ApiError:
    """Something of ours is away for the moment."""
    return ApiError(
        503,
        "no_provider_available",
        message,
        kind="service_unavailable",
        headers={"Retry-After": str(BUSY_RETRY_AFTER_S)},
    )


_REFUSALS: dict[RefusalCode, tuple[int, str, str | None]] = {
    RefusalCode.INVALID_API_KEY: (401, "invalid_request_error", None),
    RefusalCode.MODEL_NOT_ALLOWED: (403, "permission_error", "model"),
    RefusalCode.MODEL_NOT_FOUND: (404, "invalid_request_error", "model"),
    RefusalCode.RATE_LIMIT_EXCEEDED: (429, "rate_limit_error", None),
    RefusalCode.INSUFFICIENT_QUOTA: (429, "insufficient_quota", None),
    RefusalCode.NO_PROVIDER_AVAILABLE: (503, "service_unavailable", None),
    RefusalCode.CONTEXT_LENGTH_EXCEEDED: (400, "invalid_request_error", "messages"),
    RefusalCode.UNAVAILABLE: (503, "service_unavailable", None),
}


def refusal(refused: RouteRefusal) -> ApiError:
    """What the registry's no means to the client."""
    status, kind, param = _REFUSALS[refused.code]
    headers = header_lines.split(rate_limit_lines(refused.rate_limits))
    details: dict[str, Any] = {}
    code = refused.code.value
    match refused.code:
        case RefusalCode.RATE_LIMIT_EXCEEDED:
            headers["Retry-After"] = _whole_seconds(refused.retry_after_s, BUSY_RETRY_AFTER_S)
        case RefusalCode.INSUFFICIENT_QUOTA:
            headers["x-should-retry"] = "false"
        case RefusalCode.MODEL_NOT_FOUND:
            details["nearest"] = list(refused.nearest)
        case RefusalCode.NO_PROVIDER_AVAILABLE:
            headers["Retry-After"] = _whole_seconds(refused.retry_after_s, NO_PROVIDER_RETRY_AFTER_S)
            details["excluded"] = [
                exclusion.model_dump(mode="json") for exclusion in refused.excluded[:MAX_SHOWN_EXCLUSIONS]
            ]
        case RefusalCode.UNAVAILABLE:
            headers["Retry-After"] = _whole_seconds(refused.retry_after_s, BUSY_RETRY_AFTER_S)
            code = RefusalCode.NO_PROVIDER_AVAILABLE.value
    return ApiError(status, code, refused.message, kind, param, headers, details)


def exhausted(attempts: Sequence[Attempt], result: Exhausted) -> ApiError:
    """What it means to the client that no provider answered. Nothing a provider wrote is in it."""
    outcomes = {attempt.outcome for attempt in attempts if attempt.outcome is not AttemptOutcome.NO_KEY}
    details = {
        "attempts": [
            {
                "provider_id": attempt.candidate.provider_id,
                "provider_model_id": attempt.candidate.provider_model_id,
                "outcome": None if attempt.outcome is None else attempt.outcome.value,
                "http_status": attempt.http_status,
            }
            for attempt in attempts
        ]
    }
    waits = [attempt.retry_after_s for attempt in attempts if attempt.retry_after_s is not None]
    if result.spared_for_s is not None:
        waits.append(result.spared_for_s)
    headers: dict[str, str] = {}
    if waits:
        headers["Retry-After"] = _whole_seconds(min(waits), BUSY_RETRY_AFTER_S)
    elif result.all_tried:
        headers["x-should-retry"] = "false"  # four attempts were made already, a client's would multiply them
    if not outcomes and result.spared_for_s is not None:
        outcomes = {AttemptOutcome.RATE_LIMITED}
    if not outcomes:
        return ApiError(
            503,
            "no_provider_available",
            "No provider of this model can be used by this gateway now.",
            "service_unavailable",
            headers={"Retry-After": str(NO_PROVIDER_RETRY_AFTER_S)},
            details=details,
        )
    if outcomes == {AttemptOutcome.TIMEOUT}:
        return ApiError(
            504, "upstream_timeout", "No provider answered in time.", "upstream_error", None, headers, details
        )
    if outcomes == {AttemptOutcome.RATE_LIMITED}:
        headers.setdefault("Retry-After", str(BUSY_RETRY_AFTER_S))
        headers.pop("x-should-retry", None)
        return ApiError(
            429,
            "rate_limit_exceeded",
            "Every provider of this model is rate limited at the moment.",
            "rate_limit_error",
            None,
            headers,
            details,
        )
    return ApiError(
        502, "upstream_error", "No provider could answer.", "upstream_error", None, headers, details
    )


def refused_by_provider(refused: Refused) -> Answer:
    """A provider's answer about the client's own request: its bytes, if they have OpenAI's shape."""
    if _has_openai_shape(refused.body):
        return Answer(refused.status, refused.body)
    text = refused.body[:2_000].decode(errors="replace").strip()
    message = "The provider refused the request" + (f": {text}" if text else ".")
    return ApiError(refused.status, "invalid_request", message).answer()


def rate_limit_lines(view: RateLimitView, more_requests: int = 0, more_tokens: int = 0) -> str:
    """`x-ratelimit-*` under the names OpenAI gave them; nothing where there is no limit.

    `more_requests`, `more_tokens`: what is left besides what `view` says.
    """
    lines, requests, tokens = _FIXED.of(view)
    if requests is not None:
        lines += f"x-ratelimit-remaining-requests: {max(requests + more_requests, 0)}\r\n"
    if tokens is not None:
        lines += f"x-ratelimit-remaining-tokens: {max(tokens + more_tokens, 0)}\r\n"
    return lines


def _fixed(view: RateLimitView) -> tuple[str, int | None, int | None]:
    """Those of them that are the same for all requests of a plan, and what it says is left."""
    headers: dict[str, str] = {}
    if view.limit_requests is not None:
        headers["x-ratelimit-limit-requests"] = str(view.limit_requests)
    if view.reset_requests_s is not None:
        headers["x-ratelimit-reset-requests"] = _duration(view.reset_requests_s)
    if view.limit_tokens is not None:
        headers["x-ratelimit-limit-tokens"] = str(view.limit_tokens)
    if view.reset_tokens_s is not None:
        headers["x-ratelimit-reset-tokens"] = _duration(view.reset_tokens_s)
    return header_lines.join(headers), view.remaining_requests, view.remaining_tokens


_FIXED: Final = ByIdentity(_fixed, LATEST_VIEWS)


def _duration(seconds: float) -> str:
    return f"{max(seconds, 0.0):.3f}".rstrip("0").rstrip(".") + "s"


def _has_openai_shape(body: bytes) -> bool:
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return False
    return isinstance(document, dict) and isinstance(document.get("error"), dict)


def _whole_seconds(seconds: float | None, default: int) -> str:
    return str(default if seconds is None else max(1, math.ceil(min(seconds, LONGEST_RETRY_AFTER_S))))
