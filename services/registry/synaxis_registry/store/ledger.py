"""Leases, budgets and the ledger. What changes limits or money is one statement each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from synaxis_common.contracts.leases import (
    GATEWAY_TTL_S,
    LEASE_TTL_S,
    GatewayAlive,
    LeaseReturn,
    SlotGrant,
)
from synaxis_common.money import plain
from synaxis_registry.core import feedback, health
from synaxis_registry.core.admission import SHARE_OF_LIMIT, SHARE_OF_REST, Grant, LimitUse
from synaxis_registry.core.catalog import EndpointKey
from synaxis_registry.core.feedback import Outcomes
from synaxis_registry.core.latency import DAY, RECENT, Bucket
from synaxis_registry.core.leasing import Ask
from synaxis_registry.core.reading import AnyAttempt, Draw, Report, kept_attempts
from synaxis_registry.core.settle import Settlement, reserved_usd
from synaxis_registry.store import queries
from synaxis_registry.store.database import Connection
from synaxis_registry.store.records import HEALTH

SQL = queries.load("ledger")

LAPSED_AT_MOST = 500
SETTLED_AT_MOST = 100
FORGOTTEN = (
    "forget_buckets",
    "forget_leases",
    "forget_slots",
    "forget_gateways",
    "forget_windows",
    "forget_outcomes",
)
LAPSE_AFTER_S = 900.0
"""How long money is held without a report: longer than the longest request (600 s) and its report."""


async def grant(connection: Connection, asks: Sequence[Ask]) -> list[Grant | None]:
    """Book leases of one tenant on the same scopes, one after another: all of them, or none if that fails.

    Each is booked against all its limits, or, if one of them has no room, against none. The use is as it was
    before that booking. A lease that was granted before is answered the same. None: no limit is left.
    """
    rows = await connection.fetch(
        SQL["grant_leases"],
        asks[0].tenant_id,
        asks[0].scopes,
        [ask.lease_id for ask in asks],
        [ask.gateway_id for ask in asks],
        [ask.permits for ask in asks],
        [ask.tokens_each for ask in asks],
        [ask.usd_each for ask in asks],
        [ask.usd_extra for ask in asks],
        [msgspec.json.encode(ask.slots).decode() for ask in asks],
        [ask.slots_seq for ask in asks],
        LEASE_TTL_S,
        LAPSE_AFTER_S,
        GATEWAY_TTL_S,
        SHARE_OF_REST,
        SHARE_OF_LIMIT,
    )
    of_asks: list[list[asyncpg.Record]] = [[] for _ in asks]
    for row in rows:
        of_asks[row["place"] - 1].append(row)
    return [_grant(of_ask) if of_ask else None for of_ask in of_asks]


async def give_back(connection: Connection, returned: LeaseReturn) -> bool:
    """A lease is over. False: it was given back before, or was never granted."""
    done: bool = await connection.fetchval(
        SQL["return_lease"],
        returned.lease_id,
        returned.tenant_id,
        returned.unused_permits,
        returned.unused_tokens,
        returned.unused_usd,
        returned.everything,
    )
    return done


async def renew_slots(connection: Connection, said: GatewayAlive) -> tuple[SlotGrant, ...]:
    """A gateway is there; what it may have under way from now on."""
    rows = await connection.fetch(
        SQL["renew_slots"],
        said.gateway_id,
        msgspec.json.encode(said.slots).decode(),
        GATEWAY_TTL_S,
        said.slots_seq,
    )
    return tuple(SlotGrant(scope=row["slot_scope"], slots=row["granted"]) for row in rows)


async def record(connection: Connection, calls: Sequence[tuple[Report, Settlement]]) -> frozenset[UUID]:
    """Put reports into the ledger and their cost into the budgets; answers those that were not there yet."""
    lines = msgspec.json.encode([_line(report, settlement) for report, settlement in calls]).decode()
    rows = await connection.fetch(SQL["record_calls"], lines)
    return frozenset(row[0] for row in rows)


async def note_health(connection: Connection, attempts: Sequence[AnyAttempt], now: datetime) -> None:
    """Let attempts count for the health of their endpoints."""
    by_key: dict[EndpointKey, list[AnyAttempt]] = {}
    for one in attempts:
        by_key.setdefault((one.provider_id, one.provider_model_id), []).append(one)
    if not by_key:
        return
    keys = sorted(by_key)  # in one order everywhere, so that concurrent batches never deadlock
    names = _columns(keys, 2)
    rows = await connection.fetch(SQL["health_for_update"], *names)
    if len(rows) < len(keys):
        await connection.execute(SQL["begin_health"], *names, HEALTH.write(health.HealthState()))
        rows = await connection.fetch(SQL["health_for_update"], *names)
    buckets = await _buckets(connection, names, RECENT.oldest(now), DAY.begin(now))
    states: list[tuple[str, str, str]] = []
    windows: list[tuple[Any, ...]] = []
    for row in rows:
        key = (row["provider_id"], row["provider_model_id"])
        before = HEALTH.read(row["state"])
        found = health.noted(before, by_key[key], buckets.get(key, ()), now)
        if found.state != before:
            states.append((*key, HEALTH.write(found.state)))
        windows += [(*key, *_window(one)) for one in found.buckets]
    await connection.execute(
        SQL["save_measured"],
        *_columns(states, 3),
        now + health.SETTLE_AFTER,
        *_columns(windows, 9),
        *_columns(_outcomes(attempts), 3),
        feedback.bucket_of(now),
    )


def _outcomes(attempts: Sequence[AnyAttempt]) -> list[tuple[str, int, int]]:
    """By provider: how many of its attempts count, and how many of these failed."""
    requests: Counter[str] = Counter()
    failures: Counter[str] = Counter()
    for attempt in attempts:
        if (found := health.measured(attempt)) is not None:
            requests[attempt.provider_id] += 1
            failures[attempt.provider_id] += found.failed
    return [(name, requests[name], failures[name]) for name in sorted(requests)]


async def outcomes(connection: Connection, provider_id: str, since: datetime) -> list[Outcomes]:
    """What came of the attempts at a provider since then."""
    rows = await connection.fetch(SQL["outcomes"], provider_id, since)
    return [Outcomes(row["since"], row["requests"], row["failures"]) for row in rows]


async def failing_providers(connection: Connection, since: datetime) -> list[str]:
    """The providers that have failed any request since then."""
    return [row[0] for row in await connection.fetch(SQL["failing_providers"], since)]


async def settle_health(connection: Connection, now: datetime) -> int:
    """Make the windows anew that have changed with time alone, a number at once; answers how many."""
    rows = await connection.fetch(SQL["unsettled_health"], now, SETTLED_AT_MOST)
    if not rows:
        return 0
    names = _columns([(row["provider_id"], row["provider_model_id"]) for row in rows], 2)
    buckets = await _buckets(connection, names, RECENT.oldest(now), DAY.oldest(now))
    saved = []
    for row in rows:
        key = (row["provider_id"], row["provider_model_id"])
        state, again_at = health.settled(HEALTH.read(row["state"]), buckets.get(key, ()), now)
        saved.append((*key, HEALTH.write(state), again_at))
    await connection.execute(SQL["settle_health"], *_columns(saved, 4))
    return len(saved)


async def _buckets(
    connection: Connection, names: Sequence[Any], minutes_from: datetime, hours_from: datetime
) -> dict[EndpointKey, list[Bucket]]:
    found: dict[EndpointKey, list[Bucket]] = {}
    for row in await connection.fetch(SQL["windows"], *names, minutes_from, hours_from):
        found.setdefault((row["provider_id"], row["provider_model_id"]), []).append(
            Bucket(
                since=row["since"],
                span=timedelta(seconds=row["span_s"]),
                requests=row["requests"],
                failures=row["failures"],
                ttft=row["ttft"],
                total=row["total"],
                speed=row["speed"],
            )
        )
    return found


def _window(one: Bucket) -> tuple[Any, ...]:
    span_s = int(one.span.total_seconds())
    return (span_s, one.since, one.requests, one.failures, one.ttft, one.total, one.speed)


def _columns(rows: Sequence[tuple[Any, ...]], width: int) -> list[list[Any]]:
    """Rows of so many values as Postgres' `unnest` takes them."""
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(width)]


@dataclass(frozen=True, slots=True)
class Lapsed:
    """A lease whose gateway is not heard of any more, charged at its worst case."""

    lease_id: UUID
    gateway_id: str
    usd: Decimal


async def lapse(connection: Connection, gateway_ttl_s: float) -> tuple[Lapsed, ...]:
    """Charge what nobody reports on at its worst case, until a late report or return says better.

    Takes `LAPSED_AT_MOST` leases at a time.
    """
    rows = await connection.fetch(SQL["lapse_leases"], gateway_ttl_s, LAPSED_AT_MOST)
    return tuple(Lapsed(row["lapsed_lease"], row["lapsed_gateway"], row["lapsed_usd"]) for row in rows)


async def forget(connection: Connection) -> None:
    """Remove what no window and no late report can need any more."""
    for query in FORGOTTEN:
        await connection.execute(SQL[query])


async def make_partitions(connection: Connection, months: int) -> None:
    """Make the ledger's partitions of this month and of the next `months`."""
    await connection.execute(SQL["make_ledger_partitions"], months)


def _grant(rows: Sequence[Any]) -> Grant:
    return Grant(
        uses=tuple(
            LimitUse(
                scope=row["limit_scope"],
                verdict=row["verdict"],
                retry_after_s=row["retry_after_s"],
                reset_s=row["reset_s"],
                allowed_rpm=row["allowed_rpm"],
                used_requests=row["used_requests"],
                allowed_tpm=row["allowed_tpm"],
                used_tokens=row["used_tokens"],
                allowed_concurrency=row["allowed_concurrency"],
                slots=row["slots"],
                monthly_budget_usd=row["monthly_budget_usd"],
                spent_usd=row["spent"],
                reserved_usd=row["reserved"],
            )
            for row in rows
        ),
        permits=rows[0]["granted_permits"],
        tokens=rows[0]["granted_tokens"],
        usd=rows[0]["granted_usd"],
    )


def _line(report: Report, settlement: Settlement) -> dict[str, Any]:
    """A report as `record_calls` takes it: the columns of the ledger, and what was drawn from leases."""
    usage = settlement.usage
    return {
        "request_id": report.request_id,
        "tenant_id": report.tenant_id,
        "key_id": report.key_id,
        "global_model_id": report.global_model_id,
        "provider_id": settlement.provider_id,
        "provider_model_id": settlement.provider_model_id,
        "operation": report.operation,
        "stream": report.stream,
        "outcome": report.outcome.value,
        "http_status": report.http_status,
        "started_at": report.started_at,
        "latency_s": report.latency_s,
        "ttft_s": report.time_to_first_token_s,
        "input_tokens": usage.input,
        "output_tokens": usage.output,
        "cache_read_tokens": usage.cache_read,
        "cache_write_tokens": usage.cache_write,
        "reasoning_tokens": usage.reasoning,
        "cost_usd": None if settlement.cost_usd is None else plain(settlement.cost_usd),
        "is_estimated": settlement.is_estimated,
        "attempts": kept_attempts(report),
        "reserved_usd": plain(reserved_usd(report)),
        "gateway_id": report.gateway_id,
        "used_tokens": usage.input + usage.output,
        "draws": [_drawn(draw) for draw in report.draws],
    }


def _drawn(draw: Draw) -> dict[str, Any]:
    return {
        "lease_id": draw.lease_id,
        "permits": draw.permits,
        "tokens": draw.tokens,
        "usd": plain(draw.usd),
    }
