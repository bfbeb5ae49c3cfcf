"""Granting leases as pure functions on frozen books: the rules of migrations 0002 and 0009, one by one.

The registry books in Postgres (`grant_leases`, `renew_slots`). These functions give the same answers and
leave the same books, by the same checks in the same order and with the same shares: the reference that the
SQL is compared with, and the registries of the simulation. Times are Unix seconds of the one clock that
counts, the database's, and come from the caller. `core.settling` takes back, charges and records.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Final
from uuid import UUID

from synaxis_common.contracts.leases import GATEWAY_TTL_S, LEASE_TTL_S
from synaxis_common.pricing import total
from synaxis_registry.core.admission import SHARE_OF_LIMIT, SHARE_OF_REST, Grant, LimitUse, Verdict
from synaxis_registry.core.limits import Window, month_start

CONCURRENCY_RETRY_S: Final = 1
UNBOUNDED_SLOTS: Final = 2**31 - 1

_NOTHING: Final = Decimal(0)


@dataclass(frozen=True, slots=True)
class Bounds:
    """The limit on a scope. None: not bounded."""

    allowed_rpm: int | None = None
    allowed_tpm: int | None = None
    allowed_concurrency: int | None = None
    monthly_budget_usd: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Terms:
    """On which terms leases are granted."""

    lapse_s: float
    """How long money is held without a report."""
    ttl_s: float = LEASE_TTL_S
    slot_ttl_s: float = GATEWAY_TTL_S
    share_of_rest: int = SHARE_OF_REST
    share_of_limit: int = SHARE_OF_LIMIT


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked to be booked. With `permits` 0 only money is, `usd_extra` of it, all or nothing."""

    lease_id: UUID
    gateway_id: str
    tenant_id: str | None
    scopes: tuple[str, ...]
    permits: int = 1
    tokens_each: int = 0
    usd_each: Decimal = _NOTHING
    usd_extra: Decimal = _NOTHING
    slots: Mapping[str, int] = field(default_factory=dict)
    slots_seq: int = 0


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease as the registry knows it: of what was granted, what is neither returned nor reported on."""

    gateway_id: str
    tenant_id: str | None
    scopes: tuple[str, ...]
    second: int
    """Where it counts in the windows: the last second in which it may be used."""
    month: date
    granted_permits: int
    granted_tokens: int
    granted_usd: Decimal
    permits: int
    tokens: int
    usd: Decimal
    granted_at: float
    lapses_at: float
    charged: Decimal = _NOTHING
    """Lapsed: in `spent` as unconfirmed, until a late report or return says better."""
    is_returned: bool = False


@dataclass(frozen=True, slots=True)
class Traffic:
    """What counts in a scope's windows."""

    requests: Window = Window()
    tokens: Window = Window()

    def booked(self, second: int, requests: int, tokens: int) -> Traffic:
        """With so many more in `second`."""
        return Traffic(self.requests.booked(second, requests), self.tokens.booked(second, tokens))

    def seen_at(self, second: int) -> Traffic:
        """Without what no window sees any more."""
        return Traffic(self.requests.seen_at(second), self.tokens.seen_at(second))


@dataclass(frozen=True, slots=True)
class Budget:
    """What a scope has come to in a month."""

    spent: Decimal = _NOTHING
    reserved: Decimal = _NOTHING
    unconfirmed: Decimal = _NOTHING
    """The part of `spent` that gateways held and never reported on."""
    warned_percent: int = 0
    warned_of: Decimal | None = None


@dataclass(frozen=True, slots=True)
class SlotsHeld:
    """How many requests of a scope a gateway may have under way, as the registry knows it."""

    slots: int
    expires_at: float
    seq: int


@dataclass(frozen=True, slots=True)
class Told:
    """A threshold of a budget that was told of."""

    scope: str
    percent: int
    spent: Decimal
    budget: Decimal


BudgetKey = tuple[str, date]
SlotKey = tuple[str, str]
"""(scope, gateway)."""


@dataclass(frozen=True, slots=True)
class Books:
    """All that is booked, spent and recorded: the tables of migration 0002."""

    traffic: Mapping[str, Traffic] = field(default_factory=dict)
    budgets: Mapping[BudgetKey, Budget] = field(default_factory=dict)
    leases: Mapping[UUID, Lease] = field(default_factory=dict)
    slots: Mapping[SlotKey, SlotsHeld] = field(default_factory=dict)
    seen: Mapping[str, float] = field(default_factory=dict)
    """When each gateway said last that it is there."""
    ledger: Mapping[UUID, Decimal | None] = field(default_factory=dict)
    """What each request has cost; None where a price was unknown."""
    told: tuple[Told, ...] = ()

    def budget(self, scope: str, month: date) -> Budget:
        """What a scope has come to in a month."""
        return self.budgets.get((scope, month), Budget())


Limits = Mapping[str, Bounds]
"""By scope. A scope that is missing has no limit."""


def second_of(now: float) -> int:
    """The bucket that a moment is in."""
    return math.floor(now)


def month_of(now: float) -> date:
    """The budget's month that a moment is in."""
    return month_start(datetime.fromtimestamp(now, UTC)).date()


def grant(books: Books, ask: Ask, limits: Limits, terms: Terms, now: float) -> tuple[Books, Grant | None]:
    """Book a lease against all its limits, or, if one of them has no room, against none.

    The answer shows every limit as it was before the booking. The first permit is granted where there is
    room, more of them only up to a share. A lease that is known is answered as it was granted, `gone` once
    it is over. None: there is no limit on any of the scopes, and nothing is booked.
    """
    bounded = [(scope, limits[scope]) for scope in sorted(set(ask.scopes)) if scope in limits]
    if not bounded:
        return books, None
    known = books.leases.get(ask.lease_id)
    permits = ask.permits
    uses: list[LimitUse] = []
    for scope, bounds in bounded:
        if known is None:
            use = _checked(books, ask, scope, bounds, now)
            if use.verdict is None:
                permits = _shared(use, ask, permits, terms)
        else:
            use = _used_before(known, _use(books, scope, bounds, now), now)
        uses.append(use)
    if known is None:
        if any(use.verdict is not None for use in uses):
            return books, Grant(uses=tuple(uses))
        books, known = _booked(books, ask, permits, terms, now)
    for place, use in enumerate(uses):
        if ask.permits and use.allowed_concurrency is not None and use.verdict is None:
            left = slots_left(books, use.scope, ask.gateway_id, use.allowed_concurrency, now)
            wanted = ask.slots.get(use.scope, 1) + known.granted_permits - 1
            held = SlotsHeld(min(left, wanted), now + terms.slot_ttl_s, ask.slots_seq)
            books, slots = _with_slots(books, (use.scope, ask.gateway_id), held)
            uses[place] = replace(use, slots=slots)
    return books, Grant(tuple(uses), known.granted_permits, known.granted_tokens, known.granted_usd)


def slots_left(books: Books, scope: str, gateway_id: str, allowed: int, now: float) -> int:
    """How many slots of a scope other gateways leave."""
    taken = sum(
        held.slots
        for (of, holder), held in books.slots.items()
        if of == scope and holder != gateway_id and held.expires_at > now
    )
    return max(0, allowed - taken)


def renew_slots(
    books: Books,
    gateway_id: str,
    wanted: Mapping[str, int],
    limits: Limits,
    now: float,
    *,
    seq: int = 0,
    ttl_s: float = GATEWAY_TTL_S,
) -> tuple[Books, dict[str, int]]:
    """A gateway is there, and wants these slots; answers what it may have under way in each scope."""
    books = replace(books, seen={**books.seen, gateway_id: now})
    granted: dict[str, int] = {}
    for scope, slots in sorted(wanted.items()):
        allowed = limits.get(scope, Bounds()).allowed_concurrency
        left = slots_left(books, scope, gateway_id, UNBOUNDED_SLOTS if allowed is None else allowed, now)
        held = SlotsHeld(min(slots, left), now + ttl_s, seq)
        books, granted[scope] = _with_slots(books, (scope, gateway_id), held)
    return books, granted


def _with_slots(books: Books, key: SlotKey, wanted: SlotsHeld) -> tuple[Books, int]:
    """What the gateway holds from now on; its older word does not count against its newer."""
    held = books.slots.get(key)
    if held is not None and wanted.seq < held.seq:
        return books, held.slots
    return replace(books, slots={**books.slots, key: wanted}), wanted.slots


def _use(books: Books, scope: str, bounds: Bounds, now: float) -> LimitUse:
    second = second_of(now)
    traffic = books.traffic.get(scope, Traffic())
    budget = books.budget(scope, month_of(now))
    return LimitUse(
        scope=scope,
        verdict=None,
        retry_after_s=None,
        reset_s=traffic.requests.reset_s(second),
        allowed_rpm=bounds.allowed_rpm,
        used_requests=traffic.requests.used(second),
        allowed_tpm=bounds.allowed_tpm,
        used_tokens=traffic.tokens.used(second),
        allowed_concurrency=bounds.allowed_concurrency,
        slots=None,
        monthly_budget_usd=bounds.monthly_budget_usd,
        spent_usd=budget.spent,
        reserved_usd=budget.reserved,
    )


def _checked(books: Books, ask: Ask, scope: str, bounds: Bounds, now: float) -> LimitUse:
    """Whether one limit has room for the first permit, or for the money that is asked for."""
    use = _use(books, scope, bounds, now)
    second = second_of(now)
    traffic = books.traffic.get(scope, Traffic())
    rpm, tpm, budget = bounds.allowed_rpm, bounds.allowed_tpm, bounds.monthly_budget_usd
    tokens = ask.tokens_each if ask.permits else 0
    usd = ask.usd_each if ask.permits else ask.usd_extra
    if ask.permits and rpm is not None and not traffic.requests.admits(second, 1, rpm):
        return _refused(use, "rpm", traffic.requests.retry_after_s(second, 1, rpm))
    if tpm is not None and not traffic.tokens.admits(second, tokens, tpm):
        return _refused(use, "tpm", traffic.tokens.retry_after_s(second, tokens, tpm))
    if budget is not None and total((use.spent_usd, use.reserved_usd, usd)) > budget:
        return _refused(use, "budget", None)
    if ask.permits and bounds.allowed_concurrency is not None:
        left = slots_left(books, scope, ask.gateway_id, bounds.allowed_concurrency, now)
        use = replace(use, slots=left)
        if left < ask.slots.get(scope, 1):
            return _refused(use, "concurrency", CONCURRENCY_RETRY_S)
    return use


def _used_before(known: Lease, use: LimitUse, now: float) -> LimitUse:
    """A limit as it was before the lease was booked, which is in its sums already."""
    if known.is_returned or known.second < second_of(now):
        return replace(use, verdict="gone")
    if use.scope not in known.scopes:
        return use
    return replace(
        use,
        used_requests=max(0, use.used_requests - known.granted_permits),
        used_tokens=max(0, use.used_tokens - known.granted_tokens),
    )


def _refused(use: LimitUse, verdict: Verdict, retry_after_s: int | None) -> LimitUse:
    return replace(use, verdict=verdict, retry_after_s=retry_after_s)


def _shared(use: LimitUse, ask: Ask, permits: int, terms: Terms) -> int:
    """How many permits one lease may have of a limit: no gateway takes it all."""
    if permits <= 1:
        return permits
    of_rest, of_limit = terms.share_of_rest, terms.share_of_limit
    if use.allowed_rpm is not None:
        room = min((use.allowed_rpm - use.used_requests) // of_rest, use.allowed_rpm // of_limit)
        permits = max(1, min(permits, room))
    if use.allowed_tpm is not None and ask.tokens_each > 0:
        room = min((use.allowed_tpm - use.used_tokens) // of_rest, use.allowed_tpm // of_limit)
        permits = max(1, min(permits, room // ask.tokens_each))
    if use.monthly_budget_usd is not None and ask.usd_each > 0:
        rest = use.monthly_budget_usd - use.spent_usd - use.reserved_usd
        share = min(rest / of_rest, use.monthly_budget_usd / of_limit)
        permits = max(1, min(permits, int(share // ask.usd_each)))
    return permits


def _booked(books: Books, ask: Ask, permits: int, terms: Terms, now: float) -> tuple[Books, Lease]:
    tokens = permits * ask.tokens_each
    usd = permits * ask.usd_each if permits else ask.usd_extra
    last, month = second_of(now + terms.ttl_s), month_of(now)
    lease = Lease(
        gateway_id=ask.gateway_id,
        tenant_id=ask.tenant_id,
        scopes=ask.scopes,
        second=last,
        month=month,
        granted_permits=permits,
        granted_tokens=tokens,
        granted_usd=usd,
        permits=permits,
        tokens=tokens,
        usd=usd,
        granted_at=now,
        lapses_at=now + terms.lapse_s,
    )
    traffic, budgets = dict(books.traffic), dict(books.budgets)
    for scope in ask.scopes:
        if permits:
            seen = traffic.get(scope, Traffic()).seen_at(second_of(now))
            traffic[scope] = seen.booked(last, permits, tokens)
        if usd > 0:
            before = books.budget(scope, month)
            budgets[scope, month] = replace(before, reserved=total((before.reserved, usd)))
    leases = {**books.leases, ask.lease_id: lease}
    return replace(books, traffic=traffic, budgets=budgets, leases=leases), lease
