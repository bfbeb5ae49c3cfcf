"""Requests that need the same are served by the same plan: what is the same about them."""

from __future__ import annotations

from typing import Final, NamedTuple

from synaxis_common.contracts.routing import Needs, Preferences
from synaxis_gateway.wire.openai_request import OpenAIRequest

STEPS_PER_OCTAVE: Final = 4
"""Sizes are rounded up to one of so many steps between a power of two and the next, by a quarter at most: a
plan is ranked by cost, and its money reserved, for the rounded size."""

_EXACT_UP_TO: Final = 8


class Shape(NamedTuple):
    """What a plan depends on. Requests of one shape get the same plan."""

    key_hash: str
    model: str
    needs: Needs
    """Rounded up, so that whoever can serve these can serve the request itself."""
    preferences: Preferences


def shape_of(ask: OpenAIRequest, key_hash: str) -> Shape:
    """The shape of a request."""
    needs = ask.needs
    most = needs.max_output_tokens
    return Shape(
        key_hash,
        ask.model,
        needs.model_copy(
            update={
                "input_tokens": rounded_up(needs.input_tokens),
                "max_output_tokens": None if most is None else rounded_up(most),
                "parameters": needs.parameters if ask.preferences.require_parameters else frozenset(),
            }
        ),
        ask.preferences,
    )


def rounded_up(size: int) -> int:
    """The smallest step that is not below `size`."""
    if size <= _EXACT_UP_TO:
        return size
    step = (1 << (size - 1).bit_length() - 1) // STEPS_PER_OCTAVE
    return -(-size // step) * step
