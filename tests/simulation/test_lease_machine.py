"""The promises of limits and money, whatever is lost, repeated, late, paused or killed."""

from __future__ import annotations

import os
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.simulation.auditor import Request
from tests.simulation.gateway import Gateway, Shape
from tests.simulation.world import MONTH_END, Fate, World

from synaxis_common.contracts.leases import GATEWAY_TTL_S
from synaxis_registry.core.leasing import Bounds
from synaxis_registry.store.ledger import LAPSE_AFTER_S

SMALL = Decimal("0.5"), 3
LARGE = Decimal(2), 10
SHAPES = [Shape(key, tokens, usd) for key in ("key-1", "key-2") for usd, tokens in (SMALL, LARGE)]
SCOPES = ["t/acme/*", "t/acme/m", "k/key-1", "k/key-2"]

ENOUGH = 2_100
"""Requests within a minute: more than any limit here allows. The largest budget has room for 2,000."""

EXAMPLES = "SYNAXIS_SIMULATION_EXAMPLES"
"""The variable that asks for a longer run: so many examples, other ones each time, made small when they fail.
Without it the same few are run each time."""

maybe, fates = st.booleans(), st.sampled_from([Fate.ANSWERED, *Fate])
picks = st.integers(0, 1_000)
shares = st.sampled_from([Decimal(0), Decimal("0.25"), Decimal(1)])
shapes = st.sampled_from(SHAPES)
rpm, tpm = st.sampled_from([2, 5, 20, 60, 200]), st.sampled_from([30, 100, 600, 2_000])
concurrency = st.sampled_from([1, 2, 5, 8])
budget = st.sampled_from([Decimal(4), Decimal(20), Decimal(100), Decimal(1_000)])
bounds = st.one_of(
    st.just(Bounds()),
    st.builds(Bounds, allowed_rpm=rpm),
    st.builds(Bounds, allowed_tpm=tpm),
    st.builds(Bounds, allowed_concurrency=concurrency),
    st.builds(Bounds, monthly_budget_usd=budget),
    st.builds(Bounds, rpm, tpm, concurrency, budget),
)


class LeaseMachine(RuleBasedStateMachine):
    """Any order of everything that can happen to gateways, registries, the bus and the limits."""

    world: World

    @initialize(limits=st.fixed_dictionaries(dict.fromkeys(SCOPES, bounds)), gateways=st.integers(1, 3))
    def begin(self, limits: dict[str, Bounds], gateways: int) -> None:
        self.world = World(limits, gateways)

    def awake(self, pick: int) -> Gateway:
        """One of the gateways that run. If all are stopped, one of them goes on."""
        gateways = self.world.gateways
        running = [gateway for gateway in gateways if not gateway.is_paused]
        gateway = (running or gateways)[pick % len(running or gateways)]
        gateway.is_paused = False
        return gateway

    def end(self, gateway: Gateway, request: Request, share: Decimal) -> None:
        """A request comes to `share` of what was reserved for it."""
        tokens = int(request.booked_tokens * share)
        gateway.conclude(request, request.drawn * share, tokens, self.world.now)

    @rule(pick=picks, shape=shapes, number=st.integers(1, 6), at_once=maybe)
    def clients_come(self, pick: int, shape: Shape, number: int, at_once: bool) -> None:
        gateway = self.awake(pick)
        for _ in range(number):
            gateway.wants(shape, self.world.now)
            self.world.check_slots()
        if at_once:
            gateway.begin(self.world.now)

    @rule(
        pick=picks,
        shape=shapes,
        steps=st.integers(1, 30),
        each_s=st.sampled_from([0.05, 0.2, 0.7]),
        number=st.integers(1, 4),
        share=shares,
    )
    def a_tenant_is_busy(
        self, pick: int, shape: Shape, steps: int, each_s: float, number: int, share: Decimal
    ) -> None:
        """For a while all is well: answers come at once, requests end, leases go back."""
        world, gateway = self.world, self.awake(pick)
        for _ in range(steps):
            for _ in range(number):
                gateway.wants(shape, world.now)
                world.deliver_all()
            gateway.begin(world.now)
            world.check_slots()
            for request in gateway.requests[:number]:
                gateway.conclude(
                    request, request.drawn * share, int(request.booked_tokens * share), world.now
                )
            gateway.sweep(world.now)
            gateway.send_returns()
            world.publish(gateway)
            world.advance(each_s)

    @rule(
        pick=picks,
        shape=shapes,
        answered_after_s=st.sampled_from([0.0, 0.0, 1.0, 2.5]),
        used_after_s=st.sampled_from([0.0, 0.85, 1.85]),
        sent_after_s=st.sampled_from([0.0, 0.0, 1.0, 61.0]),
        share=shares,
    )
    def a_lease_is_used_at_the_last_moment(
        self,
        pick: int,
        shape: Shape,
        answered_after_s: float,
        used_after_s: float,
        sent_after_s: float,
        share: Decimal,
    ) -> None:
        """All of it, and a minute later the tenant tries again and again."""
        world, gateway = self.world, self.awake(pick)
        gateway.ask(shape, 15, world.now)
        world.deliver_questions()
        world.advance(answered_after_s)
        world.deliver_all()
        world.advance(used_after_s)
        self.use_up(gateway, shape)
        world.advance(sent_after_s)
        gateway.begin(world.now)
        self.finish(gateway, share)
        self.give_all_back(gateway)
        world.advance(max(0.0, 57.0 - sent_after_s))
        for _ in range(20):
            self.use_up(gateway, shape)
            world.deliver_all()
            gateway.begin(world.now)
            self.finish(gateway, share)
            self.give_all_back(gateway)
            world.advance(0.23)

    def give_all_back(self, gateway: Gateway) -> None:
        """What has ended, and what was not answered."""
        gateway.give_up(self.world.now, 0)
        gateway.sweep(self.world.now)
        gateway.send_returns()
        self.world.deliver_all()

    def use_up(self, gateway: Gateway, shape: Shape) -> None:
        """Requests come until nothing is left of what is held, or for ever where nothing limits them."""
        before = -1
        while before < len(gateway.requests) < ENOUGH - len(self.world.auditor.latest):
            before = len(gateway.requests)
            gateway.wants(shape, self.world.now)
            self.world.check_slots()

    def finish(self, gateway: Gateway, share: Decimal) -> None:
        """All requests end."""
        for request in list(gateway.requests):
            self.end(gateway, request, share)

    @rule(pick=picks, shape=shapes, permits=st.integers(1, 20))
    def a_question_is_overtaken(self, pick: int, shape: Shape, permits: int) -> None:
        """It is given up before it arrives, and what is said then arrives first."""
        gateway = self.awake(pick)
        gateway.ask(shape, permits, self.world.now)
        gateway.give_up(self.world.now, 0)
        gateway.send_returns()
        self.world.deliver_backwards()

    @rule(pick=picks, other=picks, shape=shapes, number=st.integers(1, 8), was_used=maybe)
    def a_renewal_overtakes_an_answer(
        self, pick: int, other: int, shape: Shape, number: int, was_used: bool
    ) -> None:
        """The registry hears of fewer requests under way before the gateway hears that it may have more."""
        world, gateway = self.world, self.awake(pick)
        if was_used:
            gateway.wants(shape, world.now)
            world.deliver_all()
            gateway.begin(world.now)
            self.finish(gateway, Decimal(1))
        gateway.ask(shape, number, world.now)
        world.deliver_questions()
        gateway.tell_alive(world.now)
        world.deliver_questions()
        late = [envelope for envelope in world.bus if envelope.gateway_id == gateway.gateway_id]
        world.bus = [envelope for envelope in world.bus if envelope not in late]
        for _ in range(number):
            self.awake(other).wants(shape, world.now)
            world.deliver_all()
        world.bus += late
        world.deliver_backwards()
        self.use_up(gateway, shape)

    @rule(pick=picks, shape=shapes, number=st.integers(1, 4))
    def a_lease_goes_back_twice(self, pick: int, shape: Shape, number: int) -> None:
        """The first answer is lost while requests from it are under way."""
        world, gateway = self.world, self.awake(pick)
        gateway.ask(shape, 15, world.now)
        world.deliver_all()
        for _ in range(number):
            gateway.wants(shape, world.now)
        gateway.begin(world.now)
        gateway.drop_all()
        gateway.send_returns()
        gateway.send_returns()
        world.deliver_all()

    @precondition(lambda self: any(gateway.requests for gateway in self.world.gateways))
    @rule(pick=picks)
    def requests_are_sent(self, pick: int) -> None:
        gateway = self.awake(pick)
        gateway.begin(self.world.now)

    @precondition(lambda self: any(gateway.requests for gateway in self.world.gateways))
    @rule(pick=picks, share=shares)
    def all_requests_end(self, pick: int, share: Decimal) -> None:
        gateway = self.awake(pick)
        gateway.begin(self.world.now)
        self.finish(gateway, share)

    @precondition(lambda self: any(gateway.requests for gateway in self.world.gateways))
    @rule(pick=picks, which=picks, share=shares, overrun=st.sampled_from([0, 0, 0, 0, 1]))
    def a_request_ends(self, pick: int, which: int, share: Decimal, overrun: int) -> None:
        gateway = self.awake(pick)
        sent = [one for one in gateway.requests if one.admitted_at is not None]
        if not sent:
            return
        request = sent[which % len(sent)]
        self.end(gateway, request, share + overrun)

    @precondition(lambda self: any(gateway.requests for gateway in self.world.gateways))
    @rule(pick=picks, which=picks, usd=st.sampled_from([SMALL[0], LARGE[0]]))
    def a_request_needs_another_attempt(self, pick: int, which: int, usd: Decimal) -> None:
        gateway = self.awake(pick)
        sent = [one for one in gateway.requests if one.admitted_at is not None]
        if sent:
            gateway.try_again(sent[which % len(sent)], usd, self.world.now)

    @precondition(lambda self: self.world.bus)
    @rule(which=st.lists(st.tuples(picks, maybe, fates), min_size=1, max_size=6))
    def messages_arrive(self, which: list[tuple[int, bool, Fate]]) -> None:
        """In any order; some will arrive once more, some are not answered as they should be."""
        for pick, keep, fate in which:
            if self.world.bus:
                self.world.deliver(pick % len(self.world.bus), keep=keep, fate=fate)

    @precondition(lambda self: self.world.bus)
    @rule(backwards=maybe)
    def all_messages_arrive(self, backwards: bool) -> None:
        if backwards:
            self.world.deliver_backwards()
        else:
            self.world.deliver_all()

    @precondition(lambda self: self.world.bus)
    @rule(which=st.lists(picks, min_size=1, max_size=4))
    def messages_are_lost(self, which: list[int]) -> None:
        for pick in which:
            if self.world.bus:
                del self.world.bus[pick % len(self.world.bus)]

    @precondition(lambda self: any(gateway.questions for gateway in self.world.gateways))
    @rule(pick=picks)
    def questions_are_asked_again(self, pick: int) -> None:
        gateway = self.awake(pick)
        gateway.ask_again()

    @precondition(lambda self: any(gateway.questions for gateway in self.world.gateways))
    @rule(pick=picks, after_s=st.sampled_from([0.0, 1.0, 5.0]))
    def questions_are_given_up(self, pick: int, after_s: float) -> None:
        gateway = self.awake(pick)
        gateway.give_up(self.world.now, after_s)
        gateway.send_returns()

    @precondition(lambda self: self.world.books.leases)
    @rule(pick=picks, all_of_them=maybe)
    def leases_go_back(self, pick: int, all_of_them: bool) -> None:
        """Those that have ended, or all: a plan has become wrong."""
        gateway = self.awake(pick)
        if all_of_them:
            gateway.drop_all()
        gateway.sweep(self.world.now)
        gateway.send_returns()

    @rule(pick=picks)
    def a_gateway_says_that_it_is_there(self, pick: int) -> None:
        gateway = self.awake(pick)
        gateway.tell_alive(self.world.now)

    @precondition(lambda self: self.world.books.leases)
    @rule(pick=picks)
    def a_gateway_stops(self, pick: int) -> None:
        self.awake(pick).is_paused = True

    @precondition(lambda self: any(gateway.is_paused for gateway in self.world.gateways))
    @rule()
    def all_gateways_go_on(self) -> None:
        for gateway in self.world.gateways:
            gateway.is_paused = False

    @precondition(lambda self: self.world.books.leases)
    @rule(pick=picks, spool=maybe, share=shares)
    def a_gateway_is_killed(self, pick: int, spool: bool, share: Decimal) -> None:
        self.world.kill(self.world.gateways[pick % len(self.world.gateways)], spool=spool, cost_of=share)

    @precondition(lambda self: any(gateway.outbox for gateway in self.world.gateways))
    @rule(pick=picks, acknowledged=maybe)
    def reports_are_published(self, pick: int, acknowledged: bool) -> None:
        gateway = self.awake(pick)
        self.world.publish(gateway, acknowledged=acknowledged)

    @precondition(lambda self: self.world.stream)
    @rule(which=st.lists(picks, min_size=1, max_size=20), acknowledged=maybe)
    def reports_are_recorded(self, which: list[int], acknowledged: bool) -> None:
        places = list(dict.fromkeys(pick % len(self.world.stream) for pick in which))
        self.world.record(places, acknowledged=acknowledged)

    @precondition(lambda self: self.world.books.leases)
    @rule(ttl_s=st.sampled_from([GATEWAY_TTL_S, LAPSE_AFTER_S]))
    def leases_lapse(self, ttl_s: float) -> None:
        self.world.lapse(ttl_s)

    @rule(
        seconds=st.sampled_from(
            [0.01, 0.5, 0.99, 1.0, 1.89, 1.9, 2.0, 2.5, 14.0, 15.5, 57.5, 58.9, 60.0, 61.0, 901.0]
        )
    )
    def time_passes(self, seconds: float) -> None:
        self.world.advance(seconds)

    @rule(before_s=st.sampled_from([0.4, 1.3, 2.0]))
    def the_month_nears_its_end(self, before_s: float) -> None:
        if self.world.now < MONTH_END - before_s:
            self.world.advance(MONTH_END - before_s - self.world.now)

    @rule(scope=st.sampled_from(SCOPES), bounds=bounds)
    def an_operator_changes_a_limit(self, scope: str, bounds: Bounds) -> None:
        self.world.set_limit(scope, bounds)

    @invariant()
    def money_is_kept(self) -> None:
        if hasattr(self, "world"):
            self.world.auditor.check_money(self.world.books)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.come_to_rest()
            self.world.auditor.check_money(self.world.books)
            self.world.auditor.check_end(self.world.books)


@pytest.mark.timeout(0 if EXAMPLES in os.environ else 300)
class TestLeases(LeaseMachine.TestCase):  # type: ignore[valid-type,misc]
    """The machine as a test."""


TestLeases.settings = settings(
    max_examples=int(os.environ.get(EXAMPLES, "150")),
    stateful_step_count=50,
    deadline=None,
    derandomize=EXAMPLES not in os.environ,
    print_blob=True,
    phases=[phase for phase in Phase if phase is not Phase.shrink or EXAMPLES in os.environ],
    suppress_health_check=list(HealthCheck),
)
