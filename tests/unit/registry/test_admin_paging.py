"""Pages of the admin API: in the order of the keys, and never too large for the bus."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synaxis_registry.handlers.admin.paging import MAX_PAGE_BYTES, after, cursor_after, fitting, paged
from synaxis_registry.handlers.admin.verb import Ask

BUS_LIMIT = 1_048_576


def body_of(rows: list[dict[str, Any]], limit: int) -> dict[str, Any]:
    body = paged(rows, limit, "id").body
    assert isinstance(body, dict)
    return body


def asked(cursor: str) -> Ask:
    return Ask({}, {"cursor": cursor}, None)


# What a column can hold: no NUL, no half characters.
STORABLE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))


@given(STORABLE, STORABLE)
def test_a_cursor_gives_back_the_key_it_was_made_of(provider_id: str, provider_model_id: str) -> None:
    cursor = cursor_after(provider_id, provider_model_id)
    assert after(asked(cursor), 2) == (provider_id, provider_model_id)
    assert cursor.isascii()


def test_without_a_cursor_a_page_begins_at_the_start() -> None:
    assert after(Ask({}, {}, None), 2) == ("", "")


def test_the_row_read_beyond_the_limit_makes_the_cursor() -> None:
    rows = [{"id": name} for name in "abc"]
    body = body_of(rows, 2)
    assert body["data"] == rows[:2]
    assert after(asked(str(body["next_cursor"])), 1) == ("b",)


def test_the_last_page_has_no_cursor() -> None:
    assert body_of([{"id": "a"}], 1) == {"data": [{"id": "a"}], "next_cursor": None}
    assert body_of([], 1) == {"data": [], "next_cursor": None}


@pytest.mark.parametrize("letter", ["x", "é", "模", "\\", '"'])
def test_a_page_of_large_rows_ends_early_and_fits_the_bus(letter: str) -> None:
    rows = [{"id": str(number), "text": letter * 20_000} for number in range(200)]
    reply = paged(rows, 100, "id")
    assert len(reply.to_bytes()) < BUS_LIMIT
    body = reply.body
    assert isinstance(body, dict)
    data = body["data"]
    assert isinstance(data, list)
    assert 1 < len(data) < 100
    assert after(asked(str(body["next_cursor"])), 1) == (str(len(data) - 1),)


def test_a_row_larger_than_a_page_still_gets_one_so_that_the_list_goes_on() -> None:
    rows = [{"id": "a", "text": "x" * (MAX_PAGE_BYTES + 1)}, {"id": "b"}]
    assert fitting(rows, 10) == 1
    assert json.dumps(body_of(rows, 10)["data"]) == json.dumps(rows[:1])
