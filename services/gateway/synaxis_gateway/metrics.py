"""What the gateway counts."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)

REQUESTS = Counter("synaxis_gateway_requests_total", "Requests answered", ["endpoint", "status"])
IN_FLIGHT = Gauge("synaxis_gateway_requests_in_flight", "Requests being answered")
ATTEMPTS = Counter("synaxis_gateway_attempts_total", "Attempts at providers", ["provider", "outcome"])
FAILOVERS = Counter("synaxis_gateway_failovers_total", "Attempts after a request's first")
RETRIES_REFUSED = Counter(
    "synaxis_gateway_retries_refused_total", "Failovers that the retry budget did not allow"
)
LATENCY = Histogram(
    "synaxis_gateway_request_seconds",
    "From a request to the end of its answer",
    ["endpoint"],
    buckets=SECONDS,
)
FIRST_TOKEN = Histogram(
    "synaxis_gateway_first_token_seconds",
    "From a request to its first content, streams only",
    buckets=SECONDS,
)
REPORTS_WAITING = Gauge("synaxis_gateway_reports_waiting", "Call reports that the bus has not stored yet")
REPORTS_RETRIED = Counter("synaxis_gateway_reports_retried_total", "Call reports that had to be sent again")
