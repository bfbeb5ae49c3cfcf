"""A streamed answer in OpenAI's format, event by event."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import msgspec

from synaxis_gateway.wire import error_said
from synaxis_gateway.wire.openai_answer import FAILED, EmbeddedError
from synaxis_gateway.wire.sse import Event
from synaxis_gateway.wire.usage import bytes_said

DONE = b"data: [DONE]\n\n"

_CONTENT_FIELDS = (
    "content",
    "reasoning_content",
    "reasoning",
    "reasoning_details",
    "tool_calls",
    "function_call",
    "refusal",
    "audio",
)


class Meaning(Enum):
    """What an event is."""

    CONTENT = auto()
    """Part of the answer: text, reasoning, a tool call. From the first one on there is no way back."""
    LIFECYCLE = auto()
    """A role, a comment, a finish without text: says nothing yet."""
    USAGE = auto()
    """The token counts, in a chunk of their own."""
    DONE = auto()
    """`[DONE]`."""
    ERROR = auto()
    """An error in place of content."""
    GARBAGE = auto()
    """Not a chunk."""


@dataclass(frozen=True, slots=True)
class Reading:
    """An event and what it means."""

    event: Event
    meaning: Meaning
    error: EmbeddedError | None = None


class _Choice(msgspec.Struct):
    index: Any = 0
    delta: Any = None
    text: Any = None
    finish_reason: Any = None
    error: Any = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: Any = None
    error: Any = None
    object: Any = None
    type: Any = None


_DECODER = msgspec.json.Decoder(_Chunk)


class StreamReader:
    """Reads the events of one stream and knows how far it has come."""

    def __init__(self) -> None:
        self.usage: Any = None
        self.content_bytes = 0
        self._unfinished: set[int] = set()
        self._finished: set[int] = set()

    @property
    def is_complete(self) -> bool:
        """Whether every choice that was begun has said why it ended. Nothing else is a proper end."""
        return bool(self._finished) and not self._unfinished

    def read(self, event: Event) -> Reading:
        """What the next event means."""
        data = event.data
        if data is None:
            data = event.raw.strip()
            if data[:1] not in (b"{", b"<"):
                return Reading(event, Meaning.LIFECYCLE)
            # No event at all, but an answer's body: an error as plain JSON, or the page of a front.
        if data.strip() == b"[DONE]":
            return Reading(event, Meaning.DONE)
        try:
            chunk = _DECODER.decode(data)
        except (msgspec.DecodeError, ValueError, RecursionError):
            return _error(event, data) if event.name == "error" else Reading(event, Meaning.GARBAGE)
        if event.name == "error" or chunk.error or "error" in (chunk.object, chunk.type):
            return _error(event, data)
        for choice in chunk.choices or ():
            if choice.error or choice.finish_reason in FAILED:
                return Reading(event, Meaning.ERROR, EmbeddedError.of(error_said.of(choice.error)))
        if event.data is None:
            return Reading(event, Meaning.GARBAGE)
        if chunk.usage is not None:
            self.usage = chunk.usage
        content = sum([self._read_choice(choice) for choice in chunk.choices or ()])
        self.content_bytes += content
        if content:
            return Reading(event, Meaning.CONTENT)
        if not chunk.choices and chunk.usage is not None:
            return Reading(event, Meaning.USAGE)
        return Reading(event, Meaning.LIFECYCLE)

    def _read_choice(self, choice: _Choice) -> int:
        """Bytes of content in a choice, at least 1 where there is any."""
        index = choice.index if isinstance(choice.index, int) else 0
        if choice.finish_reason:  # some say "" in every chunk that is not the last
            self._finished.add(index)
            self._unfinished.discard(index)
        elif index not in self._finished:
            self._unfinished.add(index)
        delta = choice.delta if isinstance(choice.delta, dict) else {}
        has_content = bool(choice.text) or any(delta.get(name) for name in _CONTENT_FIELDS)
        said = bytes_said(delta) + bytes_said({"text": choice.text})
        return max(said, int(has_content))


def _error(event: Event, data: bytes) -> Reading:
    return Reading(event, Meaning.ERROR, EmbeddedError.of(error_said.read(data)))
