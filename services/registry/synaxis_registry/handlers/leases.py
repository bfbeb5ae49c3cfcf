"""Answers `synaxis.lease.v1.return`, `.provider` and `.alive`."""

from __future__ import annotations

from prometheus_client import Counter

from synaxis_common.contracts.leases import (
    GatewayAlive,
    GatewayAliveReply,
    LeaseReturn,
    LeaseReturned,
    ProviderLease,
    ProviderLeaseAsk,
)
from synaxis_common.logging import get_logger
from synaxis_registry.booking import Bookings
from synaxis_registry.core.leasing import Ask
from synaxis_registry.core.limits import WINDOW_S
from synaxis_registry.store import ledger
from synaxis_registry.store.database import Database, DatabaseUnavailable

log = get_logger(__name__)

RETURNS = Counter("synaxis_lease_returns_total", "Leases given back: now, or before", ["outcome"])
PROVIDER_LEASES = Counter(
    "synaxis_provider_leases_total", "Leases on providers' own limits, by what came of it", ["outcome"]
)


class LeaseHandlers:
    """Keeps what gateways hold. Without Postgres nobody is answered: gateways ask again."""

    def __init__(self, database: Database, bookings: Bookings) -> None:
        self._database, self._bookings = database, bookings

    async def give_back(self, message: LeaseReturn) -> LeaseReturned | None:
        """A lease is over."""
        try:
            done = await self._database.call(lambda connection: ledger.give_back(connection, message))
        except DatabaseUnavailable as error:
            log.warning("lease_not_returned", error=str(error))
            return None
        RETURNS.labels("now" if done else "before").inc()
        return LeaseReturned(lease_id=message.lease_id)

    async def provider(self, message: ProviderLeaseAsk) -> ProviderLease | None:
        """Attempts at a provider that has limits of its own."""
        try:
            granted = await self._bookings.book(_asked(message))
        except DatabaseUnavailable as error:
            log.warning("provider_lease_not_granted", error=str(error))
            return None
        if granted is None:  # its limits have been removed meanwhile
            tokens = message.permits * message.tokens_each
            return ProviderLease(lease_id=message.lease_id, permits=message.permits, tokens=tokens)
        refusing = [use for use in granted.uses if use.verdict is not None]
        PROVIDER_LEASES.labels("refused" if refusing else "granted").inc()
        if refusing:
            wait_s = max(use.retry_after_s or WINDOW_S for use in refusing)
            return ProviderLease(lease_id=message.lease_id, retry_after_s=float(wait_s))
        return ProviderLease(lease_id=message.lease_id, permits=granted.permits, tokens=granted.tokens)

    async def alive(self, message: GatewayAlive) -> GatewayAliveReply | None:
        """A gateway is there, and renews what it has under way."""
        try:
            slots = await self._database.call(lambda connection: ledger.renew_slots(connection, message))
        except DatabaseUnavailable as error:
            log.debug("gateway_not_noted", error=str(error))
            return None
        return GatewayAliveReply(slots=slots)


def _asked(message: ProviderLeaseAsk) -> Ask:
    """Attempts count against the limits that all tenants share at a provider."""
    return Ask(
        lease_id=message.lease_id,
        gateway_id=message.gateway_id,
        tenant_id=None,
        scopes=(f"p/{message.provider_id}", f"e/{message.provider_id}/{message.provider_model_id}"),
        permits=message.permits,
        tokens_each=message.tokens_each,
    )
