"""Sees every admission and what every request really cost, and holds the promises against it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from uuid import UUID

from synaxis_common.contracts.leases import LeaseDraw
from synaxis_registry.core.leasing import Books, Bounds, month_of
from synaxis_registry.core.limits import WINDOW_S
from synaxis_registry.core.settling import Call

NOTHING = Decimal(0)


@dataclass(eq=False)
class Request:
    """One request, as it truly was. It is admitted when it is sent to a provider."""

    request_id: UUID
    gateway_id: str
    tenant_id: str
    key_id: str
    scopes: tuple[str, ...]
    draws: list[LeaseDraw]
    ends_at: float
    """On its gateway's clock: until when it may be sent."""
    slot_scopes: tuple[str, ...] = ()
    without_slot: set[str] = field(default_factory=set)
    """Scopes in which the registry has heard too long nothing of its gateway."""
    admitted_at: float | None = None
    granted_as: int = 0
    """The place of its lease in the order of grants."""
    booked_tokens: int = 0
    cost: Decimal | None = None
    """Set when it is over."""
    tokens: int = 0
    is_lost: bool = False
    """Its gateway died with it, or with its report."""

    @property
    def drawn(self) -> Decimal:
        """What was reserved for it."""
        return sum((draw.usd for draw in self.draws), NOTHING)

    @property
    def is_over(self) -> bool:
        """Whether it is known what it cost."""
        return self.cost is not None

    def counted_tokens(self) -> int:
        """What it counts for: a booking until it is over, and never more than it was booked for."""
        return min(self.booked_tokens, self.tokens) if self.is_over else self.booked_tokens


@dataclass
class Auditor:
    """All requests, all grants, all limits that ever were."""

    limits: list[Mapping[str, Bounds]]
    requests: dict[UUID, Request] = field(default_factory=dict)
    latest: deque[Request] = field(default_factory=deque)
    """Admitted within the last minute, in order."""
    recorded: set[UUID] = field(default_factory=set)
    """Requests whose report has come to a registry."""
    grants: dict[UUID, tuple[int, Mapping[str, Bounds]]] = field(default_factory=dict)
    """Each lease's place in the order of grants, and the limits of then."""
    months: dict[UUID, date] = field(default_factory=dict)
    dead: set[str] = field(default_factory=set)
    """Gateways that were killed."""

    def limits_become(self, limits: Mapping[str, Bounds]) -> None:
        """An operator has changed a limit."""
        self.limits.append(limits)

    def granted(self, lease_id: UUID, books: Books, now: float) -> None:
        """A registry has granted a new lease: its money fits into each budget."""
        limits = self.limits[-1]
        self.grants[lease_id] = len(self.grants), limits
        self.months[lease_id] = month_of(now)
        lease = books.leases[lease_id]
        for scope in lease.scopes if lease.granted_usd else ():
            amount = limits[scope].monthly_budget_usd
            budget = books.budget(scope, lease.month)
            assert amount is None or budget.spent + budget.reserved <= amount, (
                f"{budget} after a grant in {scope}, whose budget is {amount}"
            )

    def admitted(self, request: Request, now: float) -> None:
        """A request is sent to a provider: it fits into every window, and its worst case is reserved."""
        request.admitted_at = now
        request.booked_tokens = request.draws[0].tokens
        self.requests[request.request_id] = request
        request.granted_as, _ = self.grants[request.draws[0].lease_id]
        while self.latest and (self.latest[0].admitted_at or 0.0) <= now - WINDOW_S:
            self.latest.popleft()
        self.latest.append(request)
        for scope in request.scopes:
            if not self._ever_counted(scope):
                continue
            within = [one for one in self.latest if scope in one.scopes]
            # Whoever granted the last of the leases that they came from had to count all of them.
            last = max(within, key=_granted_as)
            bounds = self.grants[last.draws[0].lease_id][1][scope]
            if bounds.allowed_rpm is not None:
                assert len(within) <= bounds.allowed_rpm, (
                    f"{len(within)} requests within 60 s in {scope}, where {bounds.allowed_rpm} are allowed"
                )
            if bounds.allowed_tpm is not None:
                tokens = sum(one.counted_tokens() for one in within)
                assert tokens <= bounds.allowed_tpm, (
                    f"{tokens} tokens within 60 s in {scope}, where {bounds.allowed_tpm} are allowed"
                )

    def entered(self, under_way: list[Request]) -> None:
        """A request has entered: there are not more at once than were ever allowed."""
        for scope in {scope for one in under_way for scope in one.slot_scopes}:
            allowed = self._highest(scope, "allowed_concurrency")
            held = [one for one in under_way if scope in one.slot_scopes and scope not in one.without_slot]
            assert allowed is None or len(held) <= allowed, (
                f"{len(held)} requests at once in {scope}, where {allowed} are allowed"
            )

    def check_money(self, books: Books) -> None:
        """No budget is passed, and nothing that may have been spent is forgotten."""
        outstanding: dict[UUID, Decimal] = {}
        exposed: dict[tuple[str, date], Decimal] = {}
        overrun: dict[tuple[str, date], Decimal] = {}
        for one in self.requests.values():
            recorded = one.request_id in self.recorded
            if not recorded:
                for draw in one.draws:
                    outstanding[draw.lease_id] = outstanding.get(draw.lease_id, NOTHING) + draw.usd
            for month, usd in self._owed(one).items():
                for scope in one.scopes:
                    exposed[scope, month] = exposed.get((scope, month), NOTHING) + usd
            if recorded and one.cost is not None:
                month = self.months[one.draws[0].lease_id]
                own = sum((draw.usd for draw in one.draws if self.months[draw.lease_id] == month), NOTHING)
                for scope in one.scopes:
                    before = overrun.get((scope, month), NOTHING)
                    overrun[scope, month] = before + max(NOTHING, one.cost - own)
        for lease_id, usd in outstanding.items():
            lease = books.leases[lease_id]
            assert lease.usd + lease.charged >= usd, (
                f"{usd} were drawn from {lease_id}, for which only {lease.usd} + {lease.charged} are kept"
            )
        for (scope, month), budget in books.budgets.items():
            allowed = self._highest(scope, "monthly_budget_usd")
            if not isinstance(allowed, Decimal):
                continue
            more = overrun.get((scope, month), NOTHING)
            assert budget.spent + budget.reserved <= allowed + more, (
                f"{budget} in {scope}, whose budget is {allowed}, with {more} of overruns"
            )
        for (scope, month), usd in exposed.items():
            allowed = self._highest(scope, "monthly_budget_usd")
            assert not isinstance(allowed, Decimal) or usd <= allowed, (
                f"{usd} truly spent or under way in {scope} in {month}, whose budget is {allowed}"
            )

    def _owed(self, one: Request) -> dict[date, Decimal]:
        """What a request has cost, or may cost yet, by the month of what was reserved for it.

        A cost beyond the reservation is an overrun, which no budget bounds.
        """
        owed: dict[date, Decimal] = {}
        rest = one.drawn if one.cost is None else one.cost
        for draw in one.draws:
            part = min(rest, draw.usd)
            rest -= part
            month = self.months[draw.lease_id]
            owed[month] = owed.get(month, NOTHING) + part
        return owed

    def check_end(self, books: Books) -> None:
        """All has come to rest: every request is accounted for once, and every cent of every budget."""
        sent = {request_id for request_id, one in self.requests.items() if one.admitted_at is not None}
        expected = {request_id for request_id in sent if not self.requests[request_id].is_lost}
        assert {request_id for request_id in books.ledger if request_id in sent} == expected
        for request_id, cost in books.ledger.items():
            assert cost == self.requests[request_id].cost
        charged = {lease_id: self._may_be_charged(lease_id, books) for lease_id in books.leases}
        for lease_id, lease in books.leases.items():
            assert lease.usd == 0, f"{lease.usd} of {lease_id} are still reserved"
            assert lease.charged == charged[lease_id], (
                f"{lease.charged} charged for {lease_id} of {lease.gateway_id}; {charged[lease_id]} may be"
            )
        for (scope, month), budget in books.budgets.items():
            spent = sum(
                (
                    one.cost
                    for request_id, one in self.requests.items()
                    if request_id in books.ledger
                    and one.cost is not None
                    and scope in one.scopes
                    and self.months[one.draws[0].lease_id] == month
                ),
                NOTHING,
            )
            unconfirmed = sum(
                (
                    lease.charged
                    for lease in books.leases.values()
                    if scope in lease.scopes and lease.month == month
                ),
                NOTHING,
            )
            assert budget.reserved == 0
            assert budget.unconfirmed == unconfirmed
            assert budget.spent == spent + unconfirmed
        for scope in {scope for one in self.requests.values() for scope in one.scopes}:
            truth = sum(
                (
                    min(one.cost or NOTHING, one.drawn)
                    for one in self.requests.values()
                    if scope in one.scopes
                ),
                NOTHING,
            )
            spent = sum((budget.spent for (of, _), budget in books.budgets.items() if of == scope), NOTHING)
            assert spent >= truth, f"{truth} truly spent in {scope}, of which {spent} are known"

    def _may_be_charged(self, lease_id: UUID, books: Books) -> Decimal:
        """What of a lease nobody can ever report on or give back: only a gateway's death makes it so."""
        lease = books.leases[lease_id]
        drawn = [
            (one, draw.usd)
            for one in self.requests.values()
            for draw in one.draws
            if draw.lease_id == lease_id
        ]
        lost = sum((usd for one, usd in drawn if one.is_lost), NOTHING)
        if lease.gateway_id not in self.dead:
            assert lost == 0
            return lost
        rest = lease.granted_usd - sum((usd for _, usd in drawn), NOTHING)
        return lost if lease.is_returned else lost + rest

    def _ever_counted(self, scope: str) -> bool:
        """Whether there was ever a limit on requests or tokens a minute."""
        bounds = [limits[scope] for limits in self.limits]
        return any(one.allowed_rpm is not None or one.allowed_tpm is not None for one in bounds)

    def _highest(self, scope: str, bound: str) -> Decimal | int | None:
        """The highest that a bound ever was. None: there were times without."""
        values = [getattr(limits[scope], bound) for limits in self.limits]
        return None if None in values else max(values)


def _granted_as(request: Request) -> int:
    return request.granted_as


def report_of(request: Request, model: str, started_at: float) -> Call:
    """What its gateway tells of a request."""
    return Call(
        request_id=request.request_id,
        tenant_id=request.tenant_id,
        key_id=request.key_id,
        global_model_id=model,
        started_at=started_at,
        cost_usd=request.cost,
        used_tokens=request.tokens,
        draws=tuple(request.draws),
    )
