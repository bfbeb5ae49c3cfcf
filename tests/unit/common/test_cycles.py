"""A large load is not looked through for garbage, and goes when nobody needs it."""

from __future__ import annotations

import gc
import weakref

import pytest

from synaxis_common.cycles import kept


class Row:
    """Something that can be referred to weakly."""


def test_nothing_is_looked_through_meanwhile_and_afterwards_it_is_again() -> None:
    with kept():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_garbage_is_looked_for_again_after_an_error() -> None:
    def failing() -> None:
        with kept():
            raise LookupError

    with pytest.raises(LookupError):
        failing()
    assert gc.isenabled()


def test_what_was_made_meanwhile_is_freed_when_nobody_refers_to_it() -> None:
    with kept():
        row = Row()
    seen = weakref.ref(row)
    del row
    assert seen() is None
