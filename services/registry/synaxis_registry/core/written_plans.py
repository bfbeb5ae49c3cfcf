"""Plans as the bytes of a reply: candidates are written once for all requests of a kind."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from synaxis_common.contracts.leases import Permit
from synaxis_common.contracts.routing import Needs, RateLimitView, RouteReply
from synaxis_registry.core.plan import MAX_CANDIDATES, Asker, Routed, to_plan
from synaxis_registry.core.rank import Ranked

REMEMBERED: Final = 2_000
"""Kinds of requests whose plans are remembered; a plan has some 5 KB."""

_BEGIN: Final = b'{"answer":{"kind":"plan","request_id":"'
_UUID: Final = 36
_PERMIT: Final = b',"permit":null'
"""No string in a message can hold this, since its quotes would be escaped."""
_LIMITS: Final = b',"rate_limits":' + RateLimitView().to_bytes()


class _Written:
    """One plan but for what is one request's own, and what it was made of."""

    __slots__ = ("candidates", "end", "middle")

    def __init__(self, routed: Routed) -> None:
        self.candidates = routed.candidates[:MAX_CANDIDATES]
        text = RouteReply(answer=to_plan(routed)).to_bytes()
        head, permit, end = text.rpartition(_PERMIT)
        if not head.startswith(_BEGIN) or not permit or not end.startswith(_LIMITS):
            raise AssertionError("a plan is not written as it was")
        self.middle, self.end = head[len(_BEGIN) + _UUID :], end[len(_LIMITS) :]

    def is_of(self, candidates: tuple[Ranked, ...]) -> bool:
        """Whether it was made of just these: the same rows, at the same cost."""
        return len(candidates) == len(self.candidates) and all(
            mine.endpoint is theirs.endpoint
            and mine.provider is theirs.provider
            and mine.expected_cost_usd == theirs.expected_cost_usd
            for mine, theirs in zip(self.candidates, candidates, strict=True)
        )


class WrittenPlans:
    """Replies to requests. What has changed are other rows, so that no old plan is taken for new."""

    def __init__(self) -> None:
        self._written: OrderedDict[tuple[Asker, str, Needs], _Written] = OrderedDict()

    def reply(
        self, routed: Routed, permit: Permit | None = None, rate_limits: RateLimitView | None = None
    ) -> bytes:
        """The bytes of `RouteReply(answer=to_plan(routed, permit, rate_limits))`."""
        key = (routed.asker, routed.global_model_id, routed.needs)
        written = self._written.get(key)
        if written is None or not written.is_of(routed.candidates[:MAX_CANDIDATES]):
            written = self._written[key] = _Written(routed)
            if len(self._written) > REMEMBERED:
                self._written.popitem(last=False)
        return b"".join(
            (
                _BEGIN,
                str(routed.request_id).encode(),
                written.middle,
                _PERMIT if permit is None else b',"permit":' + permit.to_bytes(),
                _LIMITS if rate_limits is None else b',"rate_limits":' + rate_limits.to_bytes(),
                written.end,
            )
        )
