"""The leases a gateway holds for one key and set of models: what is left in them, and when to ask for more.

Pure: times are seconds on a monotonic clock that does not stop while the machine is suspended, and come from
the caller. Nothing here waits or sends.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from decimal import Decimal
from typing import Final
from uuid import UUID

from synaxis_common.contracts.leases import LEASE_MARGIN_S, LeaseDraw, LeaseReturn, Permit

HORIZON_S: Final = 1.0
"""A lease is asked for with as many permits as were used in so long: half of its life, so that the next one
is there before it ends."""

RENEW_AT: Final = 0.5
"""Of what was used in `HORIZON_S`: with less than that left the next lease is asked for."""

RENEW_BEFORE_S: Final = 0.8
"""A lease that ends sooner counts as used up when deciding whether to ask for the next one."""

THIN_PER_S: Final = 2
"""With fewer requests a second nothing is held in store: each one asks for itself."""

PROJECTED_FROM: Final = 8
"""So many requests at least say how many will come in `HORIZON_S`, if they go on like this."""

GROWTH: Final = 4
"""But at most so many times of those who have come. When traffic begins, an answer has to bring permits for
more than those who wait for it: as many come meanwhile, and would wait for the next."""

MAX_PERMITS: Final = 100_000

_NOTHING: Final = Decimal(0)

Left = tuple[int, int, int]
"""Requests and tokens, and how many of the requests in leases that last for `RENEW_BEFORE_S`."""


@dataclass(slots=True)
class Lease:
    """What is left of one lease."""

    lease_id: UUID
    tenant_id: str | None
    ends_at: float
    permits: int
    tokens: int
    usd: Decimal
    last_draw: LeaseDraw | None = None
    """Requests of one shape all draw the same: it is made once."""

    @classmethod
    def granted(cls, permit: Permit, tenant_id: str | None, asked_at: float) -> Lease:
        """A lease as it begins. Its time runs from when it was asked for: the answer may have taken long."""
        return cls(
            lease_id=permit.lease_id,
            tenant_id=tenant_id,
            ends_at=asked_at + permit.expires_in_s - LEASE_MARGIN_S,
            permits=permit.permits,
            tokens=permit.tokens,
            usd=permit.reserved_usd,
        )

    @property
    def is_used_up(self) -> bool:
        """Whether there is nothing left to give back."""
        return not (self.permits or self.tokens or self.usd)

    def drawn(self, tokens: int, usd: Decimal) -> LeaseDraw:
        """What a request that takes so much has drawn."""
        last = self.last_draw
        if last is None or last.tokens != tokens or last.usd != usd:
            last = LeaseDraw(lease_id=self.lease_id, permits=1, tokens=tokens, usd=usd)
            self.last_draw = last
        return last

    def rest(self) -> LeaseReturn:
        """What was not used."""
        return LeaseReturn(
            lease_id=self.lease_id,
            tenant_id=self.tenant_id,
            unused_permits=self.permits,
            unused_tokens=self.tokens,
            unused_usd=self.usd,
        )


class Account:
    """The leases of one key and set of models, the oldest first, and how fast they are used."""

    __slots__ = ("_before", "_count", "_leases", "_since")

    def __init__(self) -> None:
        self._leases: deque[Lease] = deque()
        self._since = -math.inf
        self._count = 0
        self._before = 0

    def add(self, lease: Lease) -> None:
        """A lease was granted."""
        self._leases.append(lease)

    def draw(self, now: float, tokens: int, usd: Decimal) -> LeaseDraw | None:
        """Admit one request: a permit, its tokens and its money. None: no lease that lasts has them."""
        for lease in self._leases:
            if lease.permits > 0 and now < lease.ends_at and lease.tokens >= tokens and lease.usd >= usd:
                lease.permits -= 1
                lease.tokens -= tokens
                lease.usd -= usd
                return lease.drawn(tokens, usd)
        return None

    def draw_money(self, now: float, usd: Decimal) -> LeaseDraw | None:
        """Money for a further attempt of a request that was admitted. None: no lease has so much."""
        for lease in self._leases:
            if now < lease.ends_at and lease.usd >= usd:
                lease.usd -= usd
                return LeaseDraw(lease_id=lease.lease_id, permits=0, tokens=0, usd=usd)
        return None

    def put_back(self, draw: LeaseDraw) -> bool:
        """A request that was admitted went nowhere. False: its lease has been given back already."""
        for lease in self._leases:
            if lease.lease_id == draw.lease_id:
                lease.permits += draw.permits
                lease.tokens += draw.tokens
                lease.usd += draw.usd
                return True
        return False

    def ends_at(self, draw: LeaseDraw) -> float:
        """Until when what was drawn may be used."""
        for lease in self._leases:
            if lease.last_draw is draw or lease.lease_id == draw.lease_id:
                return lease.ends_at
        return -math.inf

    def take_over(self, now: float) -> list[LeaseReturn]:
        """Remove the leases that have ended; answers what of them was not used."""
        ended = [lease for lease in self._leases if lease.ends_at <= now]
        if ended:
            self._leases = deque(lease for lease in self._leases if lease.ends_at > now)
        return [lease.rest() for lease in ended if not lease.is_used_up]

    def take_all(self) -> list[LeaseReturn]:
        """Remove all leases; answers what of them was not used."""
        return self.take_over(math.inf)

    @property
    def is_empty(self) -> bool:
        """Whether no lease is held."""
        return not self._leases

    def left(self, now: float) -> Left:
        """What may still be admitted."""
        permits = tokens = lasting = 0
        for lease in self._leases:
            ends_at = lease.ends_at
            if ends_at > now:
                permits += lease.permits
                tokens += lease.tokens
                if ends_at > now + RENEW_BEFORE_S:
                    lasting += lease.permits
        return permits, tokens, lasting

    def arrived(self, now: float) -> None:
        """A request wants to be admitted."""
        if now - self._since >= HORIZON_S:
            self._before = self._count if now - self._since < 2 * HORIZON_S else 0
            self._count = 0
            self._since = now
        self._count += 1

    def demand(self, now: float) -> int:
        """Requests in `HORIZON_S`: of this one as it goes on or of the one before it, whichever is busier."""
        elapsed, count = now - self._since, self._count
        if elapsed >= 2 * HORIZON_S:
            return 0
        if count >= PROJECTED_FROM and elapsed < HORIZON_S:
            count = int(count * HORIZON_S / max(elapsed, HORIZON_S / GROWTH))
        return max(count, self._before)

    def wanted(self, now: float, waiting: int = 0) -> int:
        """How many permits to ask for, with `waiting` requests that have none."""
        demand = self.demand(now)
        in_store = 0 if demand < THIN_PER_S * HORIZON_S else demand
        return min(max(in_store, waiting, 1), MAX_PERMITS)

    def is_low(self, now: float, lasting: int) -> bool:
        """Whether the next lease should be asked for now, before this one runs out. `lasting`: see `Left`."""
        demand = self.demand(now)
        return demand >= THIN_PER_S * HORIZON_S and lasting < demand * RENEW_AT
