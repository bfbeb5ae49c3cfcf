"""Gateways, registries and the bus between them, all of it frozen except where a step moves it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum, auto
from typing import Final
from uuid import UUID

from tests.simulation.auditor import Auditor
from tests.simulation.gateway import Gateway

from synaxis_common.contracts.leases import (
    GATEWAY_TTL_S,
    LEASE_TTL_S,
    GatewayAlive,
    LeaseReturn,
    Permit,
    SlotGrant,
)
from synaxis_registry.core import leasing, settling
from synaxis_registry.core.admission import Grant
from synaxis_registry.core.leasing import Ask, Books, Bounds, Terms
from synaxis_registry.core.settling import Call
from synaxis_registry.store.ledger import LAPSE_AFTER_S

BEGIN: Final = datetime(2026, 11, 30, 22, tzinfo=UTC).timestamp()
MONTH_END: Final = datetime(2026, 12, 1, tzinfo=UTC).timestamp()
TERMS: Final = Terms(lapse_s=LAPSE_AFTER_S)
OFFSETS: Final = (0.0, -1_700_000_000.25, 5_000.5)
"""Between the database's clock and the gateways' monotonic ones."""


@dataclass(frozen=True)
class Granted:
    """The answer to an ask. None: nothing was granted."""

    lease_id: UUID
    permit: Permit | None
    is_sure: bool = True
    """False: the registry could not tell whether its database has done it."""


@dataclass(frozen=True)
class Taken:
    """The answer to a return."""

    lease_id: UUID


@dataclass(frozen=True)
class MayHave:
    """The answer to a gateway that said that it is there."""

    seq: int
    slots: tuple[SlotGrant, ...]


Question = Ask | LeaseReturn | GatewayAlive
Answer = Granted | Taken | MayHave


@dataclass(frozen=True)
class Envelope:
    """A message on its way, to the registries or back to the gateway."""

    gateway_id: str
    message: Question | Answer


class Fate(Enum):
    """What becomes of the answer to a message."""

    ANSWERED = auto()
    LOST = auto()
    """The registry dies between the commit and the answer."""
    UNSURE = auto()
    """Its database is lost in the commit: it says that it could not book, though it has."""


class World:
    """What a test moves. Each registry transaction is one change of `books`."""

    def __init__(self, limits: Mapping[str, Bounds], gateways: int) -> None:
        self.now = BEGIN
        self.limits = dict(limits)
        self.books = Books()
        self.auditor = Auditor([dict(limits)])
        self.bus: list[Envelope] = []
        self.stream: list[Call] = []
        self._numbers = itertools.count(1)
        self.gateways: list[Gateway] = [self._born() for _ in range(gateways)]

    def _new_id(self) -> UUID:
        return UUID(int=next(self._numbers))

    def _born(self) -> Gateway:
        number = next(self._numbers)
        return Gateway(
            gateway_id=f"gateway-{number}",
            offset_s=OFFSETS[number % len(OFFSETS)],
            auditor=self.auditor,
            new_id=self._new_id,
            send=lambda gateway_id, message: self.bus.append(Envelope(gateway_id, message)),
        )

    # Time

    def advance(self, seconds: float) -> None:
        """Time passes, and slots that were not renewed end."""
        self.now += seconds
        for gateway in self.gateways:
            for request in gateway.requests:
                for scope in request.slot_scopes:
                    held = self.books.slots.get((scope, gateway.gateway_id))
                    if held is None or held.expires_at <= self.now:
                        request.without_slot.add(scope)

    # The bus

    def deliver(self, place: int, *, keep: bool = False, fate: Fate = Fate.ANSWERED) -> None:
        """One message arrives. `keep`: it will once more. `fate`: what becomes of a registry's answer."""
        envelope = self.bus[place]
        gateway = next((one for one in self.gateways if one.gateway_id == envelope.gateway_id), None)
        to_gateway = isinstance(envelope.message, Granted | Taken | MayHave)
        if to_gateway and gateway is not None and gateway.is_paused:
            return  # it waits in the socket
        if not (keep and self._is_said_again(gateway, envelope.message)):
            del self.bus[place]
        if isinstance(envelope.message, Granted | Taken | MayHave):
            if gateway is not None:
                self._answer(gateway, envelope.message)
            return
        answer = self._handle(envelope.message)
        if fate is Fate.UNSURE and isinstance(answer, Granted):
            answer = Granted(answer.lease_id, None, is_sure=False)
        if fate is not Fate.LOST:
            self.bus.append(Envelope(envelope.gateway_id, answer))

    def _is_said_again(self, gateway: Gateway | None, message: Question | Answer) -> bool:
        """Only a gateway that still waits for its answer puts a question twice, and knows that it did."""
        if isinstance(message, Ask):
            question = None if gateway is None else gateway.questions.get(message.lease_id)
            if question is None:
                return False
            question.times += 1
        return True

    def deliver_all(self) -> None:
        """Everything arrives that somebody can take, in order, answers included."""
        waiting = 0
        while waiting < len(self.bus):
            before = len(self.bus)
            self.deliver(waiting)
            if len(self.bus) == before and self.bus[waiting : waiting + 1]:
                paused = {one.gateway_id for one in self.gateways if one.is_paused}
                answer = isinstance(self.bus[waiting].message, Granted | Taken | MayHave)
                if answer and self.bus[waiting].gateway_id in paused:
                    waiting += 1

    def deliver_questions(self) -> None:
        """What gateways have said arrives; the answers are under way."""
        questions = [one for one in self.bus if not isinstance(one.message, Granted | Taken | MayHave)]
        for envelope in questions:
            self.deliver(self.bus.index(envelope))

    def deliver_backwards(self) -> None:
        """What is under way arrives in the opposite order, and then all that follows from it."""
        for place in reversed(range(len(self.bus))):
            self.deliver(place)
        self.deliver_all()

    def _answer(self, gateway: Gateway, answer: Answer) -> None:
        match answer:
            case Granted(lease_id, permit, is_sure):
                gateway.hears(lease_id, permit, self.now, is_sure=is_sure)
                self.check_slots()
            case Taken(lease_id):
                gateway.returns.pop(lease_id, None)
            case MayHave(seq, slots):
                gateway.hears_slots(seq, slots, self.now)

    # Registries

    def _handle(self, question: Question) -> Answer:
        match question:
            case Ask():
                is_new = question.lease_id not in self.books.leases
                self.books, grant = leasing.grant(self.books, question, self.limits, TERMS, self.now)
                if is_new and question.lease_id in self.books.leases:
                    self.auditor.granted(question.lease_id, self.books, self.now)
                return Granted(question.lease_id, _permit(question, grant))
            case LeaseReturn():
                self.books, _ = settling.give_back(self.books, question, self.limits, self.now)
                self.auditor.months.setdefault(question.lease_id, leasing.month_of(self.now))
                return Taken(question.lease_id)
            case GatewayAlive():
                self.books, slots = leasing.renew_slots(
                    self.books,
                    question.gateway_id,
                    question.slots,
                    self.limits,
                    self.now,
                    seq=question.slots_seq,
                )
                granted = tuple(SlotGrant(scope=scope, slots=number) for scope, number in slots.items())
                return MayHave(question.slots_seq, granted)

    def lapse(self, gateway_ttl_s: float) -> None:
        """A registry charges what nobody reports on."""
        self.books, _ = settling.lapse(self.books, self.limits, gateway_ttl_s, self.now)

    def record(self, places: list[int], *, acknowledged: bool) -> None:
        """A registry takes a batch of reports from the stream; it has them again if it does not say so."""
        batch = [self.stream[place] for place in places]
        self.books, _ = settling.record(self.books, batch, self.limits, self.now)
        self.auditor.recorded.update(call.request_id for call in batch)
        if acknowledged:
            self.stream = [call for place, call in enumerate(self.stream) if place not in places]

    def set_limit(self, scope: str, bounds: Bounds) -> None:
        """An operator changes a limit."""
        self.limits[scope] = bounds
        self.auditor.limits_become(dict(self.limits))

    # Gateways

    def publish(self, gateway: Gateway, *, acknowledged: bool = True) -> None:
        """Reports go to the stream; without its answer they will once more."""
        self.stream += gateway.outbox.values()
        if acknowledged:
            gateway.outbox.clear()

    def kill(self, gateway: Gateway, *, spool: bool, cost_of: Decimal) -> None:
        """A gateway dies, and another one begins, with its spool if there is one.

        Of what the requests that it had sent have reserved, `cost_of` is what they have cost.
        """
        self.auditor.dead.add(gateway.gateway_id)
        for request in gateway.requests:
            request.is_lost = True
            request.cost = request.drawn * cost_of if request.admitted_at is not None else Decimal(0)
            request.tokens = request.booked_tokens
        successor = self._born()
        if spool:
            successor.outbox = gateway.outbox
        else:
            stored = {call.request_id for call in self.stream} | self.auditor.recorded
            for request_id in gateway.outbox.keys() - stored:
                self.auditor.requests[request_id].is_lost = True
        self.gateways[self.gateways.index(gateway)] = successor

    def check_slots(self) -> None:
        """There are not more requests at once than allowed."""
        self.auditor.entered([request for gateway in self.gateways for request in gateway.requests])

    # The end

    def come_to_rest(self) -> None:
        """Nothing fails any more, and everything that was under way arrives."""
        for gateway in self.gateways:
            gateway.is_paused = False
        self.deliver_all()
        for gateway in self.gateways:
            gateway.begin(self.now)
            for request in list(gateway.requests):
                gateway.conclude(request, request.drawn, request.booked_tokens, self.now)
        self.advance(LEASE_TTL_S)
        for gateway in self.gateways:
            gateway.give_up(self.now, 0)
            gateway.sweep(self.now)
            gateway.send_returns()
            gateway.tell_alive(self.now)
            self.publish(gateway)
        self.deliver_all()
        self.record(list(range(len(self.stream))), acknowledged=True)
        assert not any(gateway.returns or gateway.questions for gateway in self.gateways)
        self.lapse(GATEWAY_TTL_S)
        self.advance(LAPSE_AFTER_S + 1)
        self.lapse(LAPSE_AFTER_S)


def _permit(ask: Ask, grant: Grant | None) -> Permit | None:
    if grant is None or any(use.verdict is not None for use in grant.uses):
        return None
    return Permit(
        lease_id=ask.lease_id,
        permits=grant.permits,
        expires_in_s=LEASE_TTL_S,
        reserved_usd=grant.usd,
        tokens=grant.tokens,
        usd_each=ask.usd_each,
        tokens_each=ask.tokens_each,
        slots=tuple(
            SlotGrant(scope=use.scope, slots=use.slots) for use in grant.uses if use.slots is not None
        ),
    )
