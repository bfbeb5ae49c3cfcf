"""On models.dev's real catalog where it lies beside the checkout; on the hard pairs always."""

from __future__ import annotations

import pytest
from tests.bench.bench_identity import (
    LEAST_PRECISION,
    LEAST_RECALL,
    World,
    hard_pairs,
    load,
    resolved,
    score,
    wrong_pairs,
)

from synaxis_registry.core.identity.values import Resolution

FOUND = load()
Resolved = dict[tuple[str, str], Resolution]


def test_hard_pairs_are_told_apart_by_their_letters_alone() -> None:
    assert wrong_pairs([], hard_pairs()) == []


if FOUND is not None:

    @pytest.fixture(name="world", scope="module")
    def models_dev() -> World:
        assert FOUND is not None
        return FOUND

    @pytest.fixture(name="first", scope="module")
    def first_sync(world: World) -> Resolved:
        return resolved(world.known, world.offerings)

    def test_labels_are_met(world: World, first: Resolved) -> None:
        total = score(world.known, first, world.labels)
        assert total.precision >= LEAST_PRECISION, total.wrong
        assert total.recall >= LEAST_RECALL, total.missed

    def test_hard_pairs_are_told_apart_beside_the_known_models(world: World) -> None:
        assert wrong_pairs(world.known, hard_pairs()) == []

    def test_the_order_of_the_catalog_makes_no_difference(world: World, first: Resolved) -> None:
        backwards = resolved(world.known, world.offerings[::-1])
        assert {key: one.global_model_id for key, one in backwards.items()} == {
            key: one.global_model_id for key, one in first.items()
        }

    def test_the_next_sync_changes_nothing_and_creates_nothing(world: World, first: Resolved) -> None:
        created = [one.suggested for one in first.values() if one.suggested is not None]
        again = resolved([*world.known, *created], world.offerings)
        assert [one.global_model_id for one in again.values()] == [
            one.global_model_id for one in first.values()
        ]
        assert not any(one.is_new for one in again.values())

    def test_every_known_model_is_itself(world: World) -> None:
        found = {model.id for model in world.known}
        assert len(found) == len(world.known)
