"""What an answer cost is said as the rule of prices has it."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from synaxis_common.contracts.catalog import Prices, PriceTier
from synaxis_common.pricing import cost
from synaxis_gateway.dispatch.tariff import Tariff
from synaxis_gateway.wire.usage import UsageReading

prices = st.decimals(min_value=0, max_value=1_000, places=6) | st.integers(0, 1_000).map(Decimal)
tokens = st.integers(0, 20_000_000)


@given(prices, prices, tokens, tokens)
def test_plain_tokens_cost_what_the_rule_says(
    of_input: Decimal, of_output: Decimal, used: int, made: int
) -> None:
    listed, reading = Prices(input=of_input, output=of_output), UsageReading(used, made)
    said = Tariff(listed).cost(reading)
    assert said is not None
    assert "E" not in said
    assert Decimal(said) == cost(listed, reading.usage)


@given(tokens, st.integers(0, 1_000))
def test_tiers_cached_tokens_and_prices_by_request_follow_the_rule(used: int, cached: int) -> None:
    tier = PriceTier(over_tokens=1_000, input=Decimal(2), output=Decimal(8))
    listed = Prices(input=Decimal(1), output=Decimal(4), cache_read=Decimal("0.1"), tiers=(tier,))
    reading = UsageReading(used + cached, 7, cache_read=cached)
    for one in (listed, listed.model_copy(update={"tiers": (), "per_request": Decimal("0.005")})):
        assert Decimal(Tariff(one).cost(reading) or "-1") == cost(one, reading.usage)


def test_an_unknown_price_is_no_cost() -> None:
    assert Tariff(Prices(input=Decimal(1))).cost(UsageReading(1, 1)) is None
