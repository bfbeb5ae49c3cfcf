"""Who is there: the providers with their prices and manners, the tenants with their limits and wishes."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

PROVIDER_KEYS = {
    "alpha": ("CHAOS_ALPHA_KEY", "prov-alpha-5d1c0c9e3b7f4a55"),
    "beta": ("CHAOS_BETA_KEY", "prov-beta-90f2a7de61c84b13"),
}
"""By provider: the variable that holds its key, and the key, which must be found nowhere afterwards."""

MODELS = ("talker-9", "thinker-9")


@dataclass(frozen=True)
class Price:
    """USD for a million tokens."""

    input: Decimal
    output: Decimal

    def cost(self, prompt: int, completion: int) -> Decimal:
        """What an answer costs, to the last digit."""
        return (self.input * prompt + self.output * completion) / 1_000_000


PRICES = {
    ("alpha", "talker-9"): Price(Decimal("1.10"), Decimal("4.30")),
    ("beta", "talker-9"): Price(Decimal("1.57"), Decimal("5.21")),
    ("alpha", "thinker-9"): Price(Decimal("2.03"), Decimal("7.77")),
    ("beta", "thinker-9"): Price(Decimal("2.50"), Decimal("9.99")),
}

PROVIDER_LIMITS = {("alpha", "thinker-9"): 60}
"""Requests a minute that a provider takes of all tenants together; what is more goes to the other one."""


@dataclass(frozen=True)
class Manners:
    """How often a provider misbehaves, as shares of its requests."""

    fails: float = 0.0
    """500, which is not billed."""
    refuses: float = 0.0
    """429, which is not billed."""
    drops: float = 0.0
    """Closes the connection without a byte."""
    cuts: float = 0.0
    """Streams: closes in the midst of the answer; what was said is billed."""
    keeps_usage: float = 0.0
    """Does not say what was used."""
    slow: float = 0.0
    """Takes seconds, so that something is under way whenever a process dies."""


MANNERS = {
    "alpha": Manners(fails=0.04, refuses=0.01, drops=0.01, cuts=0.03, keeps_usage=0.08, slow=0.25),
    "beta": Manners(cuts=0.02, keeps_usage=0.05, slow=0.25),
}


@dataclass(frozen=True)
class Limit:
    """What is bounded in a scope. None: not bounded."""

    rpm: int | None = None
    tpm: int | None = None
    budget: Decimal | None = None
    concurrency: int | None = None

    def body(self) -> dict[str, Any]:
        """As the admin API takes it."""
        found = {
            "allowed_rpm": self.rpm,
            "allowed_tpm": self.tpm,
            "monthly_budget_usd": None if self.budget is None else str(self.budget),
            "allowed_concurrency": self.concurrency,
        }
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True)
class Tenant:
    """A tenant, what it may, and what it wants."""

    name: str
    per_s: float
    """Requests a second that it makes."""
    limits: dict[str, Limit] = field(default_factory=dict)
    """By model, or `*`."""
    key_limits: tuple[Limit, ...] = (Limit(),)
    """One for each of its keys."""
    models: tuple[str, ...] = MODELS[:1]
    max_tokens: int = 60
    streamed: float = 0.5
    """Share of its requests."""
    at_once: int = 40
    is_lied_to: bool = False
    """The provider ignores `max_tokens` and bills three times as much."""
    is_counted_in_tokens: bool = False
    """The provider bills no more tokens than the request was taken to need: a limit on tokens a minute is
    kept for these."""
    by_official_client: bool = False


def tenants(seconds: float) -> tuple[Tenant, ...]:
    """Everybody wants more than they may. Budgets are made to be spent in the midst of `seconds`."""
    minutes = Decimal(str(round(seconds / 60, 2)))
    return (
        Tenant("free", 3.0, models=MODELS, by_official_client=True),
        Tenant("rpm-model", 4.0, {"talker-9": Limit(rpm=60)}),
        Tenant("rpm-all", 5.0, {"*": Limit(rpm=90), "thinker-9": Limit(rpm=45)}, models=MODELS),
        Tenant("tpm", 3.0, {"*": Limit(tpm=5_000)}, is_counted_in_tokens=True),
        Tenant("budget", 4.0, {"*": Limit(budget=Decimal("0.02") * minutes)}),
        Tenant("keys", 4.0, key_limits=(Limit(rpm=40), Limit(rpm=30, budget=Decimal("0.006") * minutes))),
        Tenant("slots", 7.0, {"*": Limit(concurrency=4)}),
        Tenant("lied-to", 1.5, {"*": Limit(rpm=50, budget=Decimal("0.02") * minutes)}, is_lied_to=True),
    )
