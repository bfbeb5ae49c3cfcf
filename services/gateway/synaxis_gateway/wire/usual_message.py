"""What a message, or the delta of one, nearly always is: text, reasoning, calls, all of them strings.

Decoding into these types is several times faster than into dictionaries, and fails for everything that is not
quite of that kind. Then whoever tried looks again, without types. Fields that nobody asks for are skipped;
decoding checks their syntax, but neither their UTF-8 (so `decoded` does) nor whether a float holds their
numbers (which nobody needs to know).
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from synaxis_gateway.wire.usage import size

Whole = TypeVar("Whole")

NOT_USUAL = (msgspec.DecodeError, ValueError, RecursionError)
"""How decoding fails."""


class UsualFunction(msgspec.Struct, gc=False):
    """The function of a call."""

    name: str | None = None
    arguments: str | None = None


class UsualCall(msgspec.Struct, gc=False):
    """A call of a tool."""

    function: UsualFunction


class UsualMessage(msgspec.Struct, gc=False):
    """A message or delta."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[UsualCall] | None = None
    reasoning_details: Any = None
    function_call: None = None
    audio: None = None
    text: None = None


def decoded(decoder: msgspec.json.Decoder[Whole], data: bytes) -> Whole:
    """Decode. Raises one of NOT_USUAL."""
    if not data.isascii():
        data.decode()
    return decoder.decode(data)


def bytes_said(message: UsualMessage) -> int:
    """What `usage.bytes_said` counts."""
    content = message.content
    said = (len(content) if content.isascii() else len(content.encode())) if content else 0
    if message.reasoning_content or message.reasoning or message.reasoning_details:
        said += max(size(message.reasoning_content), size(message.reasoning), size(message.reasoning_details))
    if message.refusal:
        said += size(message.refusal)
    if message.tool_calls:
        for call in message.tool_calls:
            said += size(call.function.name) + size(call.function.arguments)
    return said
