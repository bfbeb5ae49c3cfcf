"""Routing, step 3: in which order to try those that can serve a request."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from decimal import Decimal
from enum import IntEnum
from math import inf
from typing import Final, NamedTuple

from synaxis_common.contracts.routing import Needs, Preferences
from synaxis_common.pricing import cost_of_parts, expected_usage, parts_of
from synaxis_registry.core.catalog import Endpoint, EndpointHealth, EndpointKey, Provider
from synaxis_registry.core.filter import Eligible

EQUALLY_DEAR: Final = Decimal("1.01")
"""Whoever costs at most this many times the cheapest of a group is as good as the cheapest (DESIGN)."""


_NO_COST: Final = Decimal(0)


class CostKnowledge(IntEnum):
    """How much is known of a cost. What is known goes first."""

    KNOWN = 0
    FLAT_RATE = 1
    """Zero on a subscription or trial: no comparison with what is paid by the token."""
    UNKNOWN = 2


class Ranked(NamedTuple):
    """An endpoint in its place, with what put it there."""

    endpoint: Endpoint
    provider: Provider
    expected_cost_usd: Decimal | None
    knowledge: CostKnowledge


def rank(eligible: Collection[Eligible], needs: Needs, preferences: Preferences) -> tuple[Ranked, ...]:
    """The order in which to try `eligible`. It is total, and the same for any order they come in.

    Expected cost first. Who is within 1 % of the cheapest of a group shares its place, and the group is
    ordered by tier, p95 time to first token, error rate, cost and key. Flat rates come after known costs,
    unknown costs last. `sort` by latency or throughput goes before all that; `order` before everything.
    """
    if not eligible:
        return ()
    by_cost = _by_cost(eligible, needs)
    if preferences.sort == "latency":
        by_cost.sort(key=lambda ranked: _ttft(ranked.endpoint.health))
    elif preferences.sort == "throughput":
        by_cost.sort(key=lambda ranked: -_throughput(ranked.endpoint.health))
    if preferences.order:
        places: dict[str, int] = {}
        for place, name in enumerate(preferences.order):
            places.setdefault(name.casefold(), place)
        last = len(places) + len(preferences.order)
        by_cost.sort(key=lambda ranked: places.get(ranked.endpoint.provider_id.casefold(), last))
    return tuple(by_cost)


def _by_cost(eligible: Iterable[Eligible], needs: Needs) -> list[Ranked]:
    parts = parts_of(expected_usage(needs))
    keyed: list[tuple[int, Decimal, EndpointKey, Ranked]] = []
    for one in eligible:
        endpoint = one.endpoint
        expected = cost_of_parts(endpoint.prices, parts, needs.input_tokens)
        knowledge = CostKnowledge.KNOWN
        if expected is None:
            knowledge = CostKnowledge.UNKNOWN
        elif endpoint.is_flat_rate:
            knowledge = CostKnowledge.FLAT_RATE
        ranked = Ranked(endpoint, one.provider, expected, knowledge)
        keyed.append((knowledge, _NO_COST if expected is None else expected, endpoint.key, ranked))
    keyed.sort()  # keys are unique, so that what they belong to is never compared
    cheapest_first = [ranked for *_, ranked in keyed]
    start = 0
    while start < len(cheapest_first):
        end = _end_of_group(cheapest_first, start)
        if end - start > 1:
            cheapest_first[start:end] = sorted(cheapest_first[start:end], key=_best_of_equals_first)
        start = end
    return cheapest_first


def _end_of_group(ranked: list[Ranked], start: int) -> int:
    """Where the group ends that `ranked[start]`, its cheapest, opens.

    Everyone is compared with the cheapest, not with a neighbour: a chain of small steps would otherwise
    make the dear ones equal to the cheap, and the order intransitive.
    """
    first = ranked[start]
    bound = None if first.expected_cost_usd is None else first.expected_cost_usd * EQUALLY_DEAR
    end = start + 1
    while end < len(ranked) and ranked[end].knowledge == first.knowledge:
        expected = ranked[end].expected_cost_usd
        if bound is not None and expected is not None and expected > bound:
            break
        end += 1
    return end


def _best_of_equals_first(ranked: Ranked) -> tuple[int, float, float, Decimal, EndpointKey]:
    endpoint = ranked.endpoint
    expected = _NO_COST if ranked.expected_cost_usd is None else ranked.expected_cost_usd
    health = endpoint.health
    if not health.is_measured:
        return (ranked.provider.tier, inf, 0.0, expected, endpoint.key)
    return (ranked.provider.tier, _ttft(health), health.error_rate or 0.0, expected, endpoint.key)


def _ttft(health: EndpointHealth) -> float:
    if not health.is_measured or health.ttft_p95_s is None:
        return inf
    return health.ttft_p95_s


def _throughput(health: EndpointHealth) -> float:
    if not health.is_measured or health.tokens_per_s is None:
        return 0.0
    return health.tokens_per_s
