"""What discovery counts."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

POLLS = Counter("synaxis_discovery_polls_total", "Polls of providers, by what came of them", ["outcome"])
LATENCY = Histogram(
    "synaxis_discovery_poll_seconds",
    "How long polls took, by what came of them",
    ["outcome"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
UNSENT = Counter("synaxis_discovery_unsent_observations_total", "Observations that the bus did not take")
KEYS = Gauge("synaxis_discovery_keys_present", "Provider key variables that are set here")
SKIPPED = Counter("synaxis_discovery_skipped_entries_total", "Entries of model lists that could not be read")
