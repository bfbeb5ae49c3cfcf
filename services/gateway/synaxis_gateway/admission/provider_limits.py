"""The limits that all tenants share at a provider: attempts there need a permit of their own."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

from synaxis_common import ids
from synaxis_common.bus import BusUnavailable
from synaxis_common.clock import Clock
from synaxis_common.contracts.leases import Permit, ProviderLeaseAsk
from synaxis_common.contracts.routing import Candidate
from synaxis_gateway.admission.account import Account, Lease
from synaxis_gateway.admission.returns import Returns
from synaxis_gateway.routing import Registry

UNKNOWN_WAIT_S: Final = 1.0
"""When a candidate is asked for again that no registry could speak for: what cannot be kept is not used."""
MAX_ACCOUNTS: Final = 10_000
_NOTHING: Final = Decimal(0)


@dataclass(slots=True)
class _Shared:
    account: Account = field(default_factory=Account)
    refused_until: float = -math.inf


@dataclass(frozen=True, slots=True)
class Turn:
    """Whether an attempt may be made now."""

    wait_s: float | None = None
    """None: now. Else in how many seconds to ask again."""
    ends_at: float = math.inf
    """On the monotonic clock: until when it may be begun."""


class ProviderLimits:
    """Leases on the limits of provider models, one account each."""

    def __init__(self, registry: Registry, clock: Clock, returns: Returns, gateway_id: str) -> None:
        self._registry = registry
        self._clock = clock
        self._returns = returns
        self._gateway_id = gateway_id
        self._shared: OrderedDict[tuple[str, str], _Shared] = OrderedDict()

    async def take(self, candidate: Candidate, tokens: int) -> Turn:
        """Take a permit for one attempt."""
        key = candidate.provider_id, candidate.provider_model_id
        shared = self._shared.setdefault(key, _Shared())
        self._shared.move_to_end(key)
        account = shared.account
        now = self._clock.monotonic()
        account.arrived(now)
        self._returns.add(account.take_over(now))
        draw = account.draw(now, tokens, _NOTHING)
        if draw is None and now < shared.refused_until:
            return Turn(wait_s=shared.refused_until - now)
        if draw is None:
            wait_s = await self._ask(candidate, account, tokens)
            if wait_s is not None:
                shared.refused_until = now + wait_s
                return Turn(wait_s=wait_s)
            draw = account.draw(self._clock.monotonic(), tokens, _NOTHING)
        if draw is None:
            return Turn(wait_s=UNKNOWN_WAIT_S)
        return Turn(ends_at=account.ends_at(draw))

    def sweep(self) -> None:
        """Give back what has ended; forget whom nobody asks for."""
        now = self._clock.monotonic()
        for shared in self._shared.values():
            self._returns.add(shared.account.take_over(now))
        while len(self._shared) > MAX_ACCOUNTS:
            _, oldest = self._shared.popitem(last=False)
            self._returns.add(oldest.account.take_all())

    def close(self) -> None:
        """Give all back."""
        for shared in self._shared.values():
            self._returns.add(shared.account.take_all())

    async def _ask(self, candidate: Candidate, account: Account, tokens: int) -> float | None:
        asked_at = self._clock.monotonic()
        ask = ProviderLeaseAsk(
            lease_id=ids.uuid7(),
            gateway_id=self._gateway_id,
            provider_id=candidate.provider_id,
            provider_model_id=candidate.provider_model_id,
            permits=account.wanted(asked_at),
            tokens_each=tokens,
        )
        try:
            granted = await self._registry.provider_lease(ask)
        except BusUnavailable:
            return UNKNOWN_WAIT_S
        if not granted.permits:
            return granted.retry_after_s or UNKNOWN_WAIT_S
        permit = Permit(
            lease_id=granted.lease_id,
            permits=granted.permits,
            tokens=granted.tokens,
            expires_in_s=granted.expires_in_s,
        )
        account.add(Lease.granted(permit, None, asked_at))
        return None
