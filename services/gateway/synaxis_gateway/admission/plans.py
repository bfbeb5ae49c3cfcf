"""Plans held for the next requests of the same shape."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

import msgspec

from synaxis_common.contracts.routing import Needs
from synaxis_gateway.admission.account import Account
from synaxis_gateway.admission.held_plan import HeldPlan
from synaxis_gateway.admission.shape import Shape

MAX_PLANS: Final = 10_000

USABLE_S: Final = 10.0
"""A plan older than its `expires_in_s` still serves the request at hand, while the next one is asked for;
older than this it does not. What makes plans wrong is told at once: this bounds what was not heard."""

EndpointKey = tuple[str, str]


@dataclass(slots=True)
class Held:
    """A plan, and the account that its requests are admitted from."""

    shape: Shape
    plan: HeldPlan
    asked_at: float
    account: Account | None
    """None: the tenant has no limits on this."""
    needs: Needs
    """What the plan is for: the needs of its shape."""
    usd_each: Decimal = Decimal(0)
    tokens_each: int = 0
    slot_scopes: tuple[str, ...] = ()
    fresh_until: float = field(init=False)
    """Until then nobody needs to ask for the next one."""
    usable_until: float = field(init=False)
    """Until then requests may be served by it while the next one is asked for."""

    def __post_init__(self) -> None:
        self.fresh_until = self.asked_at + self.plan.expires_in_s
        self.usable_until = self.asked_at + USABLE_S

    def grow_stale(self) -> None:
        """Something has changed; the next plan is asked for at the next use."""
        self.fresh_until = -math.inf

    def age(self, now: float) -> float:
        """Seconds since it was asked for."""
        return now - self.asked_at


@dataclass(slots=True)
class Plans:
    """The plans of the latest shapes."""

    _held: OrderedDict[Shape, Held] = field(default_factory=OrderedDict)
    _accounts: dict[tuple[str, frozenset[str]], Account] = field(default_factory=dict)

    def get(self, shape: Shape) -> Held | None:
        """The plan for a shape, however old."""
        return self._held.get(shape)

    def put(self, held: Held) -> None:
        """Hold a plan, instead of the former one of its shape."""
        self._held[held.shape] = held
        self._held.move_to_end(held.shape)
        if len(self._held) > MAX_PLANS:
            self._held.popitem(last=False)

    def drop(self, shape: Shape) -> None:
        """Forget a plan."""
        self._held.pop(shape, None)

    def account(self, key_hash: str, models: frozenset[str]) -> Account:
        """The account of a key and a set of models: their limits are the same, whatever a request needs."""
        return self._accounts.setdefault((key_hash, models), Account())

    def accounts(self) -> Collection[Account]:
        """All accounts."""
        return self._accounts.values()

    def drop_tenants(self, tenant_ids: Collection[str]) -> list[Account]:
        """Forget the plans of some tenants; answers their accounts, which nobody draws from any more."""
        gone = [held for held in self._held.values() if held.plan.tenant_id in tenant_ids]
        for held in gone:
            del self._held[held.shape]
        accounts = {id(held.account): held.account for held in gone if held.account is not None}
        self._accounts = {key: one for key, one in self._accounts.items() if id(one) not in accounts}
        return list(accounts.values())

    def leave_out(self, endpoints: Collection[EndpointKey]) -> None:
        """Take candidates out of every plan. A plan that has nobody else is forgotten."""
        for held in list(self._held.values()):
            left = tuple(
                candidate
                for candidate in held.plan.candidates
                if (candidate.provider_id, candidate.provider_model_id) not in endpoints
            )
            if not left:
                del self._held[held.shape]
            elif len(left) < len(held.plan.candidates):
                held.plan = msgspec.structs.replace(held.plan, candidates=left)
                held.grow_stale()

    def grow_old(self) -> None:
        """All plans may be wrong: the next use of each asks for the next one."""
        for held in self._held.values():
            held.grow_stale()

    def tidy(self, now: float, hard_age_s: float) -> None:
        """Forget plans that nobody can use any more, and accounts that are empty and unused."""
        for held in list(self._held.values()):
            if held.age(now) > max(USABLE_S, hard_age_s):
                del self._held[held.shape]
        used = {id(held.account) for held in self._held.values()}
        self._accounts = {
            key: account
            for key, account in self._accounts.items()
            if id(account) in used or not account.is_empty
        }


FOREVER: Final = math.inf
"""Until when a request may be sent that no lease has to cover."""
