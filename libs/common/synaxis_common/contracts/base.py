"""What all messages have in common: frozen, validated at the border, tolerant of newer senders."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Final

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, StringConstraints


def _storable(text: object) -> object:
    """Refuse what Postgres cannot store (NUL) and what UTF-8 cannot carry (lone surrogates)."""
    if isinstance(text, str):
        if "\x00" in text:
            raise ValueError("must not contain NUL")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError("must not contain lone surrogates") from error
    return text


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)


LONGEST_TEXT: Final = 20_000
LONGEST_IDENTIFIER: Final = 300
"""Characters."""

Text = Annotated[str, BeforeValidator(_storable), StringConstraints(max_length=LONGEST_TEXT)]
"""A string that can be stored and sent on."""

Identifier = Annotated[
    str,
    BeforeValidator(_storable),
    StringConstraints(min_length=1, max_length=LONGEST_IDENTIFIER, pattern=r"^\S(.*\S)?$"),
]
"""An id as others give it: not empty, no white space at its ends."""

Moment = Annotated[AwareDatetime, AfterValidator(_utc)]
"""A point in time, always in UTC; naive ones are refused."""


class Message(BaseModel):
    """A message on the bus. Unknown fields are ignored, so that a newer sender does no harm."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    def to_bytes(self) -> bytes:
        """The message as it goes over the bus."""
        return self.model_dump_json(exclude_defaults=False).encode()
