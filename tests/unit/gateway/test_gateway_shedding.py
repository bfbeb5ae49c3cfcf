"""Overload is refused early, and not at the expense of those who did not cause it."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from synaxis_gateway.http.errors import ApiError
from synaxis_gateway.http.shedding import Load


def test_below_the_limit_everybody_is_taken_in() -> None:
    load = Load(3)
    with load.entered("a"), load.entered("a"):
        assert load.has_room_for("a")


def test_at_the_limit_the_key_that_fills_it_is_refused_and_another_is_not() -> None:
    load = Load(4)
    with ExitStack() as under_way:
        for _ in range(4):
            under_way.enter_context(load.entered("greedy"))
        assert not load.has_room_for("greedy")
        assert load.has_room_for("modest")


def test_a_tenant_gets_no_more_by_having_many_keys() -> None:
    load = Load(4)
    for number in range(4):
        load.belongs(f"key-{number}", "greedy")
    with ExitStack() as under_way:
        for number in range(4):
            under_way.enter_context(load.entered(f"key-{number}"))
        assert not load.has_room_for("key-0")
        assert load.has_room_for("another's")


def test_beyond_the_hard_limit_nobody_is_taken_in() -> None:
    load = Load(4)
    with ExitStack() as under_way:
        for key in ("greedy",) * 4 + ("modest",):
            under_way.enter_context(load.entered(key))
        assert not load.has_room_for("newcomer")


def test_what_is_over_makes_room() -> None:
    load = Load(1)
    with load.entered("a"), pytest.raises(ApiError) as refused, load.entered("a"):
        pass
    assert refused.value.status == 503
    assert refused.value.headers["Retry-After"] == "1"
    assert load.has_room_for("a")
