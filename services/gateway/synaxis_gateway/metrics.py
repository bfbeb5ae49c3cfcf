"""What the gateway counts."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from synaxis_gateway.tallies import Counts, Level, Spreads

SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)

REQUESTS = Counts("synaxis_gateway_requests", "Requests answered", ["endpoint", "status"])
IN_FLIGHT = Level("synaxis_gateway_requests_in_flight", "Requests being answered")
ATTEMPTS = Counts("synaxis_gateway_attempts", "Attempts at providers", ["provider", "outcome"])
FAILOVERS = Counter("synaxis_gateway_failovers_total", "Attempts after a request's first")
RETRIES_REFUSED = Counter(
    "synaxis_gateway_retries_refused_total", "Failovers that the retry budget did not allow"
)
LATENCY = Spreads(
    "synaxis_gateway_request_seconds", "From a request to the end of its answer", SECONDS, ["endpoint"]
)
FIRST_TOKEN = Spreads(
    "synaxis_gateway_first_token_seconds", "From a request to its first content, streams only", SECONDS
)
REPORTS_WAITING = Gauge("synaxis_gateway_reports_waiting", "Call reports that the bus has not stored yet")
REPORTS_RETRIED = Counter("synaxis_gateway_reports_retried_total", "Call reports that had to be sent again")
REPORTS_REPEATED = Counter(
    "synaxis_gateway_reports_repeated_total",
    "Call reports sent again because the bus was away after it had them",
)
REPORTS_ADOPTED = Counter(
    "synaxis_gateway_reports_adopted_total", "Call reports found in the spool of a gateway that is gone"
)
ADMISSIONS = Counts(
    "synaxis_gateway_admissions",
    "Requests by how they were admitted: from what was held, by asking a registry, or refused",
    ["how"],
)
ADMISSION_SECONDS = Histogram(
    "synaxis_gateway_admission_wait_seconds",
    "How long requests waited for a registry that had to",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
)
RENEWALS = Counter(
    "synaxis_gateway_renewals_total", "Plans and leases asked for in the background", ["outcome"]
)
LEASES_RETURNED = Counter("synaxis_gateway_leases_returned_total", "Leases given back")
ATTEMPTS_NOT_COVERED = Counter(
    "synaxis_gateway_attempts_not_covered_total", "Failovers that the tenant's budget did not allow"
)
PROVIDER_LIMITS_SPENT = Counter(
    "synaxis_gateway_provider_limits_spent_total",
    "Attempts not made because the limits that all tenants share at the provider are spent",
    ["provider"],
)
SHED = Counter("synaxis_gateway_shed_total", "Requests refused because too many were under way")
CONTINUATIONS = Counter(
    "synaxis_gateway_continuations_total",
    "Streams broken off whose client wanted them continued: made by another provider, or nobody could",
    ["outcome"],
)
HEDGES = Counter(
    "synaxis_gateway_hedges_total",
    "Second requests beside one that was slow to begin: made, won by the second, or not allowed",
    ["outcome"],
)
