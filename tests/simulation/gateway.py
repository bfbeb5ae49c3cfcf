"""A gateway of the simulation: the real accounts, leases and slots, and what holds them together.

`Admission` and `Returns` do the same with tasks and a real bus; here each step is a call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from tests.simulation.auditor import Auditor, Request, report_of

from synaxis_common.contracts.leases import ALIVE_EVERY_S, GatewayAlive, LeaseReturn, Permit, SlotGrant
from synaxis_gateway.admission.account import Account, Lease
from synaxis_gateway.admission.slots import Slots
from synaxis_registry.core.leasing import Ask
from synaxis_registry.core.settling import Call

TENANT = "acme"
MODEL = "m"
GIVE_UP_S = 5.0
"""So long a question waits for its answer."""


class Shape(NamedTuple):
    """Requests that need the same."""

    key_id: str
    tokens: int
    usd: Decimal

    @property
    def scopes(self) -> tuple[str, ...]:
        """What they count against."""
        return f"t/{TENANT}/*", f"t/{TENANT}/{MODEL}", f"k/{self.key_id}"


@dataclass
class Question:
    """An ask that is not answered yet."""

    ask: Ask
    shape: Shape
    asked_at: float
    pays_for: Request | None = None
    """The request for whose further attempt money is asked for."""
    times: int = 1
    """How often it was asked."""


@dataclass
class Gateway:
    """One process. Its clock has its own zero."""

    gateway_id: str
    offset_s: float
    auditor: Auditor
    new_id: Callable[[], UUID]
    send: Callable[[str, Ask | LeaseReturn | GatewayAlive], None]
    is_paused: bool = False
    accounts: dict[str, Account] = field(default_factory=dict)
    slots: Slots = field(default_factory=Slots)
    plans: dict[Shape, tuple[str, ...]] = field(default_factory=dict)
    """The scopes in which a request of the shape needs a slot."""
    questions: dict[UUID, Question] = field(default_factory=dict)
    returns: dict[UUID, LeaseReturn] = field(default_factory=dict)
    """Not taken yet."""
    requests: list[Request] = field(default_factory=list)
    """Under way, or about to be sent."""
    outbox: dict[UUID, Call] = field(default_factory=dict)
    """Reports that the stream has not acknowledged."""
    alive_asked_at: dict[int, float] = field(default_factory=dict)

    def clock(self, now: float) -> float:
        """What its monotonic clock says."""
        return now + self.offset_s

    def wants(self, shape: Shape, now: float) -> None:
        """A client's request comes in: it is admitted from what is held, or a registry is asked."""
        at = self.clock(now)
        account = self.accounts.setdefault(shape.key_id, Account())
        account.arrived(at)
        if not self._take(shape, at):
            self.ask(shape, account.wanted(at, 1), now)
        elif account.is_low(at, account.left(at)[2]):
            self.ask(shape, account.wanted(at), now)

    def _take(self, shape: Shape, at: float) -> bool:
        account = self.accounts.setdefault(shape.key_id, Account())
        if shape not in self.plans:
            return False
        draw = account.draw(at, shape.tokens, shape.usd)
        if draw is None:
            return False
        slot_scopes = self.plans[shape]
        if not self.slots.enter(slot_scopes, at):
            assert account.put_back(draw)
            return False
        request = Request(
            request_id=self.new_id(),
            gateway_id=self.gateway_id,
            tenant_id=TENANT,
            key_id=shape.key_id,
            scopes=shape.scopes,
            draws=[draw],
            ends_at=account.ends_at(draw),
            slot_scopes=slot_scopes,
        )
        self.auditor.requests[request.request_id] = request
        self.requests.append(request)
        return True

    def ask(
        self,
        shape: Shape,
        permits: int,
        now: float,
        usd: Decimal = Decimal(0),
        pays_for: Request | None = None,
    ) -> None:
        """Ask for a lease, unless the question is under way already."""
        if any(one.shape == shape and not one.pays_for for one in self.questions.values()) and not pays_for:
            return
        ask = Ask(
            lease_id=self.new_id(),
            gateway_id=self.gateway_id,
            tenant_id=TENANT,
            scopes=shape.scopes,
            permits=permits,
            tokens_each=shape.tokens,
            usd_each=shape.usd,
            usd_extra=usd,
            slots=self.slots.needed() if permits else {},
            slots_seq=self.slots.next_seq(),
        )
        self.questions[ask.lease_id] = Question(ask, shape, self.clock(now), pays_for)
        self.send(self.gateway_id, ask)

    def ask_again(self) -> None:
        """The same questions once more: a registry may be gone."""
        for question in self.questions.values():
            question.times += 1
            self.send(self.gateway_id, question.ask)

    def hears(self, lease_id: UUID, permit: Permit | None, now: float, *, is_sure: bool = True) -> None:
        """The answer to a question; nobody waits for one that was given up."""
        question = self.questions.pop(lease_id, None)
        if question is None:
            return
        if permit is None:
            if question.times > 1 or not is_sure:  # it may be granted all the same
                self.returns[lease_id] = LeaseReturn(lease_id=lease_id, everything=True)
            return
        at = self.clock(now)
        lease = Lease.granted(permit, TENANT, question.asked_at)
        account = self.accounts.setdefault(question.shape.key_id, Account())
        if not lease.is_used_up:
            account.add(lease)
        self.slots.granted(permit.slots, question.asked_at, question.ask.slots_seq)
        request = question.pays_for
        if request is not None:
            if request in self.requests:
                self._pay(request, question.shape.usd, account, at)
            return
        self.plans[question.shape] = (
            tuple(grant.scope for grant in permit.slots)
            if permit.permits
            else self.plans.get(question.shape, ())
        )
        self._take(question.shape, at)

    def give_up(self, now: float, after_s: float = GIVE_UP_S) -> None:
        """Questions that nobody has answered: whatever is granted for them goes back."""
        for lease_id, question in list(self.questions.items()):
            if self.clock(now) - question.asked_at >= after_s:
                del self.questions[lease_id]
                self.returns[lease_id] = LeaseReturn(lease_id=lease_id, everything=True)

    def begin(self, now: float) -> None:
        """Send what was admitted to a provider, if its permit still counts; else it was not used."""
        for request in [one for one in self.requests if one.admitted_at is None]:
            if self.clock(now) < request.ends_at:
                self.auditor.admitted(request, now)
            else:
                self._leave_unused(request)

    def _leave_unused(self, request: Request) -> None:
        self.requests.remove(request)
        self.slots.leave(request.slot_scopes)
        account = self.accounts[request.key_id]
        request.draws = [draw for draw in request.draws if not account.put_back(draw)]
        request.cost = Decimal(0)
        if request.draws:
            self.outbox[request.request_id] = report_of(request, MODEL, 0.0)
        else:
            del self.auditor.requests[request.request_id]

    def try_again(self, request: Request, usd: Decimal, now: float) -> None:
        """A further attempt, for which money is reserved first."""
        account = self.accounts[request.key_id]
        if not self._pay(request, usd, account, self.clock(now)):
            shape = Shape(request.key_id, 0, usd)
            self.ask(shape, 0, now, usd, request)

    def _pay(self, request: Request, usd: Decimal, account: Account, at: float) -> bool:
        draw = account.draw_money(at, usd)
        if draw is not None:
            request.draws.append(draw)
        return draw is not None

    def conclude(self, request: Request, cost: Decimal, tokens: int, now: float) -> None:
        """A request is over; its report is kept until the stream has it."""
        self.requests.remove(request)
        self.slots.leave(request.slot_scopes)
        request.cost, request.tokens = cost, tokens
        self.outbox[request.request_id] = report_of(request, MODEL, now)

    def sweep(self, now: float) -> None:
        """Give back the leases that have ended."""
        for account in self.accounts.values():
            for rest in account.take_over(self.clock(now)):
                self.returns[rest.lease_id] = rest

    def drop_all(self) -> None:
        """Plans have become wrong: give all leases back."""
        for account in self.accounts.values():
            for rest in account.take_all():
                self.returns[rest.lease_id] = rest

    def send_returns(self) -> None:
        """Say again what was not taken yet."""
        for rest in self.returns.values():
            self.send(self.gateway_id, rest)

    def tell_alive(self, now: float) -> None:
        """Say that it is there, and renew its slots."""
        seq = self.slots.next_seq()
        wanted = self.slots.to_renew(seq)
        self.alive_asked_at[seq] = self.clock(now)
        self.send(self.gateway_id, GatewayAlive(gateway_id=self.gateway_id, slots=wanted, slots_seq=seq))

    def hears_slots(self, seq: int, granted: tuple[SlotGrant, ...], now: float) -> None:
        """The slots that it has from now on, if the answer comes in time."""
        asked_at = self.alive_asked_at.pop(seq, None)
        if asked_at is not None and self.clock(now) - asked_at < ALIVE_EVERY_S:
            self.slots.granted(granted, asked_at, seq)
