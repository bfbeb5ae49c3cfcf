"""What a booking's answer means: a refusal that says which limit, or a lease with the numbers left."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Final, Literal

from synaxis_common.contracts.leases import LEASE_TTL_S, LeaseAsk, Permit, SlotGrant
from synaxis_common.contracts.routing import RateLimitView, RefusalCode, RouteRefusal
from synaxis_common.money import plain
from synaxis_registry.core.limits import WINDOW_S
from synaxis_registry.core.plan import Booking, Routed

SHARE_OF_REST: Final = 4
"""One lease takes at most one part in so many of what is left of a limit, and at least one permit: so the
last permits are not all in one gateway's hands while others wait. Source: our choice."""

SHARE_OF_LIMIT: Final = 10
"""One lease takes at most one part in so many of the whole limit."""

GONE_RETRY_S: Final = 1.0

Verdict = Literal["rpm", "tpm", "budget", "concurrency", "gone"]


@dataclass(frozen=True, slots=True)
class LimitUse:
    """One limit with what was used of it before a booking, and whether it refused the booking."""

    scope: str
    verdict: Verdict | None
    retry_after_s: int | None
    reset_s: int | None
    """Until nothing of its window is used any more, if nothing else is admitted. None: it is free."""
    allowed_rpm: int | None
    used_requests: int
    allowed_tpm: int | None
    used_tokens: int
    allowed_concurrency: int | None
    slots: int | None
    """What the gateway may have under way there from now on."""
    monthly_budget_usd: Decimal | None
    spent_usd: Decimal
    reserved_usd: Decimal


@dataclass(frozen=True, slots=True)
class Grant:
    """The answer to a booking: every limit that it counts against, and what was granted."""

    uses: tuple[LimitUse, ...]
    permits: int = 0
    tokens: int = 0
    usd: Decimal = Decimal(0)


def refusal(routed: Routed, grant: Grant) -> RouteRefusal | None:
    """Why nothing was booked; None: it was. A spent budget goes before a rate, since waiting won't help."""
    refusing = {use.verdict: use for use in sorted(grant.uses, key=lambda use: use.retry_after_s or WINDOW_S)}
    refusing.pop(None, None)
    if not refusing:
        return None
    view = rate_limit_view(grant)
    if (use := refusing.get("budget")) is not None:
        budget = plain(use.monthly_budget_usd or Decimal(0))
        return RouteRefusal(
            request_id=routed.request_id,
            code=RefusalCode.INSUFFICIENT_QUOTA,
            message=f"The monthly budget for {_about(use)} does not cover this request: of {budget} USD "
            f"{plain(use.spent_usd)} are spent and {plain(use.reserved_usd)} reserved for requests "
            "under way.",
            rate_limits=view,
        )
    if "gone" in refusing:
        return RouteRefusal(
            request_id=routed.request_id,
            code=RefusalCode.UNAVAILABLE,
            message="This question was answered before, and what it was granted is over.",
            retry_after_s=GONE_RETRY_S,
        )
    use = max(refusing.values(), key=lambda use: use.retry_after_s or WINDOW_S)
    bound, what = {
        "rpm": (use.allowed_rpm, "requests a minute"),
        "tpm": (use.allowed_tpm, "tokens a minute"),
        "concurrency": (use.allowed_concurrency, "requests at once"),
    }[use.verdict or "rpm"]
    return RouteRefusal(
        request_id=routed.request_id,
        code=RefusalCode.RATE_LIMIT_EXCEEDED,
        message=f"The limit of {bound} {what} for {_about(use)} is reached.",
        retry_after_s=float(use.retry_after_s or WINDOW_S),
        rate_limits=view,
    )


def permit(ask: LeaseAsk, booking: Booking, grant: Grant) -> Permit:
    """The lease that was granted."""
    return Permit(
        lease_id=ask.lease_id,
        permits=grant.permits,
        expires_in_s=LEASE_TTL_S,
        reserved_usd=grant.usd,
        tokens=grant.tokens,
        usd_each=booking.usd,
        tokens_each=booking.tokens,
        slots=tuple(
            SlotGrant(scope=use.scope, slots=use.slots) for use in grant.uses if use.slots is not None
        ),
    )


def rate_limit_view(grant: Grant) -> RateLimitView:
    """The tightest limit of each kind, as it is after the booking."""
    requests = [
        (max(use.allowed_rpm - use.used_requests - grant.permits, 0), use.allowed_rpm, _reset_s(use, grant))
        for use in grant.uses
        if use.allowed_rpm is not None
    ]
    tokens = [
        (max(use.allowed_tpm - use.used_tokens - grant.tokens, 0), use.allowed_tpm, _reset_s(use, grant))
        for use in grant.uses
        if use.allowed_tpm is not None
    ]
    left_requests, limit_requests, reset_requests_s = min(requests, default=(None, None, None))
    left_tokens, limit_tokens, reset_tokens_s = min(tokens, default=(None, None, None))
    return RateLimitView(
        limit_requests=limit_requests,
        remaining_requests=left_requests,
        reset_requests_s=reset_requests_s,
        limit_tokens=limit_tokens,
        remaining_tokens=left_tokens,
        reset_tokens_s=reset_tokens_s,
    )


def _reset_s(use: LimitUse, grant: Grant) -> float:
    """A permit that is booked now counts from the last second of its lease on."""
    booked_now = WINDOW_S + 1 + LEASE_TTL_S if grant.permits else 0.0
    return max(float(use.reset_s or 0), booked_now)


def _about(use: LimitUse) -> str:
    kind, _, rest = use.scope.partition("/")
    if kind == "k":
        return "this key"
    _, _, model = rest.partition("/")
    return "all models" if model == "*" else f"the model '{model}'"
