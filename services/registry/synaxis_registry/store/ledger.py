"""Permits, budgets and the ledger. The statements that change limits or money are single ones."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from uuid import UUID

from synaxis_common.contracts.usage import AttemptReport, CallReport
from synaxis_registry.core import health
from synaxis_registry.core.admission import LimitUse
from synaxis_registry.core.plan import Routed
from synaxis_registry.core.settle import Settlement
from synaxis_registry.store import queries
from synaxis_registry.store.database import Connection
from synaxis_registry.store.records import HEALTH

SQL = queries.load("ledger")


async def grant(connection: Connection, routed: Routed, ttl_s: int) -> tuple[LimitUse, ...]:
    """Book a request against all its limits, or, if one of them has no room, against none.

    The use is as it was before the booking. A request that was booked already is granted again, once.
    """
    rows = await connection.fetch(
        SQL["grant_permit"],
        routed.request_id,
        routed.tenant_id,
        [limit.global_model_id for limit in routed.limits],
        routed.booking.requests,
        routed.booking.tokens,
        routed.booking.usd,
        ttl_s,
    )
    return tuple(
        LimitUse(
            global_model_id=row["limit_model"],
            verdict=row["verdict"],
            retry_after_s=row["retry_after_s"],
            allowed_rpm=row["allowed_rpm"],
            used_requests=row["used_requests"],
            allowed_tpm=row["allowed_tpm"],
            used_tokens=row["used_tokens"],
            monthly_budget_usd=row["monthly_budget_usd"],
            spent_usd=row["spent"],
            reserved_usd=row["reserved"],
        )
        for row in rows
    )


async def give_back(connection: Connection, request_id: UUID) -> None:
    """A permit that was not used."""
    await connection.execute(SQL["end_permit"], request_id, "returned")


async def settle(connection: Connection, report: CallReport, settlement: Settlement) -> bool:
    """Put a report into the ledger and its cost into the budgets. False: it was there already."""
    usage = settlement.usage
    added = await connection.fetchval(
        SQL["add_call"],
        report.request_id,
        report.tenant_id,
        report.key_id,
        report.global_model_id,
        settlement.provider_id,
        settlement.provider_model_id,
        report.operation,
        report.stream,
        report.outcome.value,
        report.http_status,
        report.started_at,
        report.latency_s,
        report.time_to_first_token_s,
        usage.input,
        usage.output,
        usage.cache_read,
        usage.cache_write,
        usage.reasoning,
        settlement.cost_usd,
        settlement.is_estimated,
        "[" + ",".join(attempt.model_dump_json() for attempt in report.attempts) + "]",
    )
    if added is None:
        return False
    await connection.execute(
        SQL["settle_call"],
        report.request_id,
        report.tenant_id,
        report.global_model_id,
        report.started_at,
        settlement.cost_usd or Decimal(0),
    )
    return True


async def note_health(connection: Connection, attempts: tuple[AttemptReport, ...], now: datetime) -> None:
    """Let the attempts of a report count for the health of their endpoints."""
    by_key = {(one.provider_id, one.provider_model_id): one for one in attempts}
    for key in sorted(by_key):  # in one order everywhere, so that concurrent reports never deadlock
        found = await connection.fetchval(SQL["health_for_update"], *key)
        before = health.HealthState() if found is None else HEALTH.read(found)
        after = health.with_attempt(before, by_key[key], now)
        if after != before:
            await connection.execute(SQL["save_health"], *key, HEALTH.write(after))


async def lapse(connection: Connection) -> int:
    """Charge permits that expired without a report at their worst case; answers how many."""
    found = await connection.fetch(SQL["lapsed_permits"])
    for row in found:
        await connection.execute(SQL["end_permit"], row["request_id"], "lapsed")
    return len(found)


async def forget(connection: Connection) -> None:
    """Remove what no window and no late report can need any more."""
    await connection.execute(SQL["forget_buckets"])
    await connection.execute(SQL["forget_permits"])
