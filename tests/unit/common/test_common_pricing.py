"""What a request costs, to the last digit."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.registry.core_world import prices, usd

from synaxis_common.contracts.catalog import Prices, PriceTier
from synaxis_common.contracts.routing import Needs
from synaxis_common.contracts.usage import TokenUsage
from synaxis_common.pricing import (
    EXPECTED_OUTPUT_TOKENS,
    booked_tokens,
    cost,
    expected_cost,
    total,
    worst_case_cost,
)

rates = st.decimals(min_value=0, max_value=10_000, places=12, allow_nan=False, allow_infinity=False)
counts = st.integers(min_value=0, max_value=2**50)


@pytest.mark.parametrize(
    ("given_prices", "usage", "expected"),
    [
        (prices("3", "15"), TokenUsage(input=1_000_000, output=1_000_000), "18"),
        (prices("0.1", "0.2"), TokenUsage(input=3, output=0), "0.0000003"),
        (prices("3", "15", cache_read=usd("0.3")), TokenUsage(input=1000, cache_read=900), "0.00057"),
        (prices("3", "15"), TokenUsage(input=1000, cache_read=900), "0.003"),
        (prices("3", "15", cache_write=usd("3.75")), TokenUsage(input=100, cache_write=100), "0.000375"),
        (prices("1", "2", reasoning=usd(8)), TokenUsage(output=100, reasoning=75), "0.00065"),
        (prices("1", "2"), TokenUsage(output=100, reasoning=75), "0.0002"),
        (prices("1", "2", input_audio=usd(40)), TokenUsage(input=10, input_audio=5), "0.000205"),
        (prices("1", "2", per_request=usd("0.01")), TokenUsage(input=10), "0.01001"),
        (prices("0", "0"), TokenUsage(input=10, output=10), "0"),
    ],
)
def test_cost_of_a_usage(given_prices: Prices, usage: TokenUsage, expected: str) -> None:
    assert cost(given_prices, usage) == Decimal(expected)


def test_a_missing_price_is_unknown_and_not_zero() -> None:
    assert cost(prices("1"), TokenUsage(input=10, output=1)) is None
    assert cost(prices(None, "1"), TokenUsage(input=1)) is None


def test_a_price_that_is_not_needed_may_be_missing() -> None:
    assert cost(prices("1"), TokenUsage(input=10)) == Decimal("0.00001")


def test_the_tier_is_chosen_by_all_input_and_counts_for_every_token() -> None:
    tiered = prices(
        "1",
        "2",
        tiers=(PriceTier(over_tokens=200_000, input=usd(2)), PriceTier(over_tokens=500_000, input=usd(5))),
    )
    assert cost(tiered, TokenUsage(input=200_000, output=100)) == Decimal("0.2002")
    assert cost(tiered, TokenUsage(input=200_001, output=100)) == Decimal("0.400202"), (
        "its output price stays"
    )
    assert cost(tiered, TokenUsage(input=600_000)) == Decimal(3)


@given(rates, rates, counts, counts)
def test_no_digit_is_ever_rounded(input_rate: Decimal, output_rate: Decimal, input: int, output: int) -> None:
    found = cost(Prices(input=input_rate, output=output_rate), TokenUsage(input=input, output=output))
    assert found is not None
    exact = (Fraction(input_rate) * input + Fraction(output_rate) * output) / 1_000_000
    assert Fraction(found) == exact


@given(rates, rates, st.lists(st.tuples(counts, counts), max_size=6))
def test_costs_add_up_exactly(
    input_rate: Decimal, output_rate: Decimal, parts: list[tuple[int, int]]
) -> None:
    given_prices = Prices(input=input_rate, output=output_rate)
    single = [cost(given_prices, TokenUsage(input=i, output=o)) for i, o in parts]
    whole = cost(given_prices, TokenUsage(input=sum(i for i, _ in parts), output=sum(o for _, o in parts)))
    assert total(amount for amount in single if amount is not None) == whole


@pytest.mark.parametrize(
    ("needs", "expected"),
    [
        (Needs(input_tokens=1_000_000), 1 + Decimal(2) * EXPECTED_OUTPUT_TOKENS / 1_000_000),
        (Needs(input_tokens=0, max_output_tokens=10), Decimal("0.00002")),
        (Needs(input_tokens=0, max_output_tokens=100_000), Decimal(2) * EXPECTED_OUTPUT_TOKENS / 1_000_000),
        (Needs(operation="embeddings", input_tokens=1_000_000), Decimal(1)),
    ],
)
def test_expected_cost(needs: Needs, expected: Decimal) -> None:
    assert expected_cost(prices("1", "2"), needs) == expected


def test_expected_cost_with_a_cached_prefix() -> None:
    cached = prices("1", "0", cache_read=usd("0.1"))
    assert expected_cost(cached, Needs(input_tokens=1000), cached_tokens=1000) == Decimal("0.0001")


def test_booked_tokens_take_the_request_by_its_word() -> None:
    assert booked_tokens(Needs(input_tokens=10, max_output_tokens=9000)) == 9010
    assert booked_tokens(Needs(input_tokens=10)) == 10 + EXPECTED_OUTPUT_TOKENS


@given(
    rates,
    rates,
    st.one_of(st.none(), rates),
    st.integers(0, 100_000),
    st.integers(0, 4000),
    st.data(),
)
def test_the_worst_case_covers_every_usage_within_its_bounds(
    input_rate: Decimal,
    output_rate: Decimal,
    cache_write: Decimal | None,
    estimate: int,
    max_output: int,
    data: st.DataObject,
) -> None:
    tiers = (PriceTier(over_tokens=50_000, input=output_rate, output=input_rate),)
    given_prices = Prices(input=input_rate, output=output_rate, cache_write=cache_write, tiers=tiers)
    needs = Needs(input_tokens=estimate, max_output_tokens=max_output)
    worst = worst_case_cost(given_prices, needs, context_window=None, max_output=None)
    used_input = data.draw(st.integers(0, estimate * 4))
    written = data.draw(st.integers(0, used_input))
    usage = TokenUsage(input=used_input, cache_write=written, output=data.draw(st.integers(0, max_output)))
    real = cost(given_prices, usage)
    assert worst is not None
    assert real is not None
    assert real <= worst


def test_the_worst_case_is_bounded_by_the_context_window() -> None:
    found = worst_case_cost(prices("1", "1"), Needs(input_tokens=1000), context_window=2000, max_output=500)
    assert found == Decimal("0.0025")


def test_without_a_price_there_is_no_worst_case() -> None:
    assert worst_case_cost(prices("1"), Needs(), context_window=None, max_output=10) is None


def test_what_a_tier_does_not_name_stays_as_in_the_base_prices() -> None:
    tiered = Prices(
        input=usd(3), output=usd(15), cache_read=usd("0.3"), tiers=(PriceTier(over_tokens=100, input=usd(6)),)
    )
    used = TokenUsage(input=200, output=10, cache_read=50)
    assert cost(tiered, used) == (150 * 6 + 50 * usd("0.3") + 150) / Decimal(10**6)
