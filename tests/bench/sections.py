"""The sections of the benchmark. A new one is a line here: its name, and what measures it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from tests.bench import (
    bench_client,
    bench_events,
    bench_failover,
    bench_growth,
    bench_hop,
    bench_ledger,
    bench_prompts,
    bench_reference,
    bench_sharing,
    bench_streams,
    bench_throughput,
    bench_wire,
)
from tests.bench.length import Length

Measure = Callable[[], Awaitable[dict[str, Any]]]
"""Answers figures by name. A name ends in its unit, which says which way is better; see figures.py."""


def sections(length: Length) -> dict[str, Measure]:
    """All of them, in the order in which they run."""
    return {
        "reference": partial(bench_reference.measure, length.rounds),
        "throughput": partial(bench_throughput.measure, length),
        "streams": partial(bench_streams.measure, length),
        "prompts": partial(bench_prompts.measure, length),
        "growth": partial(bench_growth.measure, length.rounds),
        "hop": partial(bench_hop.measure, length.rounds),
        "client": partial(bench_client.measure, length.rounds),
        "wire": bench_wire.measure,
        "failover": partial(bench_failover.measure, length.rounds),
        "sharing": partial(bench_sharing.measure, length.rounds),
        "ledger": bench_ledger.measure,
        "events": partial(bench_events.measure, length.rounds),
    }
