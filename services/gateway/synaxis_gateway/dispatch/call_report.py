"""What the registry is told of a request when all is over: a `CallReport`, written without making one.

The contract validates what comes in; what goes out here was made of checked values, and is written at a tenth
of the price. A test reads what is written with the contract, field by field.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec

from synaxis_common.contracts.leases import LeaseDraw
from synaxis_common.contracts.usage import AttemptOutcome, RequestOutcome
from synaxis_common.logging import scrub
from synaxis_common.money import plain
from synaxis_gateway.by_identity import ByIdentity
from synaxis_gateway.dispatch.call import Attempt, Call

MAX_REASON: Final = 300
"""Characters of why an attempt failed."""
LATEST_DRAWS: Final = 4_096
"""Requests of a lease all draw the same."""

_encode: Final = msgspec.json.Encoder().encode
_OK: Final = RequestOutcome.OK


class _Usage(msgspec.Struct, gc=False):
    input: int
    output: int
    cache_read: int
    cache_write: int
    reasoning: int
    input_audio: int
    output_audio: int


class _Attempt(msgspec.Struct, gc=False):
    provider_id: str
    provider_model_id: str
    outcome: AttemptOutcome
    http_status: int | None
    latency_s: float
    time_to_first_token_s: float | None
    retry_after_s: float | None
    usage: _Usage | None
    usage_estimated: bool
    prices: msgspec.Raw
    error: str | None


class _Report(msgspec.Struct, gc=False):
    request_id: str
    lease_id: UUID | None
    draws: list[msgspec.Raw]
    gateway_id: str
    tenant_id: str
    key_id: str
    global_model_id: str
    model_asked: str
    operation: str
    stream: bool
    started_at: datetime
    outcome: RequestOutcome
    http_status: int
    latency_s: float
    time_to_first_token_s: float | None
    attempts: list[_Attempt]


def written(call: Call, http_status: int) -> bytes:
    """The report of `call`, which was answered with `http_status`."""
    draws, attempts = call.admitted.draws, call.attempts
    ended = call.clock.monotonic()
    plan, measures = call.plan, call.ask.measures
    return _encode(
        _Report(
            call.request_id,
            draws[0].lease_id if draws else None,
            [_DRAWS.of(draw) for draw in draws],
            call.gateway_id,
            plan.tenant_id,
            plan.key_id,
            # With fallback models the last attempt may be at another model than the one asked for.
            attempts[-1].destination.global_model_id if attempts else plan.global_model_id,
            call.ask.model,
            measures.operation,
            measures.stream,
            call.started_at,
            outcome(call, http_status),
            http_status,
            ended - call.started,
            call.first_token_s,
            [_attempt(attempt, ended) for attempt in attempts],
        )
    )


def outcome(call: Call, http_status: int) -> RequestOutcome:
    """How the request ended, as its client saw it."""
    if call.attempts and call.attempts[-1].is_ok:
        return _OK
    last = call.attempts[-1].outcome if call.attempts else None
    match last:
        case AttemptOutcome.CLIENT_GONE:
            return RequestOutcome.CLIENT_GONE
        case AttemptOutcome.STREAM_CUT | AttemptOutcome.ABANDONED:
            return RequestOutcome.STREAM_CUT if http_status == 200 else RequestOutcome.UPSTREAM_ERROR
        case _ if http_status == 200:  # what should have continued a broken stream has failed too
            return RequestOutcome.STREAM_CUT
        case _ if 400 <= http_status < 500 and http_status != 429:
            return RequestOutcome.CLIENT_ERROR
        case _:
            return RequestOutcome.UPSTREAM_ERROR


def _draw(draw: LeaseDraw) -> msgspec.Raw:
    return msgspec.Raw(
        _encode(
            {
                "lease_id": draw.lease_id,
                "permits": draw.permits,
                "tokens": draw.tokens,
                "usd": plain(draw.usd),
            }
        )
    )


_DRAWS: Final = ByIdentity(_draw, LATEST_DRAWS)


def _attempt(attempt: Attempt, now: float) -> _Attempt:
    reading, started = attempt.reading, attempt.started
    destination = attempt.destination
    return _Attempt(
        destination.provider_id,
        destination.provider_model_id,
        attempt.outcome or AttemptOutcome.ABANDONED,
        attempt.http_status,
        (now if attempt.ended is None else attempt.ended) - started,
        None if attempt.first_token is None else attempt.first_token - started,
        attempt.retry_after_s,
        None
        if reading is None
        else _Usage(
            reading.input,
            reading.output,
            reading.cache_read,
            reading.cache_write,
            reading.reasoning,
            reading.input_audio,
            reading.output_audio,
        ),
        reading is not None and reading.estimated,
        destination.prices,
        None if attempt.reason is None else scrub(attempt.reason, MAX_REASON),
    )
