"""What a request costs, to the last digit."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.registry.core_world import prices, usd

from synaxis_common.contracts.catalog import Prices, PriceTier
from synaxis_common.contracts.routing import Needs
from synaxis_common.contracts.usage import TokenUsage
from synaxis_common.pricing import (
    EXPECTED_OUTPUT_TOKENS,
    FILE_BOUND_TOKENS,
    IMAGE_BOUND_TOKENS,
    OUTPUT_BOUND_TOKENS,
    PROMPT_OVERHEAD_TOKENS,
    TOOLS_OVERHEAD_TOKENS,
    booked_tokens,
    cost,
    expected_cost,
    input_bound,
    output_bound,
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


@pytest.mark.parametrize(
    ("needs", "expected"),
    [
        (Needs(input_tokens=10, max_output_tokens=9000), 9010),
        (Needs(input_tokens=10), 10 + EXPECTED_OUTPUT_TOKENS),
        (Needs(input_tokens=10, n=3), 10 + 3 * EXPECTED_OUTPUT_TOKENS),
        (Needs(input_tokens=10, max_output_tokens=900, n=3), 10 + 3 * 900),
        (Needs(operation="completions", input_tokens=10, max_output_tokens=9, n=3, prompts=5), 10 + 135),
        (Needs(operation="embeddings", input_tokens=10, max_output_tokens=9, prompts=5), 10),
    ],
)
def test_booked_tokens_take_the_request_by_its_word_for_each_answer(needs: Needs, expected: int) -> None:
    assert booked_tokens(needs) == expected


def test_every_answer_is_expected_and_not_only_the_first() -> None:
    one, three = Needs(max_output_tokens=40), Needs(max_output_tokens=40, n=3)
    assert expected_cost(prices("1", "2"), three) == 3 * (expected_cost(prices("1", "2"), one) or 0)


some_rate = st.none() | rates
kinds = ("cache_read", "cache_write", "reasoning", "input_audio", "output_audio")
partial_rates = dict.fromkeys(kinds, some_rate)


@st.composite
def any_prices(draw: st.DrawFn) -> Prices:
    """Prices with tiers, cheaper or dearer, that name some of the rates."""
    sizes = sorted(draw(st.sets(st.integers(0, 400_000), max_size=3)))
    tier_rates = st.fixed_dictionaries({"input": some_rate, "output": some_rate, **partial_rates})
    return Prices(
        input=draw(rates),
        output=draw(rates),
        per_request=draw(some_rate),
        tiers=tuple(PriceTier(over_tokens=size, **draw(tier_rates)) for size in sizes),
        **draw(st.fixed_dictionaries(partial_rates)),
    )


@st.composite
def any_needs(draw: st.DrawFn) -> Needs:
    return Needs(
        operation=draw(st.sampled_from(["chat", "completions", "embeddings"])),
        tools=draw(st.booleans()),
        input_tokens=draw(st.integers(0, 100_000)),
        max_output_tokens=draw(st.none() | st.integers(1, 4000)),
        n=draw(st.integers(1, 8)),
        prompts=draw(st.integers(1, 5)),
        images=draw(st.integers(0, 3)),
        audio_parts=draw(st.integers(0, 2)),
        files=draw(st.integers(0, 2)),
    )


@given(
    any_prices(),
    any_needs(),
    st.none() | st.integers(1, 1_000_000),
    st.none() | st.integers(1, 100_000),
    st.data(),
)
def test_the_worst_case_covers_every_usage_within_its_bounds(
    given_prices: Prices,
    needs: Needs,
    context_window: int | None,
    max_output: int | None,
    data: st.DataObject,
) -> None:
    def part(whole: int) -> int:
        return data.draw(st.sampled_from([0, whole]) | st.integers(0, whole))

    used_input = part(input_bound(needs, context_window))
    used_output = part(output_bound(needs, context_window, max_output))
    read = part(used_input)
    written = part(used_input - read)
    reasoning = part(used_output)
    may_be_heard = bool(needs.audio_parts or needs.files)
    usage = TokenUsage(
        input=used_input,
        output=used_output,
        cache_read=read,
        cache_write=written,
        input_audio=part(used_input - read - written) if may_be_heard else 0,
        reasoning=reasoning,
        output_audio=part(used_output - reasoning),
    )
    real = cost(given_prices, usage)
    worst = worst_case_cost(given_prices, needs, context_window=context_window, max_output=max_output)
    assert worst is not None
    assert real is not None
    assert real <= worst


INPUT_KINDS = ("input", "cache_read", "cache_write", "input_audio")
OUTPUT_KINDS = ("output", "reasoning", "output_audio")


@pytest.mark.parametrize("dear_input", INPUT_KINDS)
@pytest.mark.parametrize("dear_output", OUTPUT_KINDS)
@pytest.mark.parametrize("tier", [None, 0, 10_000])
def test_the_worst_case_is_just_what_the_dearest_usage_costs(
    dear_input: str, dear_output: str, tier: int | None
) -> None:
    cheap = Prices(input=usd(1), output=usd(1), per_request=usd("0.25"))
    dear: dict[str, Any] = {dear_input: usd(100), dear_output: usd(1000)}
    given_prices = (
        cheap.model_copy(update=dear)
        if tier is None
        else cheap.model_copy(update={"tiers": (PriceTier(over_tokens=tier, **dear),)})
    )
    needs = Needs(input_tokens=4000, audio_parts=1, max_output_tokens=70, n=3)
    bounds: dict[str, Any] = {"context_window": 20_000, "max_output": 500}
    usage = TokenUsage(input=20_000, output=210).model_copy(
        update={
            kind: count
            for kind, count in ((dear_input, 20_000), (dear_output, 210))
            if kind not in ("input", "output")
        }
    )
    assert worst_case_cost(given_prices, needs, **bounds) == cost(given_prices, usage)


@given(any_prices(), any_needs(), st.none() | st.integers(1, 1_000_000))
def test_the_worst_case_is_not_below_what_is_expected(
    given_prices: Prices, needs: Needs, context_window: int | None
) -> None:
    worst = worst_case_cost(given_prices, needs, context_window=context_window, max_output=None)
    usage = TokenUsage(input=needs.input_tokens)
    least = cost(given_prices, usage)
    assert worst is not None
    assert least is not None
    assert least <= worst


MANY_TOKENS = 10**9


@pytest.mark.parametrize(
    ("needs", "context_window", "tokens"),
    [
        (Needs(input_tokens=1000), None, 4000 + PROMPT_OVERHEAD_TOKENS),
        (Needs(input_tokens=1000), 2000, 2000),
        (Needs(input_tokens=1000), 500, 1000),
        (Needs(input_tokens=1000, tools=True), None, 4000 + PROMPT_OVERHEAD_TOKENS + TOOLS_OVERHEAD_TOKENS),
        (Needs(images=3), MANY_TOKENS, 3 * IMAGE_BOUND_TOKENS + PROMPT_OVERHEAD_TOKENS),
        (Needs(vision=True), MANY_TOKENS, IMAGE_BOUND_TOKENS + PROMPT_OVERHEAD_TOKENS),
        (Needs(audio_parts=1, files=1), MANY_TOKENS, 2 * FILE_BOUND_TOKENS + PROMPT_OVERHEAD_TOKENS),
        (Needs(audio=True, pdf=True), None, 2 * FILE_BOUND_TOKENS + PROMPT_OVERHEAD_TOKENS),
        (Needs(files=1), 128_000, 128_000),
        (Needs(operation="embeddings", input_tokens=10_000, prompts=10), 512, 10_000),
        (Needs(operation="embeddings", input_tokens=10_000, prompts=10), 2048, 20_480),
    ],
)
def test_no_more_input_is_reserved_for_than_may_be_billed(
    needs: Needs, context_window: int | None, tokens: int
) -> None:
    assert input_bound(needs, context_window) == tokens


@pytest.mark.parametrize(
    ("needs", "context_window", "max_output", "tokens"),
    [
        (Needs(), None, None, OUTPUT_BOUND_TOKENS),
        (Needs(), 8192, None, 8192),
        (Needs(), 8192, 4096, 4096),
        (Needs(max_output_tokens=100), 8192, 4096, 100),
        (Needs(max_output_tokens=100, n=4), 8192, 4096, 400),
        (Needs(operation="completions", max_output_tokens=100, n=4, prompts=3), 8192, 4096, 1200),
        (Needs(operation="embeddings", prompts=3), 8192, 4096, 0),
    ],
)
def test_no_more_output_is_reserved_for_than_may_be_billed(
    needs: Needs, context_window: int | None, max_output: int | None, tokens: int
) -> None:
    assert output_bound(needs, context_window, max_output) == tokens


def test_the_worst_case_takes_the_dearest_rate_within_reach() -> None:
    tiered = prices(
        "1",
        "2",
        cache_write=usd("1.25"),
        reasoning=usd(8),
        per_request=usd("0.5"),
        tiers=(
            PriceTier(over_tokens=1000, cache_write=usd("2.5")),
            PriceTier(over_tokens=5000, input=usd(100), output=usd(100)),
        ),
    )
    found = worst_case_cost(tiered, Needs(input_tokens=900), context_window=4000, max_output=500)
    assert found == usd("0.5") + (3856 * usd("2.5") + 500 * 8) / 10**6


def test_text_costs_no_more_because_recordings_would() -> None:
    heard = prices("1", "2", input_audio=usd(40))
    text = worst_case_cost(heard, Needs(input_tokens=1000), context_window=1000, max_output=1)
    speech = worst_case_cost(heard, Needs(audio_parts=1), context_window=1000, max_output=1)
    assert text == usd("0.001002")
    assert speech == usd("0.040002")


def test_without_a_price_there_is_no_worst_case() -> None:
    assert worst_case_cost(prices("1"), Needs(), context_window=None, max_output=10) is None
    only_cached = prices(None, "1", cache_read=usd(1))
    assert worst_case_cost(only_cached, Needs(), context_window=None, max_output=10) is None
    embeds = Needs(operation="embeddings")
    assert worst_case_cost(prices("1"), embeds, context_window=1000, max_output=None) == usd("0.000256")


def test_what_a_tier_does_not_name_stays_as_in_the_base_prices() -> None:
    tiered = Prices(
        input=usd(3), output=usd(15), cache_read=usd("0.3"), tiers=(PriceTier(over_tokens=100, input=usd(6)),)
    )
    used = TokenUsage(input=200, output=10, cache_read=50)
    assert cost(tiered, used) == (150 * 6 + 50 * usd("0.3") + 150) / Decimal(10**6)
