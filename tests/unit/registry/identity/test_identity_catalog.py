"""Whole catalogs: stable ids, whatever the order and whatever arrives later."""

from __future__ import annotations

from synaxis_registry.core.identity import (
    ModelFacts,
    Offering,
    cluster,
    global_models_from_models_json,
)


def offered(*asked: str) -> list[Offering]:
    """Each by another provider."""
    return [Offering(f"provider-{number}", one) for number, one in enumerate(asked)]


def ids(*asked: str) -> list[str]:
    return [one.global_model_id for one in cluster([], offered(*asked))]


def test_a_slug_has_no_vendor() -> None:
    found = global_models_from_models_json({"zhipuai/glm-5.2": {"name": "GLM-5.2"}, "minimax/MiniMax-M2": {}})
    assert [(one.id, one.vendor, one.source_id) for one in found] == [
        ("minimax-m2", "minimax", "minimax/MiniMax-M2"),
        ("glm-5-2", "zhipuai", "zhipuai/glm-5.2"),
    ]


def test_where_two_vendors_collide_each_takes_its_vendor() -> None:
    found = global_models_from_models_json({"one/solar": {}, "two/solar": {}, "two/lunar": {}})
    assert [one.id for one in found] == ["one-solar", "lunar", "two-solar"]


def test_an_id_that_exists_is_never_renamed() -> None:
    before = {"one/solar": "solar"}
    found = global_models_from_models_json({"one/solar": {}, "two/solar": {}}, before)
    assert {one.source_id: one.id for one in found} == {"one/solar": "solar", "two/solar": "two-solar"}


def test_what_an_entry_says_becomes_facts() -> None:
    entry = {
        "name": "GLM-5.2",
        "family": "glm",
        "release_date": "2026-06-13",
        "open_weights": True,
        "limit": {"context": 1_000_000, "output": 131_072},
        "modalities": {"input": ["text"], "output": ["text"]},
    }
    (found,) = global_models_from_models_json({"zhipuai/glm-5.2": entry})
    assert found.facts == ModelFacts(
        "GLM-5.2",
        "glm",
        "zhipuai",
        "2026-06-13",
        1_000_000,
        131_072,
        frozenset({"text"}),
        frozenset({"text"}),
        True,
        None,
    )


def test_providers_of_a_model_that_no_catalog_lists_share_one_id() -> None:
    found = ids("acme/Thing-7B-FP8", "thing-7b:free", "eu.openai.thing-7b", "other/thing-13b")
    assert found == ["thing-7b", "thing-7b", "thing-7b", "thing-13b"]


def test_only_one_of_them_is_to_be_created() -> None:
    found = cluster([], offered("thing-7b", "thing-7b-fp8", "thing-7b:free"))
    assert [one.is_new for one in found].count(True) == 1


def test_what_most_providers_say_describes_a_new_model() -> None:
    dates = ("2025-01-01", "2026-01-01", "2026-01-01")
    asked = [Offering(f"p{n}", "thing-7b", ModelFacts(release_date=one)) for n, one in enumerate(dates)]
    (suggested,) = [one.suggested for one in cluster([], asked) if one.suggested is not None]
    assert suggested.facts.release_date == "2026-01-01"


def test_a_model_without_a_size_does_not_swallow_its_sisters() -> None:
    assert len(set(ids("gemma-3", "gemma-3-4b-it", "gemma-3-27b-it", "gemma3:12b"))) == 4


def test_an_id_that_was_given_stays_when_more_arrives() -> None:
    first = cluster([], [Offering("a", "thing-7b-0905")])
    kept = [one.suggested for one in first if one.suggested is not None]
    later = cluster(kept, offered("thing-7b", "thing-7b-0905", "Thing-7B"))
    assert later[1].global_model_id == first[0].global_model_id == "thing-7b-0905"


def test_sizes_that_a_slug_cannot_tell_apart_are_two_models() -> None:
    assert len(set(ids("qwen3-1.7b", "qwen3.1-7b", "qwen3-1.7b-fp8"))) == 2
