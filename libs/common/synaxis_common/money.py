"""Exact money: prices are USD per million tokens, amounts are USD, both `Decimal`."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

from pydantic import Field, PlainSerializer

TOKENS_PER_PRICE_UNIT = Decimal(1_000_000)
"""Every price in models.dev, and so here, is for this many tokens."""

MAX_USD = Decimal(10) ** 12
"""An amount or price from here on is an error, whoever says it; NUMERIC columns check the same bound."""


def plain(amount: Decimal) -> str:
    """Write `amount` without an exponent, every digit kept: `Decimal("1E-7")` is `0.0000001`."""
    return format(amount, "f")


Usd = Annotated[
    Decimal,
    Field(ge=0, lt=MAX_USD, allow_inf_nan=False),
    PlainSerializer(plain, return_type=str, when_used="json"),
]
"""A non-negative finite amount or price; a decimal string in JSON."""
