"""Requests that need the same are served by the same plan: what is the same about them."""

from __future__ import annotations

from bisect import bisect_left
from typing import Final, NamedTuple

from synaxis_common.contracts.routing import Preferences
from synaxis_gateway.wire.openai_request import Measures, OpenAIRequest

STEPS_PER_OCTAVE: Final = 4
"""Sizes are rounded up to one of so many steps between a power of two and the next, by a quarter at most: a
plan is ranked by cost, and its money reserved, for the rounded size."""

_EXACT_UP_TO: Final = 8
_OCTAVES: Final = 48
"""No size comes near two to this."""
_STEPS: Final[list[int]] = [
    *range(_EXACT_UP_TO),
    *(
        (1 << octave) * (STEPS_PER_OCTAVE + step) // STEPS_PER_OCTAVE
        for octave in range(_EXACT_UP_TO.bit_length() - 1, _OCTAVES)
        for step in range(STEPS_PER_OCTAVE)
    ),
]
_NO_PARAMETERS: Final[frozenset[str]] = frozenset()
_ROUNDED: Final = -3
"""The last three measures are those that differ in a shape: a test holds that."""


class Shape(NamedTuple):
    """What a plan depends on. Requests of one shape get the same plan."""

    key_hash: str
    model: str
    measures: Measures
    """Rounded up, so that whoever can serve these can serve the request itself."""
    preferences: Preferences | None


def shape_of(ask: OpenAIRequest, key_hash: str) -> Shape:
    """The shape of a request."""
    measures, preferences = ask.measures, ask.preferences
    input_tokens, most, parameters = measures[_ROUNDED:]
    if preferences is None or not preferences.require_parameters:
        parameters = _NO_PARAMETERS
    rounded = (rounded_up(input_tokens), None if most is None else rounded_up(most), parameters)
    return Shape(key_hash, ask.model, Measures._make(measures[:_ROUNDED] + rounded), preferences)


def rounded_up(size: int) -> int:
    """The smallest step that is not below `size`."""
    return _STEPS[bisect_left(_STEPS, size)]
