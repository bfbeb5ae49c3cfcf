"""What somebody types finds its model, where that is unambiguous."""

from __future__ import annotations

import pytest

from synaxis_registry.core.identity import (
    AliasIndex,
    Ambiguous,
    Found,
    KnownModel,
    Missing,
    find,
    global_models_from_models_json,
)

MODELS = global_models_from_models_json(
    {
        "anthropic/claude-opus-4-1": {},
        "anthropic/claude-opus-4-1-20250805": {},
        "anthropic/claude-3-5-sonnet-20240620": {},
        "anthropic/claude-3-5-sonnet-20241022": {},
        "mistral/mistral-large-latest": {},
        "mistral/mistral-large-2512": {},
        "zhipuai/glm-5.2": {},
        "one/solar": {},
        "two/solar": {},
    }
)


@pytest.mark.parametrize(
    ("typed", "model_id"),
    [
        ("glm-5.2", "glm-5-2"),
        ("GLM-5-2", "glm-5-2"),
        ("zhipuai/glm-5.2", "glm-5-2"),
        ("z-ai/GLM-5.2", "glm-5-2"),
        ("zai-org/glm-5p2", "glm-5-2"),
        ("anthropic/claude-opus-4.1", "claude-opus-4-1"),
        ("claude-4.1-opus", "claude-opus-4-1"),
        ("us.anthropic.claude-opus-4-1-20250805-v1:0", "claude-opus-4-1-20250805"),
        ("claude-3.5-sonnet", "claude-3-5-sonnet-20241022"),
        ("claude-3-5-sonnet-latest", "claude-3-5-sonnet-20241022"),
        ("mistral-large", "mistral-large-latest"),
        ("Mistral-Large-2512", "mistral-large-2512"),
        ("one/solar", "one-solar"),
    ],
)
def test_every_spelling_finds_its_model(typed: str, model_id: str) -> None:
    found = find(MODELS, typed)
    assert isinstance(found, Found)
    assert found.global_model_id == model_id


def test_an_undated_id_shows_which_date_it_was_given() -> None:
    assert find(MODELS, "claude-3.5-sonnet") == Found("claude-3-5-sonnet-20241022", "its newest, 2024-10-22")


def test_what_two_vendors_have_is_ambiguous() -> None:
    assert find(MODELS, "solar") == Ambiguous(("one-solar", "two-solar"))


def test_what_nobody_has_comes_with_what_is_nearest() -> None:
    found = find(MODELS, "glm-5.3")
    assert isinstance(found, Missing)
    assert "glm-5-2" in found.nearest


def test_a_name_that_a_correction_left_behind_still_finds() -> None:
    index = AliasIndex([KnownModel("new-name", aliases=frozenset({"old-name-7b"}))])
    for typed in ("old-name-7b", "Old_Name 7B", "old-name-7b-fp8"):
        assert index.find(typed) == Found("new-name", index.find(typed).how)  # type: ignore[union-attr]
