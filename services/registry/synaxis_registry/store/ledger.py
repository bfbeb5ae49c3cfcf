"""Leases, budgets and the ledger. What changes limits or money is one statement each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec

from synaxis_common.contracts.leases import (
    GATEWAY_TTL_S,
    LEASE_TTL_S,
    GatewayAlive,
    LeaseAsk,
    LeaseReturn,
    ProviderLeaseAsk,
    SlotGrant,
)
from synaxis_common.contracts.usage import AttemptReport, CallReport
from synaxis_common.money import plain
from synaxis_registry.core import health
from synaxis_registry.core.admission import SHARE_OF_LIMIT, SHARE_OF_REST, Grant, LimitUse
from synaxis_registry.core.plan import Routed
from synaxis_registry.core.settle import Settlement, reserved_usd
from synaxis_registry.store import queries
from synaxis_registry.store.database import Connection
from synaxis_registry.store.records import HEALTH

SQL = queries.load("ledger")

LAPSED_AT_MOST = 500
LAPSE_AFTER_S = 900.0
"""How long money is held without a report: longer than the longest request (600 s) and its report."""


async def grant(connection: Connection, routed: Routed, ask: LeaseAsk) -> Grant | None:
    """Book a lease against all its limits, or, if one of them has no room, against none.

    The use is as it was before the booking. A lease that was granted before is answered the same. None: there
    is no limit any more.
    """
    rows = await connection.fetch(
        SQL["grant_lease"],
        ask.lease_id,
        ask.gateway_id,
        routed.tenant_id,
        [limit.scope for limit in routed.limits],
        ask.permits,
        routed.booking.tokens,
        routed.booking.usd,
        ask.usd,
        msgspec.json.encode(ask.slots).decode(),
        LEASE_TTL_S,
        LAPSE_AFTER_S,
        GATEWAY_TTL_S,
        SHARE_OF_REST,
        SHARE_OF_LIMIT,
        ask.slots_seq,
    )
    return _grant(rows) if rows else None


async def grant_at_provider(connection: Connection, ask: ProviderLeaseAsk) -> Grant | None:
    """Book attempts against the limits that all tenants share at a provider. None: it has none."""
    rows = await connection.fetch(
        SQL["grant_lease"],
        ask.lease_id,
        ask.gateway_id,
        None,
        [f"p/{ask.provider_id}", f"e/{ask.provider_id}/{ask.provider_model_id}"],
        ask.permits,
        ask.tokens_each,
        Decimal(0),
        Decimal(0),
        "{}",
        LEASE_TTL_S,
        LAPSE_AFTER_S,
        GATEWAY_TTL_S,
        SHARE_OF_REST,
        SHARE_OF_LIMIT,
        0,
    )
    return _grant(rows) if rows else None


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


async def record(connection: Connection, calls: Sequence[tuple[CallReport, Settlement]]) -> frozenset[UUID]:
    """Put reports into the ledger and their cost into the budgets; answers those that were not there yet."""
    lines = msgspec.json.encode([_line(report, settlement) for report, settlement in calls]).decode()
    rows = await connection.fetch(SQL["record_calls"], lines)
    return frozenset(row[0] for row in rows)


async def note_health(connection: Connection, attempts: Sequence[AttemptReport], now: datetime) -> None:
    """Let attempts count for the health of their endpoints."""
    by_key: dict[tuple[str, str], list[AttemptReport]] = {}
    for one in attempts:
        by_key.setdefault((one.provider_id, one.provider_model_id), []).append(one)
    if not by_key:
        return
    keys = sorted(by_key)  # in one order everywhere, so that concurrent batches never deadlock
    providers, models = [provider for provider, _ in keys], [model for _, model in keys]
    await connection.execute(SQL["begin_health"], providers, models, HEALTH.write(health.HealthState()))
    rows = await connection.fetch(SQL["health_for_update"], providers, models)
    changed: list[tuple[str, str, str]] = []
    for row in rows:
        key = (row["provider_id"], row["provider_model_id"])
        before = after = HEALTH.read(row["state"])
        for attempt in by_key[key]:
            after = health.with_attempt(after, attempt, now)
        if after != before:
            changed.append((*key, HEALTH.write(after)))
    if changed:
        await connection.execute(SQL["save_health"], *map(list, zip(*changed, strict=True)))


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
    for query in ("forget_buckets", "forget_leases", "forget_slots", "forget_gateways"):
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


def _line(report: CallReport, settlement: Settlement) -> dict[str, Any]:
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
        "attempts": [attempt.model_dump(mode="json") for attempt in report.attempts],
        "reserved_usd": plain(reserved_usd(report)),
        "gateway_id": report.gateway_id,
        "used_tokens": usage.input + usage.output,
        "draws": [
            {
                "lease_id": draw.lease_id,
                "permits": draw.permits,
                "tokens": draw.tokens,
                "usd": plain(draw.usd),
            }
            for draw in report.draws
        ],
    }
