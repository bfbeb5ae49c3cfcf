"""What the registry is told of a request when all is over: a `CallReport`, written without making one.

The contract validates what comes in; what goes out here was made of checked values, and is written at a tenth
of the price. A test reads what is written with the contract, field by field.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from synaxis_common.contracts.leases import LeaseDraw
from synaxis_common.contracts.usage import AttemptOutcome, RequestOutcome
from synaxis_common.logging import scrub
from synaxis_common.money import plain
from synaxis_gateway.dispatch.call import Attempt, Call
from synaxis_gateway.wire.usage import UsageReading

MAX_REASON: Final = 300
"""Characters of why an attempt failed."""

_encode: Final = msgspec.json.Encoder(decimal_format="string", uuid_format="canonical").encode


def written(call: Call, http_status: int) -> bytes:
    """The report of `call`, which was answered with `http_status`."""
    draws = call.admitted.draws
    ended = call.clock.monotonic()
    plan, measures = call.plan, call.ask.measures
    return _encode(
        {
            "request_id": call.request_id,
            "lease_id": draws[0].lease_id if draws else None,
            "draws": [_draw(draw) for draw in draws],
            "gateway_id": call.gateway_id,
            "tenant_id": plan.tenant_id,
            "key_id": plan.key_id,
            # With fallback models the last attempt may be at another model than the one asked for.
            "global_model_id": call.attempts[-1].candidate.global_model_id
            if call.attempts
            else plan.global_model_id,
            "model_asked": call.ask.model,
            "operation": measures.operation,
            "stream": measures.stream,
            "started_at": call.started_at,
            "outcome": outcome(call, http_status),
            "http_status": http_status,
            "latency_s": ended - call.started,
            "time_to_first_token_s": call.first_token_s,
            "attempts": [_attempt(attempt, ended) for attempt in call.attempts],
        }
    )


def outcome(call: Call, http_status: int) -> RequestOutcome:
    """How the request ended, as its client saw it."""
    last = call.attempts[-1].outcome if call.attempts else None
    match last:
        case AttemptOutcome.OK:
            return RequestOutcome.OK
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


def _draw(draw: LeaseDraw) -> dict[str, Any]:
    return {
        "lease_id": draw.lease_id,
        "permits": draw.permits,
        "tokens": draw.tokens,
        "usd": plain(draw.usd),
    }


def _attempt(attempt: Attempt, now: float) -> dict[str, Any]:
    reading, started = attempt.reading, attempt.started
    destination = attempt.destination
    return {
        "provider_id": destination.provider_id,
        "provider_model_id": attempt.candidate.provider_model_id,
        "outcome": attempt.outcome or AttemptOutcome.ABANDONED,
        "http_status": attempt.http_status,
        "latency_s": (now if attempt.ended is None else attempt.ended) - started,
        "time_to_first_token_s": None if attempt.first_token is None else attempt.first_token - started,
        "retry_after_s": attempt.retry_after_s,
        "usage": None if reading is None else _usage(reading),
        "usage_estimated": reading is not None and reading.estimated,
        "prices": destination.prices,
        "error": None if attempt.reason is None else scrub(attempt.reason, MAX_REASON),
    }


def _usage(usage: UsageReading) -> dict[str, int]:
    return {
        "input": usage.input,
        "output": usage.output,
        "cache_read": usage.cache_read,
        "cache_write": usage.cache_write,
        "reasoning": usage.reasoning,
        "input_audio": usage.input_audio,
        "output_audio": usage.output_audio,
    }
