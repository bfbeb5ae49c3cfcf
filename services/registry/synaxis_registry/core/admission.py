"""What a booking's answer means: a refusal that says which limit, or the numbers for the client's headers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, Literal

from synaxis_common.contracts.routing import RateLimitView, RefusalCode, RouteRefusal
from synaxis_common.money import plain
from synaxis_registry.core.catalog import ANY_MODEL
from synaxis_registry.core.limits import WINDOW_S
from synaxis_registry.core.plan import Booking, Routed

_NOTHING_BOOKED: Final = Booking(requests=0, tokens=0, usd=Decimal(0))


@dataclass(frozen=True, slots=True)
class LimitUse:
    """One limit of a tenant with what was used of it before a booking, and whether it refused the booking."""

    global_model_id: str
    verdict: Literal["rpm", "tpm", "budget"] | None
    retry_after_s: int | None
    allowed_rpm: int | None
    used_requests: int
    allowed_tpm: int | None
    used_tokens: int
    monthly_budget_usd: Decimal | None
    spent_usd: Decimal
    reserved_usd: Decimal


def refusal(routed: Routed, uses: Iterable[LimitUse]) -> RouteRefusal | None:
    """Why nothing was booked; None: it was. A spent budget goes before a rate, since waiting won't help."""
    uses = tuple(uses)
    refusing = [use for use in uses if use.verdict is not None]
    if not refusing:
        return None
    spent = next((use for use in refusing if use.verdict == "budget"), None)
    view = rate_limit_view(uses, _NOTHING_BOOKED)
    if spent is not None:
        budget = plain(spent.monthly_budget_usd or Decimal(0))
        return RouteRefusal(
            request_id=routed.request_id,
            code=RefusalCode.INSUFFICIENT_QUOTA,
            message=f"The monthly budget for {_scope(spent)} does not cover this request: of {budget} USD "
            f"{plain(spent.spent_usd)} are spent and {plain(spent.reserved_usd)} reserved for requests "
            "under way.",
            rate_limits=view,
        )
    use = max(refusing, key=lambda use: use.retry_after_s or WINDOW_S)
    bound, what = (use.allowed_rpm, "requests") if use.verdict == "rpm" else (use.allowed_tpm, "tokens")
    return RouteRefusal(
        request_id=routed.request_id,
        code=RefusalCode.RATE_LIMIT_EXCEEDED,
        message=f"The limit of {bound} {what} a minute for {_scope(use)} is reached.",
        retry_after_s=float(use.retry_after_s or WINDOW_S),
        rate_limits=view,
    )


def rate_limit_view(uses: Iterable[LimitUse], booked: Booking) -> RateLimitView:
    """The tightest limit of each kind, as it is after `booked`."""
    uses = tuple(uses)
    requests = [
        (max(use.allowed_rpm - use.used_requests - booked.requests, 0), use.allowed_rpm)
        for use in uses
        if use.allowed_rpm is not None
    ]
    tokens = [
        (max(use.allowed_tpm - use.used_tokens - booked.tokens, 0), use.allowed_tpm)
        for use in uses
        if use.allowed_tpm is not None
    ]
    left_requests, limit_requests = min(requests, default=(None, None))
    left_tokens, limit_tokens = min(tokens, default=(None, None))
    return RateLimitView(
        limit_requests=limit_requests,
        remaining_requests=left_requests,
        reset_requests_s=None if limit_requests is None else float(WINDOW_S),
        limit_tokens=limit_tokens,
        remaining_tokens=left_tokens,
        reset_tokens_s=None if limit_tokens is None else float(WINDOW_S),
    )


def _scope(use: LimitUse) -> str:
    return "all models" if use.global_model_id == ANY_MODEL else f"the model '{use.global_model_id}'"
