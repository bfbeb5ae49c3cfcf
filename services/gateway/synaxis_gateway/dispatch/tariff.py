"""What an answer cost, as its header says it: exact, and for the plain case without a decimal number.

`pricing.cost` is the rule. Where only plain input and output tokens were used and no tier applies, it is a
sum of two products of whole numbers, which this module makes and writes; a test holds it to the rule.
"""

from __future__ import annotations

from decimal import Decimal

from synaxis_common.contracts.catalog import Prices
from synaxis_common.money import plain
from synaxis_common.pricing import cost
from synaxis_gateway.wire.usage import UsageReading

_PER_MTOK = 6
"""Prices are for 10^6 tokens."""


class Tariff:
    """The prices of one candidate."""

    __slots__ = ("_input", "_output", "_places", "_prices")

    def __init__(self, prices: Prices) -> None:
        self._prices = prices
        self._places = 0
        self._input: int | None = None
        self._output: int | None = None
        if prices.input is None or prices.output is None or prices.tiers or prices.per_request is not None:
            return
        places = max(_places(prices.input), _places(prices.output))
        self._input = int(prices.input.scaleb(places))
        self._output = int(prices.output.scaleb(places))
        self._places = places + _PER_MTOK

    def cost(self, reading: UsageReading) -> str | None:
        """USD, every digit; None: a price that is needed is unknown."""
        if (
            self._input is None
            or self._output is None
            or reading.cache_read
            or reading.cache_write
            or reading.reasoning
            or reading.input_audio
            or reading.output_audio
        ):
            amount = cost(self._prices, reading.usage)
            return None if amount is None else plain(amount)
        units = reading.input * self._input + reading.output * self._output
        places = self._places
        digits = f"{units:0{places + 1}d}"
        return f"{digits[:-places]}.{digits[-places:]}"


def _places(price: Decimal) -> int:
    """Digits behind the point."""
    exponent = price.as_tuple().exponent
    return max(-exponent, 0) if isinstance(exponent, int) else 0
