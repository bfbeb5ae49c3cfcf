"""models.dev's entries become contracts, one by one."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from tests.support.models_dev import SHARED, small_world

from synaxis_common.contracts.catalog import CatalogProviderModel, Prices, PriceTier
from synaxis_common.exact_json import parse
from synaxis_sync.entries import read_models, read_providers
from synaxis_sync.models_dev import snapshot


def model(**fields: Any) -> dict[str, Any]:
    return {
        "id": "m",
        "name": "M",
        "limit": {"context": 1000, "output": 100},
        "modalities": {"input": ["text", "image", "pdf"], "output": ["text"]},
        "attachment": True,
        "reasoning": False,
        "tool_call": True,
        **fields,
    }


def provider(models: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"id": "p", "name": "P", "env": ["P_API_KEY"], "npm": "@ai-sdk/openai", "models": models, **fields}


def only_model(**fields: Any) -> CatalogProviderModel:
    """The model as it is read, from JSON text as models.dev sends it."""
    document = parse(json.dumps({"p": provider({"m": model(**fields)})}).encode())
    read = read_providers(document)
    assert not read.skipped, read.skipped
    return read.providers[0].models[0]


def test_a_provider_is_read_with_its_models() -> None:
    api, _ = small_world()
    read = read_providers(parse(json.dumps(api).encode()))
    beta = next(entry for entry in read.providers if entry.provider_id == "beta")
    assert (beta.name, beta.base_url, beta.api_key_envs) == (
        "Beta",
        "https://api.beta.example/v1",
        ("BETA_API_KEY",),
    )
    assert beta.models[0].prices == Prices(
        input=Decimal("0.15"), output=Decimal("0.6"), cache_read=Decimal("0.075")
    )
    assert beta.models[0].facts.context_window == 128_000


def test_every_kind_of_price_is_kept() -> None:
    cost = {
        "input": 1,
        "output": 2.5,
        "cache_read": 0.1,
        "cache_write": 1.25,
        "reasoning": 3,
        "input_audio": 4,
        "output_audio": 5.5,
        "request": 12.5,
    }
    prices = only_model(cost=cost).prices
    assert prices == Prices(
        input=Decimal(1),
        output=Decimal("2.5"),
        cache_read=Decimal("0.1"),
        cache_write=Decimal("1.25"),
        reasoning=Decimal(3),
        input_audio=Decimal(4),
        output_audio=Decimal("5.5"),
        per_request=Decimal("0.0125"),  # models.dev says it by the thousand
    )


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("cached_input", "cache_read"),
        ("cache_input", "cache_read"),
        ("cached_write", "cache_write"),
        ("cache_read", "cache_read"),
    ],
)
def test_other_spellings_of_cache_prices_are_understood(spelling: str, name: str) -> None:
    assert getattr(only_model(cost={"input": 1, "output": 2, spelling: 0.35}).prices, name) == Decimal("0.35")


def test_a_missing_price_is_unknown_and_a_zero_is_zero() -> None:
    assert only_model().prices == Prices()
    assert only_model(cost={"input": 0, "output": 0}).prices == Prices(input=Decimal(0), output=Decimal(0))


LONG = {"input": 6, "output": 22.5}


def test_tiers_are_sorted_and_the_older_field_adds_nothing_when_it_says_the_same() -> None:
    tiers = [{"tier": {"size": 272_000}, **LONG}, {"tier": {"type": "context", "size": 32_000}, "input": 4}]
    prices = only_model(cost={"input": 3, "output": 15, "tiers": tiers, "context_over_200k": LONG}).prices
    assert prices.tiers == (
        PriceTier(over_tokens=32_000, input=Decimal(4)),
        PriceTier(over_tokens=272_000, input=Decimal(6), output=Decimal("22.5")),
    )


def test_the_older_field_alone_is_a_tier_above_200000_tokens() -> None:
    prices = only_model(cost={"input": 3, "output": 15, "context_over_200k": LONG}).prices
    assert prices.tiers == (PriceTier(over_tokens=200_000, input=Decimal(6), output=Decimal("22.5")),)


def test_capabilities_come_from_flags_and_modalities() -> None:
    able = only_model(structured_output=True).facts.capabilities
    assert able.model_dump() == {
        "tools": True,
        "vision": True,
        "audio": False,
        "pdf": True,
        "reasoning": False,
        "structured_output": True,
        "temperature": None,
    }


def test_a_limit_of_zero_is_unknown() -> None:
    facts = only_model(limit={"context": 0, "input": 0, "output": 0}).facts
    assert (facts.context_window, facts.max_input, facts.max_output) == (None, None, None)


def test_a_model_may_live_elsewhere_and_speak_otherwise_than_its_provider() -> None:
    found = only_model(
        provider={"npm": "@ai-sdk/anthropic", "api": "https://other.example/v1"}, status="beta"
    )
    assert (found.npm, found.base_url, found.facts.status) == (
        "@ai-sdk/anthropic",
        "https://other.example/v1",
        "beta",
    )


def test_a_status_that_we_do_not_know_and_fields_that_are_new_do_no_harm() -> None:
    assert only_model(status="sunset", brand_new={"x": 1}).facts.status is None


BROKEN: dict[str, Any] = {
    "not an object": 7,
    "a negative price": model(cost={"input": -1, "output": 2}),
    "a price that is text": model(cost={"input": "0.5", "output": 2}),
    "a price that is true": model(cost={"input": True, "output": 2}),
    "a price beyond reason": model(cost={"input": 1e13, "output": 2}),
    "a tier of another kind": model(cost={"input": 1, "tiers": [{"tier": {"type": "time", "size": 5}}]}),
    "two prices for one tier": model(
        cost={"tiers": [{"tier": {"size": 5}, "input": 1}, {"tier": {"size": 5}, "input": 2}]}
    ),
    "a limit that is text": model(limit={"context": "big"}),
    "a limit with a fraction": model(limit={"context": 10.5}),
    "a flag that is text": model(tool_call="yes"),
    "a name with NUL": model(name="a\x00b"),
    "a name with half a character": model(name="\ud800"),
    "modalities that are text": model(modalities={"input": "text"}),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_model_is_skipped_and_told_and_its_neighbours_stay(case: str) -> None:
    document = {"p": provider({"good": model(), "bad": BROKEN[case]}), "q": provider({"m": model()})}
    read = read_providers(parse(json.dumps(document).encode()))
    assert [entry.provider_id for entry in read.providers] == ["p", "q"]
    assert [found.provider_model_id for found in read.providers[0].models] == ["good"]
    assert [skipped.where for skipped in read.skipped] == ["p/bad"]
    assert read.skipped[0].reason


def test_a_price_with_an_absurd_exponent_is_not_written_out() -> None:
    models = b'{"a": {"cost": {"input": 1e-999999}}, "b": {"cost": {"input": 0e999999}}, "c": {}}'
    read = read_providers(parse(b'{"p": {"models": %b}}' % models))
    assert [found.provider_model_id for found in read.providers[0].models] == ["c"]
    assert [skipped.where for skipped in read.skipped] == ["p/a", "p/b"]


@pytest.mark.parametrize(
    "broken",
    [
        [],
        {"models": []},
        {"models": {}, "env": "KEY"},
        {"models": {}, "env": [1]},
        {"models": {}, "api": 5},
        {"models": {"m": 1}},
    ],
)
def test_a_broken_provider_is_not_taken_for_one_that_has_vanished(broken: Any) -> None:
    read = read_providers({"bad": broken, "good": provider({"m": model()})})
    assert [entry.provider_id for entry in read.providers] == ["good"]
    assert read.unreadable == {"bad"}
    assert "bad" in {skipped.where for skipped in read.skipped}


def test_model_metadata_is_read_entry_by_entry() -> None:
    read = read_models({"acme/good": model(knowledge="2026-01"), "acme/bad": 5, "  ": model()})
    assert [found.source_id for found in read.models] == ["acme/good"]
    assert read.models[0].facts.knowledge_cutoff == "2026-01"
    assert {skipped.where for skipped in read.skipped} == {"acme/bad", "  "}


CARRIED = {
    "input",
    "output",
    "cache_read",
    "cached_input",
    "cache_input",
    "cache_write",
    "cached_write",
    "reasoning",
    "input_audio",
    "output_audio",
    "request",
    "tiers",
    "context_over_200k",
}
NOT_CARRIED = {"image", "citation"}
"""Said in the docstring of `entries._prices`, with the reasons."""


def real_documents() -> list[bytes]:
    shared = SHARED / "api.json"
    return [snapshot(64 * 1024 * 1024), *([shared.read_bytes()] if shared.exists() else [])]


def test_every_price_that_models_dev_knows_is_carried_or_known_not_to_be() -> None:
    for body in real_documents():
        costs = [
            found["cost"]
            for entry in json.loads(body).values()
            for found in entry["models"].values()
            if "cost" in found
        ]
        named = {name for cost in costs for name in cost}
        assert {"input", "output", "cache_read", "tiers"} <= named
        assert named <= CARRIED | NOT_CARRIED
        of_tiers = {name for cost in costs for tier in cost.get("tiers", ()) for name in tier} | {
            name for cost in costs for name in cost.get("context_over_200k", ())
        }
        assert of_tiers <= (CARRIED - {"request", "tiers", "context_over_200k"}) | {"tier"}


PRICE_NAMES = {"cached_input": "cache_read", "cache_input": "cache_read", "cached_write": "cache_write"}
KINDS = ("input", "output", "cache_read", "cache_write", "reasoning", "input_audio", "output_audio")


def assert_every_price_is_as_written(body: bytes) -> None:
    """Compare what was read with the very text of the numbers."""
    texts = json.loads(body, parse_float=str, parse_int=str)
    read = read_providers(parse(body))
    assert not read.skipped
    assert len(read.providers) == len(texts)
    for entry in read.providers:
        written = texts[entry.provider_id]["models"]
        assert {found.provider_model_id for found in entry.models} == set(written)
        for found in entry.models:
            cost = written[found.provider_model_id].get("cost", {})
            told = found.prices.model_dump(mode="json")
            for name, number in cost.items():
                kind = PRICE_NAMES.get(name, name)
                if kind in KINDS:
                    assert told[kind] == number, (entry.provider_id, found.provider_model_id, kind)
            assert {kind for kind in KINDS if told[kind] is not None} == {
                PRICE_NAMES.get(name, name) for name in cost
            } & {*KINDS}
            tiers = {int(tier["tier"]["size"]): tier for tier in cost.get("tiers", ())}
            assert {tier.over_tokens for tier in found.prices.tiers} == set(tiers)
            for tier in found.prices.tiers:
                told = tier.model_dump(mode="json", exclude_none=True)
                for kind, number in tiers[tier.over_tokens].items():
                    assert kind == "tier" or told[kind] == number


def test_every_price_of_the_snapshot_is_exact_to_the_last_digit() -> None:
    assert_every_price_is_as_written(snapshot(64 * 1024 * 1024))


def test_every_price_of_the_shared_document_is_exact_to_the_last_digit() -> None:
    path = SHARED / "api.json"
    body = path.read_bytes() if path.exists() else json.dumps(small_world()[0]).encode()
    assert_every_price_is_as_written(body)
