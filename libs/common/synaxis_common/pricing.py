"""What a request costs: exact, in USD, from prices per million tokens."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Context, Decimal
from typing import Final

from synaxis_common.contracts.catalog import Prices, Rates
from synaxis_common.contracts.routing import Needs
from synaxis_common.contracts.usage import TokenUsage

EXPECTED_OUTPUT_TOKENS: Final = 500
"""How long an answer is taken to be when ranking. `max_output_tokens` is a bound that few answers reach, so
it only makes the expectation smaller. Source: our choice, the length of a one-page answer."""

INPUT_BOUND_FACTOR: Final = 4
"""A gateway estimates a token for 4 bytes of text, and byte-level encodings never make more than one token of
a byte: this many times the estimate is an upper bound of the true number."""

OUTPUT_BOUND_TOKENS: Final = 131_072
"""The longest answer reserved for where neither the request nor the endpoint bounds it."""

_EXACT: Final = Context(prec=120)
"""Digits enough that no sum or product of token counts (16 digits) and prices is ever rounded."""

_PER_MTOK: Final = -6
_ZERO: Final = Decimal(0)


def rates_for(prices: Prices, input_tokens: int) -> Rates:
    """The rates in force for a request with `input_tokens` of context: the highest tier that it exceeds.

    What a tier does not name stays as in the base prices.
    """
    found: Rates = prices
    for tier in prices.tiers:
        if input_tokens > tier.over_tokens:
            found = tier
    return found


Part = tuple[str, str, Decimal]
"""A kind of token's rate, the rate to use where it has none of its own, and how many tokens."""


def parts_of(usage: TokenUsage) -> tuple[Part, ...]:
    """`usage` taken apart into what is priced separately; to be reused when many prices are compared."""
    special_input = usage.cache_read + usage.cache_write + usage.input_audio
    special_output = usage.reasoning + usage.output_audio
    return tuple(
        (name, fallback, Decimal(tokens))
        for name, fallback, tokens in (
            ("input", "input", max(0, usage.input - special_input)),
            ("cache_read", "input", usage.cache_read),
            ("cache_write", "input", usage.cache_write),
            ("input_audio", "input", usage.input_audio),
            ("output", "output", max(0, usage.output - special_output)),
            ("reasoning", "output", usage.reasoning),
            ("output_audio", "output", usage.output_audio),
        )
        if tokens
    )


def cost_of_parts(prices: Prices, parts: tuple[Part, ...], input_tokens: int) -> Decimal | None:
    """As `cost`, for a usage that has been taken apart; `input_tokens` chooses the tier."""
    rates = rates_for(prices, input_tokens) if prices.tiers else prices
    per_mtok = _ZERO
    for name, fallback, tokens in parts:
        rate = getattr(rates, name)
        if rate is None and (rates is not prices or fallback is not name):
            rate = _other_rate(prices, rates, name, fallback)
        if rate is None:
            return None
        per_mtok = _EXACT.fma(rate, tokens, per_mtok)
    amount = _EXACT.scaleb(per_mtok, _PER_MTOK)
    return amount if prices.per_request is None else _EXACT.add(amount, prices.per_request)


def _other_rate(prices: Prices, rates: Rates, name: str, fallback: str) -> Decimal | None:
    """What counts where a tier or a kind of token has no rate of its own."""
    for group, wanted in ((prices, name), (rates, fallback), (prices, fallback)):
        rate: Decimal | None = getattr(group, wanted)
        if rate is not None:
            return rate
    return None


def cost(prices: Prices, usage: TokenUsage) -> Decimal | None:
    """What one request with `usage` costs in USD, to the last digit. None: a price it needs is unknown.

    Cached, audio and reasoning tokens are parts of the totals and fall back on the plain price where they
    have none of their own. The tier is chosen by all input tokens and counts for every token.
    """
    return cost_of_parts(prices, parts_of(usage), usage.input)


def total(costs: Iterable[Decimal]) -> Decimal:
    """The exact sum of `costs`."""
    found = _ZERO
    for amount in costs:
        found = _EXACT.add(found, amount)
    return found


def expected_output_tokens(needs: Needs) -> int:
    """How long the answer is taken to be."""
    if needs.operation == "embeddings":
        return 0
    if needs.max_output_tokens is None:
        return EXPECTED_OUTPUT_TOKENS
    return min(needs.max_output_tokens, EXPECTED_OUTPUT_TOKENS)


def expected_usage(needs: Needs, *, cached_tokens: int = 0) -> TokenUsage:
    """What a request is taken to use, `cached_tokens` of its input being in the provider's cache."""
    return TokenUsage(
        input=needs.input_tokens,
        output=expected_output_tokens(needs),
        cache_read=min(cached_tokens, needs.input_tokens),
    )


def expected_cost(prices: Prices, needs: Needs, *, cached_tokens: int = 0) -> Decimal | None:
    """The expected cost of a request in USD; None where a price it needs is unknown."""
    return cost(prices, expected_usage(needs, cached_tokens=cached_tokens))


def booked_tokens(needs: Needs) -> int:
    """What a request counts for against a limit on tokens a minute, before its true number is known."""
    return needs.input_tokens + (
        expected_output_tokens(needs) if needs.max_output_tokens is None else needs.max_output_tokens
    )


def _dearest(rates: Iterable[Rates], names: tuple[str, ...]) -> Decimal | None:
    return max(
        (rate for group in rates for name in names if (rate := getattr(group, name)) is not None),
        default=None,
    )


def worst_case_cost(
    prices: Prices, needs: Needs, *, context_window: int | None, max_output: int | None
) -> Decimal | None:
    """The most that one attempt may cost in USD: what is reserved of a budget. None: no telling.

    Every input token at the dearest input price of any tier within reach, every output token at the dearest
    output price; the input as large as the estimate allows for, the answer as long as it may become.
    """
    input_tokens = needs.input_tokens * INPUT_BOUND_FACTOR
    if context_window is not None:
        input_tokens = max(needs.input_tokens, min(input_tokens, context_window))
    bounds = [bound for bound in (needs.max_output_tokens, max_output, context_window) if bound is not None]
    output_tokens = min(bounds, default=OUTPUT_BOUND_TOKENS)
    if needs.operation == "embeddings":
        output_tokens = 0
    reachable = (prices, *(tier for tier in prices.tiers if input_tokens > tier.over_tokens))
    audio = needs.audio
    input_rate = _dearest(reachable, ("input", "cache_write") + (("input_audio",) if audio else ()))
    output_rate = _dearest(reachable, ("output", "reasoning") + (("output_audio",) if audio else ()))
    found = prices.per_request or _ZERO
    for rate, tokens in ((input_rate, input_tokens), (output_rate, output_tokens)):
        if tokens and rate is None:
            return None
        if tokens and rate is not None:
            found = _EXACT.add(found, _EXACT.scaleb(_EXACT.multiply(rate, Decimal(tokens)), _PER_MTOK))
    return found
