"""Leases: what a gateway may admit by itself, counted against the limits already."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated
from uuid import UUID

from pydantic import Field

from synaxis_common.contracts.base import Identifier, Message
from synaxis_common.contracts.catalog import Tokens
from synaxis_common.money import Usd

LEASE_TTL_S = 2.0
"""How long requests may be admitted from a lease. A permit counts at the lease's last second until it is
returned, so a limit on requests a minute is under-used by at most this much of 60 s."""

LEASE_MARGIN_S = 0.1
"""A gateway stops using a lease so much earlier, counted from when it asked."""

ALIVE_EVERY_S = 2.0
"""How often a gateway tells that it is there, and renews what it may have under way at once."""

GATEWAY_TTL_S = 15.0
"""A gateway not heard of for so long is dead: what it holds is charged at its worst case, unconfirmed."""

Count = Annotated[int, Field(ge=0, lt=2**31)]


class LeaseAsk(Message):
    """What a gateway would like to be granted along with a plan. Asked again with its id, it is answered
    the same, so that nothing is booked twice."""

    lease_id: UUID
    gateway_id: Identifier
    permits: Count = 1
    """Wanted; fewer may be granted. 0: only money, for another attempt of a request that was admitted."""
    usd: Usd = Decimal(0)
    """With `permits` 0: the amount that is needed, all of it or nothing."""
    slots: dict[Identifier, Count] = {}
    """By scope: how many requests the gateway has under way there, this one included. A scope that it does
    not know of yet is missing."""
    slots_seq: Annotated[int, Field(ge=0, lt=2**62)] = 0
    """Grows with each message in which the gateway speaks of slots, so that an older one that comes later
    changes nothing."""


class SlotGrant(Message):
    """How many requests of a scope a gateway may have under way at once, until it hears otherwise."""

    scope: Identifier
    slots: Count
    expires_in_s: float = GATEWAY_TTL_S
    """Counted from when the gateway asked."""


class Permit(Message):
    """A lease: what was booked for the plan; what is not used goes back through `synaxis.lease.v1.return`."""

    lease_id: UUID
    permits: int
    """Requests that may be admitted. 0: it carries money only."""
    expires_in_s: float
    """Counted from when the gateway first asked with this id."""
    reserved_usd: Usd = Decimal(0)
    """For all of them."""
    tokens: Tokens = 0
    """For all of them."""
    usd_each: Usd = Decimal(0)
    """What one request of the plan takes of `reserved_usd`: its worst case at the dearest candidate."""
    tokens_each: Tokens = 0
    """What one request of the plan takes of `tokens`."""
    slots: tuple[SlotGrant, ...] = ()


class LeaseDraw(Message):
    """What one request took out of a lease."""

    lease_id: UUID
    permits: Count = 1
    tokens: Tokens = 0
    usd: Usd = Decimal(0)


class LeaseReturn(Message):
    """The end of a lease: what was booked for it and is not going to be used. Said once more, it changes
    nothing; said of a lease that the registry never heard of, it keeps that from being granted."""

    lease_id: UUID
    tenant_id: Identifier | None = None
    """None: a lease on a provider's own limits."""
    unused_permits: Count = 0
    unused_tokens: Tokens = 0
    unused_usd: Usd = Decimal(0)
    everything: bool = False
    """The answer never came: none of it was used, whatever was granted."""


class LeaseReturned(Message):
    """The registry has taken a lease back."""

    lease_id: UUID


class ProviderLeaseAsk(Message):
    """Asks for permits within the limits that all tenants share of a provider and its model."""

    lease_id: UUID
    gateway_id: Identifier
    provider_id: Identifier
    provider_model_id: Identifier
    permits: Count = 1
    tokens_each: Tokens = 0


class ProviderLease(Message):
    """The answer: `permits` attempts may be made, or none for a while."""

    lease_id: UUID
    permits: Count = 0
    tokens: Tokens = 0
    """For all of them."""
    expires_in_s: float = LEASE_TTL_S
    retry_after_s: float | None = None
    """Set when nothing was granted."""


class GatewayAlive(Message):
    """A gateway is there, and has this many requests under way (or wants to) in each scope."""

    gateway_id: Identifier
    slots: dict[Identifier, Count] = {}
    """0 gives a scope's slots back."""
    slots_seq: Annotated[int, Field(ge=0, lt=2**62)] = 0
    """As in `LeaseAsk`."""


class GatewayAliveReply(Message):
    """What the gateway may have under way from now on."""

    slots: tuple[SlotGrant, ...] = ()


class EndpointName(Message):
    """A provider model, by its key."""

    provider_id: Identifier
    provider_model_id: Identifier


class PlansStale(Message):
    """Plans that gateways hold have become wrong. A hint: what is not told of ends by its own expiry."""

    tenants: tuple[Identifier, ...] = ()
    """A key or a limit of theirs has changed: forget their plans, and return their leases."""
    endpoints: tuple[EndpointName, ...] = ()
    """They take no requests now: leave them out of every plan."""
    everything: bool = False
    """Too much to name, or a candidate is new or dearer: ask anew for each plan at its next use."""
