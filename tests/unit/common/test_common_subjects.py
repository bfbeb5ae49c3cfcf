"""Names become single subject tokens and back."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synaxis_common import subjects


@given(st.text(min_size=1).filter(lambda text: text.isprintable()))
def test_any_name_becomes_one_legal_token_and_back(name: str) -> None:
    encoded = subjects.token(name)
    assert re.fullmatch(r"[A-Za-z0-9_/=-]+", encoded)
    assert subjects.untoken(encoded) == name


@given(st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=20))
def test_different_names_never_share_a_token(one: str, other: str) -> None:
    if all(ord(char) < 0xD800 for char in one + other):
        assert (subjects.token(one) == subjects.token(other)) == (one == other)


def test_an_empty_name_has_no_token() -> None:
    with pytest.raises(ValueError, match="empty"):
        subjects.token("")


def test_model_events_can_be_filtered_by_provider_and_model() -> None:
    assert (
        subjects.model_event("available", "nvidia", "gpt-4.1")
        == "synaxis.events.v1.model.available.nvidia.gpt-4=2E1"
    )
