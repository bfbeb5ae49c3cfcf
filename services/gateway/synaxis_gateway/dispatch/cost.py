"""What a request cost: exact arithmetic on a provider's prices, the same as the ledger's."""

from __future__ import annotations

from decimal import Context, Decimal

from synaxis_common.contracts.catalog import Prices, Rates
from synaxis_common.contracts.usage import TokenUsage

_EXACT = Context(prec=120)
"""Digits enough that no sum or product of token counts and prices is ever rounded."""
_PER_MTOK = -6
"""Prices are for a million tokens."""


def cost_usd(usage: TokenUsage, prices: Prices) -> Decimal | None:
    """USD for `usage`, to the last digit; None where a price that is needed is unknown, which is not zero.

    The tier is chosen by all input tokens; what it does not name stays as in the base prices. Cached,
    audio and reasoning tokens fall back on the plain price where they have none of their own.
    """
    tier: Rates = prices
    for each in prices.tiers:
        if usage.input > each.over_tokens:
            tier = each
    plain_input = usage.input - usage.cache_read - usage.cache_write - usage.input_audio
    plain_output = usage.output - usage.reasoning - usage.output_audio
    input_rate = _first(tier.input, prices.input)
    output_rate = _first(tier.output, prices.output)
    parts = (
        (plain_input, input_rate),
        (usage.cache_read, _first(tier.cache_read, prices.cache_read, input_rate)),
        (usage.cache_write, _first(tier.cache_write, prices.cache_write, input_rate)),
        (usage.input_audio, _first(tier.input_audio, prices.input_audio, input_rate)),
        (plain_output, output_rate),
        (usage.reasoning, _first(tier.reasoning, prices.reasoning, output_rate)),
        (usage.output_audio, _first(tier.output_audio, prices.output_audio, output_rate)),
    )
    per_mtok = Decimal(0)
    for tokens, rate in parts:
        if tokens <= 0:
            continue
        if rate is None:
            return None
        per_mtok = _EXACT.fma(rate, Decimal(tokens), per_mtok)
    return _EXACT.add(_EXACT.scaleb(per_mtok, _PER_MTOK), prices.per_request or Decimal(0))


def _first(*rates: Decimal | None) -> Decimal | None:
    return next((rate for rate in rates if rate is not None), None)
