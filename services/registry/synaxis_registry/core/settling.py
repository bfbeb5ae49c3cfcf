"""Taking leases back, charging what lapses and recording requests, as pure functions on frozen books.

The same as `return_lease` and `lapse_leases` of migration 0002, `change_budgets` of 0007 and `record_calls`
of 0008, as `core.leasing` says, which has the books and the granting.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from itertools import islice
from typing import Final
from uuid import UUID

from synaxis_common.contracts.leases import LeaseDraw, LeaseReturn
from synaxis_common.pricing import total
from synaxis_registry.core.leasing import (
    Books,
    Budget,
    BudgetKey,
    Lease,
    Limits,
    Told,
    month_of,
)

THRESHOLDS: Final = (50, 80, 95, 100)
"""Percent of a budget that are told of, once each, when what is spent comes to them."""

_NOTHING: Final = Decimal(0)


@dataclass(frozen=True, slots=True)
class Call:
    """A request as it is recorded."""

    request_id: UUID
    tenant_id: str
    key_id: str
    global_model_id: str
    started_at: float
    cost_usd: Decimal | None
    used_tokens: int
    draws: tuple[LeaseDraw, ...] = ()
    """The first one admitted it."""

    @property
    def scopes(self) -> tuple[str, str, str]:
        """Whose budgets its cost is spent in, limited or not."""
        of_tenant = f"t/{self.tenant_id}/"
        return f"{of_tenant}*", f"{of_tenant}{self.global_model_id}", f"k/{self.key_id}"


@dataclass(frozen=True, slots=True)
class BudgetChange:
    """By how much a budget changes."""

    scope: str
    month: date
    spent: Decimal = _NOTHING
    reserved: Decimal = _NOTHING
    unconfirmed: Decimal = _NOTHING


@dataclass(frozen=True, slots=True)
class Lapsed:
    """A lease that nobody reports on any more, and what was charged for it."""

    lease_id: UUID
    gateway_id: str
    usd: Decimal


def give_back(books: Books, returned: LeaseReturn, limits: Limits, now: float) -> tuple[Books, bool]:
    """Take a lease back: what was not used is free again, at once. True: it was done now.

    A lease that is not known is noted as returned, so that an ask still on its way finds it so.
    """
    held = books.leases.get(returned.lease_id)
    if held is None:
        note = _returned_before_it_was_asked_for(returned, now)
        return replace(books, leases={**books.leases, returned.lease_id: note}), False
    if held.is_returned or returned.tenant_id not in (None, held.tenant_id):
        return books, False
    if returned.everything:
        permits, tokens, usd = held.permits, held.tokens, total((held.usd, held.charged))
    else:
        permits = min(returned.unused_permits, held.permits)
        tokens = min(returned.unused_tokens, held.tokens)
        usd = returned.unused_usd
    books, changes = _freed(books, returned.lease_id, permits, tokens, usd)
    lease = replace(books.leases[returned.lease_id], is_returned=True)
    books = replace(books, leases={**books.leases, returned.lease_id: lease})
    books = _given_back(books, held, permits, tokens)
    return change_budgets(books, changes, limits, now), True


def lapse(
    books: Books, limits: Limits, gateway_ttl_s: float, now: float, at_most: int = 500
) -> tuple[Books, tuple[Lapsed, ...]]:
    """Charge at their worst case the leases that are too old, and those of gateways that are dead.

    A late report or return takes the charge back.
    """
    due = (
        (lease_id, lease)
        for lease_id, lease in sorted(books.leases.items())
        if lease.usd > 0
        and (
            lease.lapses_at < now
            or max(books.seen.get(lease.gateway_id, lease.granted_at), lease.granted_at) < now - gateway_ttl_s
        )
    )
    lapsed: list[Lapsed] = []
    changes: list[BudgetChange] = []
    leases = dict(books.leases)
    for lease_id, lease in islice(due, at_most):
        usd = lease.usd
        leases[lease_id] = replace(lease, usd=_NOTHING, charged=total((lease.charged, usd)))
        changes += [BudgetChange(scope, lease.month, usd, -usd, usd) for scope in lease.scopes]
        lapsed.append(Lapsed(lease_id, lease.gateway_id, usd))
    return change_budgets(replace(books, leases=leases), changes, limits, now), tuple(lapsed)


def record(books: Books, calls: Sequence[Call], limits: Limits, now: float) -> tuple[Books, frozenset[UUID]]:
    """Put requests into the ledger and their cost into the budgets, each once; answers those that are new.

    What a request drew from leases is freed, or what was charged when they lapsed taken back, and its cost is
    spent in the month in which it was admitted. Its true tokens take the place of the booked ones. A
    settlement is never refused: what is dearer than its reservation is an overrun.
    """
    added: dict[UUID, Call] = {}
    for call in calls:
        if call.request_id not in books.ledger:
            added.setdefault(call.request_id, call)
    if not added:
        return books, frozenset()
    ledger = {**books.ledger, **{request_id: call.cost_usd for request_id, call in added.items()}}
    books = replace(books, ledger=ledger)
    changes = [change for call in added.values() for change in _spending(books, call, now)]
    books = _with_true_tokens(books, added.values())
    for lease_id, permits, tokens, usd in _drawn(books, added.values()):
        books, freed = _freed(books, lease_id, permits, tokens, usd)
        changes += freed
    return change_budgets(books, changes, limits, now), frozenset(added)


def change_budgets(books: Books, changes: Iterable[BudgetChange], limits: Limits, now: float) -> Books:
    """Change budgets, and tell once of each threshold that what is spent has come to.

    The thresholds begin anew when an operator changes the budget.
    """
    budgets = dict(books.budgets)
    told: list[Told] = []
    more_spent: set[BudgetKey] = set()
    for change in changes:
        key = change.scope, change.month
        before = budgets.get(key, Budget())
        budgets[key] = replace(
            before,
            spent=total((before.spent, change.spent)),
            reserved=total((before.reserved, change.reserved)),
            unconfirmed=total((before.unconfirmed, change.unconfirmed)),
        )
        if change.spent > 0:
            more_spent.add(key)
    for scope, month in sorted(more_spent):
        bounds = limits.get(scope)
        amount = None if bounds is None else bounds.monthly_budget_usd
        if not amount or month != month_of(now):
            continue
        budget = budgets[scope, month]
        already = budget.warned_percent if budget.warned_of == amount else 0
        for percent in THRESHOLDS:
            if percent > already and budget.spent * 100 >= amount * percent:
                told.append(Told(scope, percent, budget.spent, amount))
                budgets[scope, month] = replace(budget, warned_percent=percent, warned_of=amount)
    return replace(books, budgets=budgets, told=(*books.told, *told))


def _returned_before_it_was_asked_for(returned: LeaseReturn, now: float) -> Lease:
    return Lease(
        gateway_id="",
        tenant_id=returned.tenant_id,
        scopes=(),
        second=0,
        month=month_of(now),
        granted_permits=0,
        granted_tokens=0,
        granted_usd=_NOTHING,
        permits=0,
        tokens=0,
        usd=_NOTHING,
        granted_at=now,
        lapses_at=now,
        is_returned=True,
    )


def _freed(
    books: Books, lease_id: UUID, permits: int, tokens: int, usd: Decimal
) -> tuple[Books, list[BudgetChange]]:
    """So much of a lease is no longer outstanding: first of what is reserved, then of what was charged."""
    lease = books.leases[lease_id]
    freed = min(usd, lease.usd)
    uncharged = min(usd - freed, lease.charged)
    after = replace(
        lease,
        permits=lease.permits - min(permits, lease.permits),
        tokens=lease.tokens - min(tokens, lease.tokens),
        usd=total((lease.usd, -freed)),
        charged=total((lease.charged, -uncharged)),
    )
    changes = [
        BudgetChange(scope, lease.month, -uncharged, -freed, -uncharged)
        for scope in lease.scopes
        if freed or uncharged
    ]
    return replace(books, leases={**books.leases, lease_id: after}), changes


def _drawn(books: Books, calls: Iterable[Call]) -> list[tuple[UUID, int, int, Decimal]]:
    """What requests drew, by lease; nobody draws from a lease of another tenant."""
    drawn: dict[UUID, tuple[int, int, Decimal]] = {}
    for call in calls:
        for draw in call.draws:
            lease = books.leases.get(draw.lease_id)
            if lease is not None and lease.tenant_id == call.tenant_id:
                permits, tokens, usd = drawn.get(draw.lease_id, (0, 0, _NOTHING))
                drawn[draw.lease_id] = permits + draw.permits, tokens + draw.tokens, total((usd, draw.usd))
    return [(lease_id, *sums) for lease_id, sums in sorted(drawn.items())]


def _admitting(books: Books, call: Call) -> Lease | None:
    """The lease that a request was admitted from."""
    lease = books.leases.get(call.draws[0].lease_id) if call.draws else None
    return lease if lease is not None and lease.tenant_id == call.tenant_id else None


def _spending(books: Books, call: Call, now: float) -> list[BudgetChange]:
    if not call.cost_usd:
        return []
    lease = _admitting(books, call)
    month = month_of(min(call.started_at, now)) if lease is None else lease.month
    return [BudgetChange(scope, month, spent=call.cost_usd) for scope in call.scopes]


def _given_back(books: Books, lease: Lease, permits: int, tokens: int) -> Books:
    traffic = dict(books.traffic)
    for scope in lease.scopes:
        before = traffic.get(scope)
        if before is not None and lease.second in before.requests.buckets:
            traffic[scope] = before.booked(lease.second, -permits, -tokens)
    return replace(books, traffic=traffic)


def _with_true_tokens(books: Books, calls: Iterable[Call]) -> Books:
    """The true tokens of requests instead of the booked ones, as long as a window sees them."""
    more: dict[tuple[str, int], int] = {}
    for call in calls:
        lease = _admitting(books, call)
        if lease is None:
            continue
        for scope in lease.scopes:
            key = scope, lease.second
            more[key] = more.get(key, 0) + call.used_tokens - call.draws[0].tokens
    traffic = dict(books.traffic)
    for (scope, second), tokens in more.items():
        before = traffic.get(scope)
        if before is not None and second in before.requests.buckets:
            bounded = max(tokens, -before.tokens.buckets[second])
            traffic[scope] = before.booked(second, 0, bounded)
    return replace(books, traffic=traffic)
