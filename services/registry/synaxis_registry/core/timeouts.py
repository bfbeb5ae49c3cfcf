"""How long an attempt at an endpoint may take, from how long it usually takes."""

from __future__ import annotations

from typing import Final

from synaxis_common.contracts.routing import Needs, Timeouts
from synaxis_registry.core.catalog import Endpoint, TimeoutsSet

CONNECT_S: Final = 3.0
TOTAL_S: Final = 600.0
BETWEEN_TOKENS_S: Final = 60.0
TIMES_P95: Final = 3.0
FIRST_TOKEN_AT_LEAST_S: Final = 5.0
FIRST_TOKEN_AT_MOST_S: Final = 60.0
"""Source of the above: RELIABILITY's table; the official clients give up after 600 s."""

REASONING_AT_MOST_S: Final = 300.0
REASONING_UNKNOWN_S: Final = 120.0
"""A reasoning model may think for minutes before it says anything; unmeasured, it gets two."""

SLOW_TOKENS_PER_S: Final = 20.0
LONG_ANSWER_TOKENS: Final = 4_000
"""An answer that is not streamed comes whole: a long one from a slow endpoint is waited for."""


def timeouts(endpoint: Endpoint, is_set: TimeoutsSet, needs: Needs) -> Timeouts:
    """The bounds for one attempt: what an operator has set, the rest by what was measured.

    Without a stream the "first token" is the whole answer.
    """
    reasons = bool(endpoint.capabilities.reasoning)
    most = REASONING_AT_MOST_S if reasons else FIRST_TOKEN_AT_MOST_S
    p95 = endpoint.health.ttft_p95_s if endpoint.health.is_measured else None
    if p95 is None:
        first = REASONING_UNKNOWN_S if reasons else FIRST_TOKEN_AT_MOST_S
    else:
        first = min(max(TIMES_P95 * p95, FIRST_TOKEN_AT_LEAST_S), most)
    if not needs.stream:
        length = needs.max_output_tokens or LONG_ANSWER_TOKENS
        first = min(first + length / SLOW_TOKENS_PER_S, TOTAL_S)
    total = is_set.total_s or TOTAL_S
    return Timeouts(
        connect_s=is_set.connect_s or CONNECT_S,
        first_token_s=min(is_set.first_token_s or first, total),
        between_tokens_s=is_set.between_tokens_s or BETWEEN_TOKENS_S,
        total_s=total,
    )
