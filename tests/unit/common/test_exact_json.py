"""JSON from others, exactly."""

from __future__ import annotations

from decimal import Decimal

import pytest

from synaxis_common.exact_json import NotJson, parse


def test_no_digit_is_lost_and_nothing_is_a_float() -> None:
    found = parse(b'{"a": 0.1000000000000000055511151231257827, "b": 3, "c": 1e-7, "d": 5.0}')
    assert str(found["a"]) == "0.1000000000000000055511151231257827"
    assert [type(found[name]) for name in "abcd"] == [Decimal, int, Decimal, Decimal]


def test_a_number_beyond_all_bounds_spoils_only_itself() -> None:
    found = parse(b'{"a": 1e99999999999999999999, "b": 0.5}')
    assert not found["a"].is_finite()
    assert found["b"] == Decimal("0.5")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html></html>",
        b'{"a": 1',
        b'{"a": NaN}',
        b"[Infinity]",
        b"\xff\xfe{\x00}\x00",
        b"[" * 100_000,
        b"1" * 10_000,
    ],
)
def test_what_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(NotJson):
        parse(body)
