"""What gateways tell each other of candidates that fail, so that one's evidence serves all."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from synaxis_common.contracts.base import Identifier, Message, Text


class Seen(StrEnum):
    """What a gateway has seen of a candidate."""

    FAILED = "failed"
    CUT = "cut"
    """A stream broke off after content had gone to a client."""
    OFTEN = "often"
    """It fails every other time or so, even if never several times in a row."""
    TRIED = "tried"
    """After a rest one live request tries it: the others wait for what comes of it."""
    WELL = "well"
    """It answers, after something had been held against it."""
    WHOLE = "whole"
    """A stream came to its proper end, after one had been cut."""


class Blamed(StrEnum):
    """Who a failure is held against."""

    CANDIDATE = "candidate"
    PROVIDER = "provider"
    """The candidate, and perhaps all of the provider's models."""
    ACCOUNT = "account"
    """The provider does not accept our key or our credit: nothing works there."""


class Sighting(Message):
    """One thing seen of one candidate."""

    provider_id: Identifier
    provider_model_id: Identifier
    seen: Seen
    blamed: Blamed = Blamed.CANDIDATE
    is_enough: bool = False
    """Once is enough: a client has waited long for it, or it says itself that it has too much to do."""
    cool_down_s: Annotated[float, Field(ge=0)] | None = None
    """How long it has asked to be left alone, or is left alone at least."""
    reason: Text = ""
    """In our words."""


class Sightings(Message):
    """What one gateway has seen lately, in order. Losing some is no harm: each one sees for itself too."""

    gateway_id: Identifier
    sightings: tuple[Sighting, ...]
