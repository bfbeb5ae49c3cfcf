"""Requests that need the same are served by the same plan: what is the same about them."""

from __future__ import annotations

from typing import Final, NamedTuple

from synaxis_common.contracts.routing import Preferences
from synaxis_gateway.wire.openai_request import Measures, OpenAIRequest

STEPS_PER_OCTAVE: Final = 4
"""Sizes are rounded up to one of so many steps between a power of two and the next, by a quarter at most: a
plan is ranked by cost, and its money reserved, for the rounded size."""

_EXACT_UP_TO: Final = 8
_NO_PARAMETERS: Final[frozenset[str]] = frozenset()
_INPUT_TOKENS: Final = Measures._fields.index("input_tokens")
"""`max_output_tokens` is the next one, and `parameters` the last: a test holds that."""


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
    most = measures.max_output_tokens
    is_about_parameters = preferences is not None and preferences.require_parameters
    rounded = Measures._make(
        (
            *measures[:_INPUT_TOKENS],
            rounded_up(measures.input_tokens),
            None if most is None else rounded_up(most),
            *measures[_INPUT_TOKENS + 2 : -1],
            measures.parameters if is_about_parameters else _NO_PARAMETERS,
        )
    )
    return Shape(key_hash, ask.model, rounded, preferences)


def rounded_up(size: int) -> int:
    """The smallest step that is not below `size`."""
    if size <= _EXACT_UP_TO:
        return size
    step = (1 << (size - 1).bit_length() - 1) // STEPS_PER_OCTAVE
    return -(-size // step) * step
