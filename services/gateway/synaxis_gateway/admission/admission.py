"""Admits requests: from plans and leases that are held where there are any, else by asking a registry."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Final

import msgspec

from synaxis_common import ids
from synaxis_common.bus import BusUnavailable
from synaxis_common.clock import Clock
from synaxis_common.contracts.leases import LeaseAsk, LeaseDraw, LeaseReturn, PlansStale
from synaxis_common.contracts.routing import Needs, RefusalCode, RoutePlan, RouteRefusal
from synaxis_common.logging import get_logger
from synaxis_gateway import metrics
from synaxis_gateway.admission.account import Account, Lease
from synaxis_gateway.admission.held_plan import HeldPlan
from synaxis_gateway.admission.plans import FOREVER, Held, Plans
from synaxis_gateway.admission.returns import Returns
from synaxis_gateway.admission.shape import Shape
from synaxis_gateway.admission.slots import Slots
from synaxis_gateway.routing import Registry

log = get_logger(__name__)

TIDY_EVERY_S: Final = 5.0
MAX_ROUNDS: Final = 8
"""How often one request asks when others of its shape take what it was granted, before it is refused."""
REFUSED_FOR_S: Final = 0.1
"""For so long after a limit refused one request others of its shape are refused without asking: a tenant far
over its limit must not keep the registry busy."""
AWAY_PATIENCE_S: Final = 0.5
"""How long a request of a tenant without limits waits for a registry before its last plan is taken."""

_ABOUT_LIMITS: Final = frozenset({RefusalCode.RATE_LIMIT_EXCEEDED, RefusalCode.INSUFFICIENT_QUOTA})
_NOTHING: Final = Decimal(0)
_HELD: Final = metrics.ADMISSIONS.of("held")


class Admitted(msgspec.Struct, eq=False):
    """A request that may be made, by this plan. Whoever holds it calls `Admission.leave` in the end."""

    plan: HeldPlan
    shape: Shape
    account: Account | None
    needs: Needs
    """Of its shape: what its attempts are covered for."""
    ends_at: float
    """On the monotonic clock: until when it may be sent to a first candidate."""
    permits_left: int = 0
    """In the leases of this gateway, besides what the plan says is left."""
    tokens_left: int = 0
    draws: list[LeaseDraw] = []
    slot_scopes: tuple[str, ...] = ()

    @property
    def reserved_usd(self) -> Decimal:
        """What is reserved for its attempts."""
        return sum((draw.usd for draw in self.draws), _NOTHING)

    @property
    def keeps_budget(self) -> bool:
        """Whether every attempt that may be billed has to be covered by a reservation."""
        for draw in self.draws:  # noqa: SIM110 - a generator costs more than all of it
            if draw.usd:
                return True
        return False


class Admission:
    """Everybody's plans, leases and slots in this gateway."""

    def __init__(
        self, registry: Registry, clock: Clock, returns: Returns, gateway_id: str, plan_hard_age_s: float
    ) -> None:
        self._registry = registry
        self._clock = clock
        self._returns = returns
        self._gateway_id = gateway_id
        self._hard_age_s = plan_hard_age_s
        self._plans = Plans()
        self._slots = Slots()
        self._flights: dict[Shape, asyncio.Task[RouteRefusal | None]] = {}
        """Questions for permits that are under way, each with its answer for all who wait for it."""
        self._waiting: dict[Shape, int] = {}
        self._refused: dict[Shape, tuple[float, RouteRefusal]] = {}
        self._renewing: dict[int, asyncio.Task[None]] = {}
        self._generation = 0
        self._tidied_at = clock.monotonic()
        self._is_away = False
        self._is_closed = False

    def at_hand(self, shape: Shape) -> Admitted | RouteRefusal | None:
        """Whether a request of this shape may be made, and by whom it can be served, as far as that is known
        without asking anybody. None: it is not; see `by_asking`."""
        held = self._plans.get(shape)
        now = self._clock.monotonic()
        if held is not None:
            if held.account is not None:
                held.account.arrived(now)
            admitted = self._admit_from(held, now)
            if admitted is not None:
                _HELD.count += 1
                return admitted
        refused = self._refused.get(shape)
        if refused is not None and now < refused[0]:
            metrics.ADMISSIONS.of("refused_again").count += 1
            return refused[1]
        return None

    async def cover(self, admitted: Admitted, usd: Decimal) -> bool:
        """Reserve `usd` more for a further attempt. False: the budget has no room, or nobody answers."""
        account = admitted.account
        if account is None:
            return True
        draw = account.draw_money(self._clock.monotonic(), usd)
        if draw is None:
            try:
                refusal = await self._ask(admitted.shape, permits=0, usd=usd)
            except BusUnavailable:
                return False
            draw = None if refusal else account.draw_money(self._clock.monotonic(), usd)
        if draw is None:
            return False
        admitted.draws.append(draw)
        return True

    def leave(self, admitted: Admitted, *, unused: bool) -> None:
        """The request is over. `unused`: no provider ever got it, so what it drew goes back."""
        if admitted.slot_scopes:
            self._slots.leave(admitted.slot_scopes)
            admitted.slot_scopes = ()
        if unused and admitted.account is not None:
            account = admitted.account
            admitted.draws = [draw for draw in admitted.draws if not account.put_back(draw)]

    def stale(self, hint: PlansStale) -> None:
        """Plans that are held have become wrong."""
        self._generation += 1
        if hint.tenants:
            for account in self._plans.drop_tenants(frozenset(hint.tenants)):
                self._returns.add(account.take_all())
            self._refused.clear()
        if hint.endpoints:
            self._plans.leave_out({(one.provider_id, one.provider_model_id) for one in hint.endpoints})
        if hint.everything:
            self._plans.grow_old()

    def missed_hints(self) -> None:
        """The bus was away: what was told meanwhile nobody heard."""
        self._plans.grow_old()

    def sweep(self) -> None:
        """Give back leases that have ended, and forget what is no longer of use."""
        now = self._clock.monotonic()
        for account in self._plans.accounts():
            self._returns.add(account.take_over(now))
        if now - self._tidied_at >= TIDY_EVERY_S:
            self._tidied_at = now
            self._plans.tidy(now, self._hard_age_s)
            self._refused = {shape: one for shape, one in self._refused.items() if now < one[0]}

    async def tell_alive(self) -> None:
        """Say once that this gateway is there, and renew its slots. Raises BusUnavailable."""
        asked_at = self._clock.monotonic()
        seq = self._slots.next_seq()
        grants = await self._registry.alive(self._gateway_id, self._slots.to_renew(seq), seq)
        self._slots.granted(grants, asked_at, seq)

    async def close(self) -> None:
        """Ask for nothing more, and give all leases back."""
        self._is_closed = True
        tasks = list(self._flights.values())
        pending: list[asyncio.Task[None] | asyncio.Task[RouteRefusal | None]] = [
            *tasks,
            *self._renewing.values(),
        ]
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        for account in self._plans.accounts():
            self._returns.add(account.take_all())

    def _admit_from(self, held: Held, now: float) -> Admitted | None:
        """Admit from what is held. None: that does not suffice."""
        account = held.account
        if account is None:
            if now >= held.usable_until and not (self._is_away and held.age(now) < self._hard_age_s):
                return None
            if now >= held.fresh_until:
                self._renew(held, is_low=False)
            return Admitted(held.plan, held.shape, None, held.needs, FOREVER)
        if now >= held.usable_until:
            return None
        draw = account.draw(now, held.tokens_each, held.usd_each)
        if draw is not None and held.slot_scopes and not self._slots.enter(held.slot_scopes, now):
            account.put_back(draw)
            draw = None
        if draw is None:
            return None  # whoever asks now gets a plan and a lease, too
        permits_left, tokens_left, lasting = account.left(now)
        if account.is_low(now, lasting):
            self._renew(held, is_low=True)
        elif now >= held.fresh_until:
            self._renew(held, is_low=False)
        return Admitted(
            held.plan,
            held.shape,
            account,
            held.needs,
            account.ends_at(draw),
            permits_left,
            tokens_left,
            [draw],
            held.slot_scopes,
        )

    async def by_asking(self, shape: Shape) -> Admitted | RouteRefusal:
        """The same, as a registry says it.

        Raises BusUnavailable when none answers and nothing that is held allows the request.
        """
        begun = self._clock.monotonic()
        self._waiting[shape] = self._waiting.get(shape, 0) + 1
        try:
            for _ in range(MAX_ROUNDS):
                refusal = await self._join_flight(shape)
                held = self._plans.get(shape)
                admitted = None if held is None else self._admit_from(held, self._clock.monotonic())
                if admitted is not None:
                    metrics.ADMISSIONS.of("asked").count += 1
                    return admitted
                if refusal is not None:
                    metrics.ADMISSIONS.of("refused").count += 1
                    return refusal
            raise BusUnavailable("what was granted was always gone when it came")
        finally:
            metrics.ADMISSION_SECONDS.observe(self._clock.monotonic() - begun)
            self._waiting[shape] -= 1
            if not self._waiting[shape]:
                del self._waiting[shape]

    async def _join_flight(self, shape: Shape) -> RouteRefusal | None:
        """Wait for the answer to a question about this shape, whoever asked it. Raises BusUnavailable."""
        flight = self._flights.get(shape)
        if flight is None:
            held = self._plans.get(shape)
            waiting = self._waiting[shape]
            now = self._clock.monotonic()
            permits = waiting if held is None or held.account is None else held.account.wanted(now, waiting)
            flight = self._start(shape, permits)
        held = self._plans.get(shape)
        last_resort = (
            held is not None and held.account is None and held.age(self._clock.monotonic()) < self._hard_age_s
        )
        try:
            async with asyncio.timeout(AWAY_PATIENCE_S if last_resort else None):
                return await asyncio.shield(flight)
        except (TimeoutError, BusUnavailable):
            if not last_resort:
                raise
            self._is_away = True
            return None

    def _start(self, shape: Shape, permits: int) -> asyncio.Task[RouteRefusal | None]:
        flight = self._flights[shape] = asyncio.create_task(self._ask(shape, permits=permits))
        flight.add_done_callback(lambda task: self._landed(shape, task))
        return flight

    def _landed(self, shape: Shape, task: asyncio.Task[RouteRefusal | None]) -> None:
        del self._flights[shape]
        if not task.cancelled() and task.exception() is not None and not self._waiting.get(shape):
            log.debug("question_unanswered", error=str(task.exception()))

    def _renew(self, held: Held, *, is_low: bool) -> None:
        """Ask in the background for the next plan, and for the next lease if the last one runs out."""
        account = held.account
        subject = id(account or held)
        if subject in self._renewing or held.shape in self._flights or self._is_closed:
            return
        question = (
            self._start(held.shape, account.wanted(self._clock.monotonic()))
            if account is not None and is_low
            else asyncio.create_task(self._ask(held.shape, permits=0))
        )
        task = asyncio.create_task(self._renewed(question))
        self._renewing[subject] = task
        task.add_done_callback(lambda _: self._renewing.pop(subject, None))

    async def _renewed(self, question: asyncio.Task[RouteRefusal | None]) -> None:
        try:
            refusal = await question
        except BusUnavailable:
            metrics.RENEWALS.labels("unanswered").inc()
            await asyncio.sleep(AWAY_PATIENCE_S)
            return
        metrics.RENEWALS.labels("refused" if refusal else "granted").inc()
        if refusal is not None and refusal.code in _ABOUT_LIMITS:
            await asyncio.sleep(REFUSED_FOR_S)

    async def _ask(self, shape: Shape, *, permits: int, usd: Decimal = _NOTHING) -> RouteRefusal | None:
        """Ask a registry for a plan and a lease, and hold what it grants. Raises BusUnavailable."""
        asked_at = self._clock.monotonic()
        generation = self._generation
        before = self._plans.get(shape)
        lease = LeaseAsk(
            lease_id=ids.uuid7(),
            gateway_id=self._gateway_id,
            permits=permits,
            usd=usd,
            slots=self._slots.needed() if permits else {},
            slots_seq=self._slots.next_seq(),
        )
        answer: RoutePlan | RouteRefusal | None = None
        is_repeated = True
        try:
            answer, is_repeated = await self._registry.route(shape, lease)
        except BusUnavailable:
            self._is_away = True
            raise
        finally:
            may_be_limited = before is None or before.account is not None
            if may_be_limited and is_repeated and not isinstance(answer, RoutePlan):
                # It may be granted all the same, by another registry or later: nobody has that lease.
                self._returns.add([LeaseReturn(lease_id=lease.lease_id, everything=True)])
        self._is_away = False
        if isinstance(answer, RouteRefusal):
            if answer.code not in _ABOUT_LIMITS:
                self._plans.drop(shape)
            elif permits:
                self._refused[shape] = (self._clock.monotonic() + REFUSED_FOR_S, answer)
            return answer
        self._refused.pop(shape, None)
        self._hold(shape, answer, lease.slots_seq, asked_at, keep=usd > 0)
        if generation != self._generation and (held := self._plans.get(shape)) is not None:
            held.grow_stale()  # something changed meanwhile: the answer may be from before it
        return None

    def _hold(self, shape: Shape, plan: RoutePlan, seq: int, asked_at: float, *, keep: bool) -> None:
        """Hold a plan and its lease. `keep`: the plan of before goes on, only the money was asked for."""
        permit, held_plan = plan.permit, HeldPlan.of(plan)
        if permit is None:
            self._plans.put(Held(shape, held_plan, asked_at, None, shape.measures.needs()))
            return
        models = frozenset(candidate.global_model_id for candidate in plan.candidates)
        account = self._plans.account(shape.key_hash, models)
        lease = Lease.granted(permit, plan.tenant_id, asked_at)
        if not lease.is_used_up:
            account.add(lease)
        self._slots.granted(permit.slots, asked_at, seq)
        before = self._plans.get(shape)
        if keep and before is not None:
            return
        self._plans.put(
            Held(
                shape,
                held_plan,
                asked_at,
                account,
                shape.measures.needs(),
                permit.usd_each,
                permit.tokens_each,
                # Without permits no slots were spoken of: they are as before.
                tuple(grant.scope for grant in permit.slots)
                if permit.permits or before is None
                else before.slot_scopes,
            )
        )
