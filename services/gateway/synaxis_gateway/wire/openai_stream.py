"""A streamed answer in OpenAI's format, event by event.

Nearly all events of a stream are alike: one line of data, in it a chunk that holds a piece of text. `skim`
reads those where they lie in the bytes that arrived. Whatever is not quite of that kind is left to `read`,
which knows everything; of an event that both can read they say the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final

import msgspec

from synaxis_gateway.wire import error_said
from synaxis_gateway.wire.openai_answer import FAILED, EmbeddedError, UsualFinish, UsualObject
from synaxis_gateway.wire.sse import Event
from synaxis_gateway.wire.usage import bytes_said, size
from synaxis_gateway.wire.usual_message import NOT_USUAL, UsualMessage
from synaxis_gateway.wire.usual_message import bytes_said as bytes_in

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


class _UsualChoice(msgspec.Struct, gc=False):
    index: int = 0
    delta: UsualMessage | None = None
    text: str | None = None
    finish_reason: UsualFinish = None
    error: None = None


class _UsualChunk(msgspec.Struct, gc=False):
    choices: list[_UsualChoice]
    usage: Any = None
    error: None = None
    object: UsualObject = None
    type: None = None


_decode_usual: Final = msgspec.json.Decoder(_UsualChunk).decode
_CR: Final = 0x0D


class StreamReader:
    """Reads the events of one stream and knows how far it has come."""

    def __init__(self) -> None:
        self.usage: Any = None
        self.content_bytes = 0
        self.is_complete = False
        """Whether every choice that was begun has said why it ended. Nothing else is a proper end."""
        self._unfinished: set[int] = set()
        self._finished: set[int] = set()

    @property
    def has_begun(self) -> bool:
        """Whether there was content, or an end that says why there is none: both are an answer."""
        return self.content_bytes > 0 or self.is_complete

    def skim(self, block: bytes, begin: int, *, to_content: bool = False) -> int:
        """Read on from `begin` through usual chunks; where the first event begins that is not one.

        Usual are chunks with choices: content and lifecycle, and nothing that could be left out or be an end.
        `to_content`: stop behind the first event that says something, be it only why there is no content.
        """
        unfinished = self._unfinished
        length = len(block)
        while begin < length:
            if block.startswith(b"data: {", begin):
                start = begin + 6
            elif block.startswith(b"data:{", begin):
                start = begin + 5
            else:
                break
            end = block.find(b"\n", start)
            if end < 0:
                break
            if block.startswith(b"\n", end + 1):
                after = end + 2
            elif block.startswith(b"\r\n", end + 1):
                after = end + 3
                end -= 1
                if block[end] != _CR:
                    break
            else:
                break
            data = block[start:end]
            if b"\r" in data:
                break
            try:
                if not data.isascii():
                    data.decode()  # see `usual_message`; not a call, for each event comes by here
                chunk = _decode_usual(data)
            except NOT_USUAL:
                break
            choices = chunk.choices
            if not choices:
                break
            if chunk.usage is not None:
                self.usage = chunk.usage
            for choice in choices:
                if choice.finish_reason or choice.index not in unfinished:
                    self._note(choice.index, is_finished=bool(choice.finish_reason))
                delta = choice.delta
                said = 0 if delta is None else bytes_in(delta)
                if choice.text:
                    said += size(choice.text)
                if not said and delta is not None and delta.tool_calls:
                    said = 1  # of a call that says nothing yet
                self.content_bytes += said
            begin = after
            if to_content and self.has_begun:
                break
        return begin

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
        self._note(index, is_finished=bool(choice.finish_reason))  # some say "" in all but the last
        delta = choice.delta if isinstance(choice.delta, dict) else {}
        has_content = bool(choice.text) or any(delta.get(name) for name in _CONTENT_FIELDS)
        said = bytes_said(delta) + bytes_said({"text": choice.text})
        return max(said, int(has_content))

    def _note(self, index: int, *, is_finished: bool) -> None:
        """How far a choice has come."""
        if is_finished:
            self._finished.add(index)
            self._unfinished.discard(index)
        elif index not in self._finished:
            self._unfinished.add(index)
        self.is_complete = bool(self._finished) and not self._unfinished


def _error(event: Event, data: bytes) -> Reading:
    return Reading(event, Meaning.ERROR, EmbeddedError.of(error_said.read(data)))
