"""Which providers are on, where keys may go, and which prices are believed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.unit.registry.core_world import NOW, operators_provider, prices, usd

from synaxis_common.contracts.catalog import Prices, PriceTier
from synaxis_registry.core.effective import effective_prices, is_flat_rate
from synaxis_registry.core.records import CatalogSaid, ProviderModelRecord, ProviderRecord
from synaxis_registry.core.trust import (
    KNOWN_PROVIDERS,
    host_of,
    is_held,
    is_key_present,
    is_usable_url,
    normal_url,
    provider_state,
    switching_variables,
    with_pin,
)
from synaxis_registry.core.update import from_catalog


def listed(
    provider_id: str = "acme", keys: frozenset[str] = frozenset({"ACME_API_KEY"}), **others: Any
) -> ProviderRecord:
    """A provider as models.dev has it."""
    said = CatalogSaid(
        **{
            "name": provider_id,
            "base_url": "https://api.acme.example/v1",
            "api_key_envs": ("ACME_API_KEY",),
            "npm": "@ai-sdk/openai-compatible",
        }
        | others
    )
    blank = ProviderRecord(provider_id=provider_id, name=provider_id, source="models.dev")
    return with_pin(from_catalog(blank, said, keys))


def off_reason(record: ProviderRecord) -> str | None:
    return provider_state(record).off_reason


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({}, None),
        ({"api_key_envs": ("OTHER_KEY",)}, "no_key"),
        ({"api_key_envs": ()}, "no_key"),
        ({"base_url": None}, "no_base_url"),
        ({"base_url": "http://api.acme.example/v1"}, "unusable_base_url"),
        ({"base_url": "https://${ACME_ACCOUNT}.example/v1"}, "unusable_base_url"),
        ({"base_url": "https://localhost:8080/v1"}, "unusable_base_url"),
        ({"base_url": "https://169.254.169.254/v1"}, "unusable_base_url"),
        ({"base_url": "https://10.0.0.1/v1"}, "unusable_base_url"),
        ({"base_url": "https://user:pw@acme.example/v1"}, "unusable_base_url"),
        ({"npm": "@ai-sdk/amazon-bedrock"}, "unsupported_protocol"),
    ],
)
def test_a_provider_of_models_dev_is_on_with_its_key_and_a_usable_url(
    said: dict[str, Any], reason: str | None
) -> None:
    assert off_reason(listed(**said)) == reason


def test_variables_that_other_programs_set_switch_nothing_on_and_are_never_sent() -> None:
    everything = frozenset({"GITHUB_TOKEN", "AWS_ACCESS_KEY_ID", "SYNAXIS_ADMIN_KEY", "ACME_ACCOUNT_ID"})
    record = listed(api_key_envs=tuple(sorted(everything)), keys=everything)
    assert off_reason(record) == "no_key"
    assert record.api_key_envs == ()


def test_an_operators_word_lets_any_variable_count_that_is_not_ours() -> None:
    record = operators_provider(api_key_envs=("GITHUB_TOKEN",))
    assert switching_variables(record) == ("GITHUB_TOKEN",)
    assert is_key_present(record, {"GITHUB_TOKEN"})
    assert switching_variables(replace(record, api_key_envs=("SYNAXIS_ADMIN_KEY",))) == ()


def test_an_operators_provider_needs_no_key_when_no_variable_is_named() -> None:
    assert off_reason(operators_provider()) is None
    assert off_reason(operators_provider(enabled=False)) == "disabled"
    assert off_reason(operators_provider(api_key_envs=("ACME_API_KEY",))) == "no_key"


@pytest.mark.parametrize("provider_id", sorted(KNOWN_PROVIDERS))
def test_every_shipped_provider_is_at_its_pinned_host(provider_id: str) -> None:
    shipped = KNOWN_PROVIDERS[provider_id]
    base_url = shipped.base_url or f"https://{shipped.host}/v1"
    record = listed(provider_id, base_url=None if shipped.base_url else base_url)
    assert off_reason(record) is None
    assert host_of(record.base_url) == record.pinned_host == shipped.host
    assert is_usable_url(record.discovery_base_url or base_url, allow_private=False)


@pytest.mark.parametrize(
    ("url", "allow_private", "usable"),
    [
        ("https://api.example.com/v1", False, True),
        ("http://127.0.0.1:1/v1", True, True),
        ("http://169.254.169.254/v1", True, False),
        ("https://[::1]/v1", False, False),
        ("https://db.internal/v1", False, False),
        ("https://example.com/v1?key=x", False, False),
        ("ftp://example.com", True, False),
        ("https://[bad", True, False),
        ("", True, False),
    ],
)
def test_where_a_key_may_go(url: str, allow_private: bool, usable: bool) -> None:
    assert is_usable_url(url, allow_private=allow_private) is usable


def test_base_urls_are_brought_into_one_form() -> None:
    assert normal_url("https://a.example/v1/") == "https://a.example/v1"
    assert normal_url("https://a.example/v1/chat/completions") == "https://a.example/v1"


@pytest.mark.parametrize(
    ("before", "after", "held"),
    [
        (prices("1", "2"), prices("0.5", "1"), False),
        (prices("1", "2"), prices("0.49", "2"), True),
        (prices("1", "2"), prices("1", "19.9"), False),
        (prices("1", "2"), prices("1", "20"), True),
        (prices("1", "2"), prices("0", "0"), True),
        (prices("0", "0"), prices("0.01", "0"), True),
        (prices("1", "2"), Prices(), False),
        (Prices(), prices("1", "2"), False),
        (prices("1", "2", cache_read=usd(1)), prices("1", "2", cache_read=usd("0.1")), True),
        (
            prices("1", "2", tiers=(PriceTier(over_tokens=9, input=usd(4)),)),
            prices("1", "2", tiers=(PriceTier(over_tokens=9, input=usd(1)),)),
            True,
        ),
        (
            prices("1", "2"),
            prices("1", "2", tiers=(PriceTier(over_tokens=9, input=usd(99)),)),
            False,
        ),
    ],
)
def test_a_jump_of_a_price_is_held(before: Prices, after: Prices, held: bool) -> None:
    assert is_held(before, after) is held


def row(cost: Prices, **others: Any) -> ProviderModelRecord:
    return ProviderModelRecord(
        provider_id="acme",
        provider_model_id="m",
        global_model_id="m",
        resolved_by="test",
        resolution_confidence=1.0,
        first_seen_at=NOW,
        last_seen_at=NOW,
        prices=cost,
        **others,
    )


def test_zero_prices_are_a_flat_rate_unless_an_operator_says_that_they_are_meant() -> None:
    assert is_flat_rate(row(prices("0", "0")))
    assert is_flat_rate(row(prices("0")))
    assert not is_flat_rate(row(prices("0", "1")))
    assert not is_flat_rate(row(Prices()))
    assert not is_flat_rate(row(prices("0", "0", per_request=usd("0.01"))))
    meant = row(prices("0", "0"), override_input_price=usd(0), override_output_price=usd(0))
    assert not is_flat_rate(meant)


def test_an_operators_price_is_for_all_tokens_of_its_side() -> None:
    cost = prices(
        "1", "2", cache_read=usd("0.1"), reasoning=usd(3), tiers=(PriceTier(over_tokens=9, input=usd(4)),)
    )
    assert effective_prices(row(cost, override_input_price=usd(7))) == prices(
        "7", "2", reasoning=usd(3), tiers=(PriceTier(over_tokens=9, input=usd(7)),)
    )
    both = row(cost, override_input_price=usd(7), override_output_price=usd(8))
    assert effective_prices(both) == prices("7", "8")
