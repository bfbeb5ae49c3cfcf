"""How fast and how reliably a provider serves a model, over a window of time."""

from __future__ import annotations

from synaxis_common.contracts.base import Message


class Spread(Message):
    """Percentiles of what was measured, good to about 1 % of rank."""

    p50: float
    p95: float
    p99: float


class Performance(Message):
    """What attempts have shown. Nothing is said that rests on fewer than 20 of them."""

    requests: int = 0
    """Attempts that say something about the provider: none that the client or our quota ended."""
    failures: int = 0
    error_rate: float | None = None
    ttft_s: Spread | None = None
    """From sending the request to the first content, in seconds; streams only."""
    total_s: Spread | None = None
    """From sending the request to the end of the answer, in seconds."""
    tokens_per_s: Spread | None = None
    """Output tokens by total time."""
