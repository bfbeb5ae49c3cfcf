"""Our costs beside those of `genai-prices`, a list of prices and a calculator that others keep.

Both packages are pinned; both compute in Decimal, so equal means equal to the last digit. Prices are compared
as of the day of the models.dev snapshot; where the two lists give a model different prices, the file of
differences says so, with both costs and the reason. The arithmetic is compared apart from that, at the other
package's own prices: there no difference is allowed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import genai_prices
from genai_prices.data import providers
from genai_prices.types import ModelInfo, ModelPrice, Provider, TieredPrices

from synaxis_common.contracts.catalog import Prices, PriceTier
from synaxis_common.contracts.usage import TokenUsage
from synaxis_common.exact_json import parse
from synaxis_common.money import plain
from synaxis_common.pricing import cost
from synaxis_sync.entries import read_providers
from synaxis_sync.models_dev import snapshot

WHEN: Final = datetime(2026, 5, 21, 12, tzinfo=UTC)
"""The newest entry of the models.dev snapshot says `last_updated` 2026-05-21."""

DIFFERENCES: Final = Path(__file__).parents[2] / "data" / "genai_price_differences.json"

THEIR_PROVIDER: Final = {
    "amazon-bedrock": "aws",
    "anthropic": "anthropic",
    "azure": "azure",
    "baseten": "baseten",
    "cerebras": "cerebras",
    "cloudflare-workers-ai": "cloudflare",
    "cohere": "cohere",
    "databricks": "databricks",
    "deepseek": "deepseek",
    "fireworks-ai": "fireworks",
    "github-copilot": "github-copilot",
    "google": "google",
    "groq": "groq",
    "minimax": "minimax",
    "mistral": "mistral",
    "moonshotai": "moonshotai",
    "novita-ai": "novita",
    "openai": "openai",
    "openrouter": "openrouter",
    "ovhcloud": "ovhcloud",
    "perplexity": "perplexity",
    "togetherai": "together",
    "xai": "x-ai",
    "zai": "zai",
    "zhipuai": "zhipuai",
}
"""Every provider that both lists have, by its name in models.dev."""

THEIR_KIND: Final = {
    "input": "input_tokens",
    "output": "output_tokens",
    "cache_read": "cache_read_tokens",
    "cache_write": "cache_write_tokens",
    "reasoning": "output_reasoning_tokens",
    "input_audio": "input_audio_tokens",
    "output_audio": "output_audio_tokens",
}
THEIR_RATE: Final = {
    "input": "input_mtok",
    "output": "output_mtok",
    "cache_read": "cache_read_mtok",
    "cache_write": "cache_write_mtok",
    "reasoning": "output_reasoning_mtok",
    "input_audio": "input_audio_mtok",
    "output_audio": "output_audio_mtok",
}


class Pair(NamedTuple):
    """A usage of a model that both lists know."""

    provider: str
    model: str
    usage_name: str
    ours: Decimal | None
    theirs: Decimal


def usages(prices: Prices, theirs: ModelPrice) -> Iterator[tuple[str, TokenUsage]]:
    """What to compute a cost for: kinds of tokens that both price, or that one of them prices apart."""
    both = {
        kind
        for kind, name in THEIR_RATE.items()
        if getattr(prices, kind) is not None and getattr(theirs, name) is not None
    }
    yield "plain", TokenUsage(input=1_234, output=567)
    if "cache_read" in both:
        yield "cached", TokenUsage(input=10_003, output=501, cache_read=7_001)
    if "cache_write" in both:
        yield "cache write", TokenUsage(input=10_003, output=501, cache_write=7_001)
    if {"cache_read", "cache_write"} <= both:
        yield "both caches", TokenUsage(input=10_003, output=501, cache_read=5_003, cache_write=3_001)
    if "input_audio" in both:
        yield "audio in", TokenUsage(input=2_003, output=501, input_audio=1_001)
    if "output_audio" in both:
        yield "audio out", TokenUsage(input=2_003, output=501, output_audio=301)
    if prices.reasoning is not None or theirs.output_reasoning_mtok is not None:
        yield "reasoning", TokenUsage(input=2_003, output=501, reasoning=301)
    if any(isinstance(rate, TieredPrices) for rate in vars(theirs).values()):
        for tier in prices.tiers:
            over = tier.over_tokens + 1
            yield f"at {over - 1}", TokenUsage(input=over - 1, output=501)
            yield f"over {over - 1}", TokenUsage(input=over, output=501)
            if "cache_read" in both:
                yield f"over {over - 1}, cached", TokenUsage(input=over, output=501, cache_read=9_001)
            if "cache_write" in both:
                yield f"over {over - 1}, cache write", TokenUsage(input=over, output=501, cache_write=9_001)


def their_usage(usage: TokenUsage) -> genai_prices.Usage:
    return genai_prices.Usage(**{THEIR_KIND[kind]: count for kind, count in usage if count})


def their_model(provider: Provider, model_id: str) -> ModelInfo | None:
    """The entry of just this id; their patterns would also match names that look alike."""
    found = next((model for model in provider.models if model.id.lower() == model_id.lower()), None)
    return found if found is not None and found is provider.find_model(model_id) else None


@cache
def pairs() -> tuple[Pair, ...]:
    """Every usage of every model that both lists know."""
    by_id = {provider.id: provider for provider in providers}
    found = []
    for entry in read_providers(parse(snapshot(64 * 1024 * 1024))).providers:
        if entry.provider_id not in THEIR_PROVIDER:
            continue
        provider = by_id[THEIR_PROVIDER[entry.provider_id]]
        for model in entry.models:
            theirs = their_model(provider, model.provider_model_id)
            if theirs is None or model.prices.input is None:
                continue
            for name, usage in usages(model.prices, theirs.get_prices(WHEN)):
                price = theirs.calc_price(their_usage(usage), provider, genai_request_timestamp=WHEN)
                ours = cost(model.prices, usage)
                found.append(Pair(entry.provider_id, model.provider_model_id, name, ours, price.total_price))
    return tuple(found)


def listed() -> list[dict[str, Any]]:
    differences: list[dict[str, Any]] = json.loads(DIFFERENCES.read_text())
    return differences


def test_our_costs_are_theirs_but_for_the_differences_that_are_listed() -> None:
    found = {
        (pair.provider, pair.model, pair.usage_name): (
            None if pair.ours is None else plain(pair.ours.normalize()),
            plain(pair.theirs.normalize()),
        )
        for pair in pairs()
        if pair.ours != pair.theirs
    }
    expected = {
        (row["provider"], row["model"], usage_name): (costs["ours"], costs["theirs"])
        for row in listed()
        for usage_name, costs in row["costs"].items()
    }
    assert {key: costs for key, costs in found.items() if expected.get(key) != costs} == {}, "not listed"
    assert expected.keys() - found.keys() == set(), "listed, but they do not differ (any more)"


def test_every_difference_is_listed_once_and_with_its_reason() -> None:
    names = Counter((row["provider"], row["model"]) for row in listed())
    assert [name for name, times in names.items() if times > 1] == []
    for row in listed():
        assert row.keys() == {"provider", "model", "reason", "costs"}
        assert len(row["reason"]) > len("another rate"), row
        assert row["costs"]


def test_the_comparison_is_a_broad_one() -> None:
    equal = [pair for pair in pairs() if pair.ours == pair.theirs]
    assert len(equal) >= 700, "pairs with the very same cost"
    assert len({pair.provider for pair in equal}) >= 18
    by_usage = Counter(pair.usage_name.split(" ")[0] for pair in equal)
    assert by_usage["plain"] >= 450
    assert by_usage["cached"] >= 150
    assert by_usage["cache"] >= 30
    assert by_usage["audio"] >= 4
    assert by_usage["over"] >= 15


def as_our_prices(theirs: ModelPrice) -> Prices | None:
    """Their prices of a model in our words; None where we have no words for them."""
    rates = {ours: getattr(theirs, name) for ours, name in THEIR_RATE.items()}
    if rates["input"] is None or rates["output"] is None:
        return None
    tiered = {kind: rate for kind, rate in rates.items() if isinstance(rate, TieredPrices)}
    tiers = [
        PriceTier(
            over_tokens=start,
            **{
                kind: [tier.price for tier in rate.tiers if tier.start <= start][-1]
                for kind, rate in tiered.items()
                if rate.tiers[0].start <= start
            },
        )
        for start in sorted({tier.start for rate in tiered.values() for tier in rate.tiers})
    ]
    fee = theirs.requests_kcount
    assert not isinstance(fee, TieredPrices)
    return Prices(
        **{kind: rate.base if isinstance(rate, TieredPrices) else rate for kind, rate in rates.items()},
        per_request=None if fee is None else fee / 1_000,
        tiers=tuple(tiers),
    )


def test_at_the_same_prices_the_arithmetic_is_the_same() -> None:
    compared = 0
    for model in (model for provider in providers for model in provider.models):
        theirs = model.get_prices(WHEN)
        ours = as_our_prices(theirs)
        if ours is None:
            continue
        # A size below, at and above each tier, and some between.
        thresholds = {size for tier in ours.tiers for size in (tier.over_tokens, tier.over_tokens + 1)}
        for size in sorted({1_234, 10_003, *thresholds}):
            for usage in (
                TokenUsage(input=size, output=567),
                TokenUsage(input=size, output=567, cache_read=size // 3, cache_write=size // 5),
                TokenUsage(input=size, output=567, reasoning=301),
                TokenUsage(input=size, output=567, input_audio=size // 7, output_audio=101),
            ):
                found = theirs.calc_price(their_usage(usage))["total_price"]
                assert cost(ours, usage) == found, (model.id, usage)
                compared += 1
    assert compared > 10_000
