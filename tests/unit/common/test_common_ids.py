"""Tenant keys can be told from garbage offline, and are stored as keyed hashes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synaxis_common import ids


def test_a_new_key_is_well_formed_and_carries_its_id() -> None:
    made = ids.new_tenant_key()
    assert ids.is_well_formed_key(made.key)
    assert made.key.split("-")[2] == made.key_id
    assert ids.new_tenant_key().key != made.key


@given(st.integers(min_value=0), st.characters(codec="utf-8"))
def test_a_key_with_one_character_changed_is_garbage(position: int, char: str) -> None:
    key = ids.new_tenant_key().key
    at = position % len(key)
    changed = key[:at] + char + key[at + 1 :]
    assert ids.is_well_formed_key(changed) == (changed == key)


@given(st.text(max_size=200))
def test_garbage_is_not_a_key(text: str) -> None:
    assert not ids.is_well_formed_key(text)


def test_the_hash_depends_on_key_and_pepper_and_needs_a_pepper() -> None:
    assert ids.key_hash("a", "p") == ids.key_hash("a", "p")
    assert len({ids.key_hash("a", "p"), ids.key_hash("b", "p"), ids.key_hash("a", "q")}) == 3
    with pytest.raises(ValueError, match="pepper"):
        ids.key_hash("a", "")


def test_ids_are_sorted_by_the_time_they_were_made() -> None:
    made = [ids.uuid7() for _ in range(100)]
    assert made == sorted(made)
    assert {one.version for one in made} == {7}
