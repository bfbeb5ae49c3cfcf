"""Failover must not become a storm: extra attempts are at most a share of the first ones."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

SHARE = 0.2
"""Extra attempts a first attempt earns; Envoy's and Linkerd's budget of 20 %."""
CAP = 10.0
"""Extra attempts that can be saved up, so that a quiet gateway survives a provider's death."""
CONCURRENT_FLOOR = 3
"""Extra attempts that may always be under way at once; Envoy's floor."""
MAX_MODELS = 10_000


@dataclass(slots=True)
class _Account:
    tokens: float = CAP
    under_way: int = 0


class RetryBudget:
    """One account a model. Not shared between gateways: each keeps its own share."""

    def __init__(self) -> None:
        self._accounts: OrderedDict[str, _Account] = OrderedDict()

    def first_attempt(self, model: str) -> None:
        """A request for `model` makes its first attempt."""
        account = self._account(model)
        if account.tokens < CAP:
            account.tokens = min(CAP, account.tokens + SHARE)

    def begin_extra(self, model: str) -> bool:
        """Whether one more attempt may be made; if so, `end_extra` must be called when it is over."""
        account = self._account(model)
        if account.tokens >= 1:
            account.tokens -= 1
        elif account.under_way >= CONCURRENT_FLOOR:
            return False
        account.under_way += 1
        return True

    def end_extra(self, model: str) -> None:
        """An extra attempt is over."""
        account = self._account(model)
        account.under_way = max(0, account.under_way - 1)

    def _account(self, model: str) -> _Account:
        account = self._accounts.get(model)
        if account is None:
            account = self._accounts[model] = _Account()
            if len(self._accounts) > MAX_MODELS:
                self._accounts.popitem(last=False)
        else:
            self._accounts.move_to_end(model)
        return account
