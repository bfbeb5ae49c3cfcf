"""One stream made of two: the chunks of the second look as if the first had gone on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from synaxis_common.contracts.usage import TokenUsage
from synaxis_gateway.wire.sse import Event, EventSplitter

MAX_TEXT_BYTES: Final = 1024 * 1024
"""A longer answer is not remembered, and so cannot be continued."""

_NOT_TEXT: Final = (
    "reasoning_content",
    "reasoning",
    "reasoning_details",
    "tool_calls",
    "function_call",
    "refusal",
    "audio",
)
_FRAME: Final = ("id", "created", "model", "object")
"""Fields that every chunk of a stream repeats."""


class Transcript:
    """What a client has been sent so far. Feed it what was sent."""

    def __init__(self) -> None:
        self.frame: dict[str, Any] = {}
        self.objection: str | None = None
        """Why what was sent cannot be continued."""
        self._texts: list[str] = []
        self._bytes = 0
        self._splitter = EventSplitter()

    @property
    def text(self) -> str:
        """The answer so far."""
        return "".join(self._texts)

    def take(self, sent: bytes) -> None:
        """More was sent: whole events, as a stream gives them."""
        if self.objection is not None:
            return
        for event in self._splitter.feed(sent):
            chunk = _chunk(event)
            if chunk is not None:
                self._learn(chunk)

    def _learn(self, chunk: dict[str, Any]) -> None:
        for name in _FRAME:
            if name in chunk:
                self.frame.setdefault(name, chunk[name])
        for choice in _choices(chunk):
            delta = _delta(choice)
            if choice.get("index") not in (0, None):
                self.objection = "it has several choices"
            elif choice.get("logprobs"):
                self.objection = "it has log probabilities"
            elif choice.get("finish_reason"):
                self.objection = "it was finished"
            elif any(delta.get(name) for name in _NOT_TEXT):
                self.objection = "it is not only text"
            content = delta.get("content")
            if isinstance(content, str):
                self._texts.append(content)
                self._bytes += len(content)
            elif content:
                self.objection = "it is not only text"
        if self._bytes > MAX_TEXT_BYTES:
            self.objection = "it is too long"
            self._texts.clear()


class Joined:
    """The second stream, chunk by chunk, in the frame of the first.

    `used` is what was used before. What the second repeats of the text that it was given, white space at the
    end that it was not given (`held_back`) or all of it where it `may_repeat`, is left out.
    """

    def __init__(
        self,
        transcript: Transcript,
        providers: Sequence[str],
        used: TokenUsage,
        *,
        held_back: str = "",
        may_repeat: bool = False,
    ) -> None:
        self._transcript = transcript
        self._mark = {"continued": True, "providers": list(providers)}
        self._used = used
        self._frame = dict(transcript.frame)
        self._repeats = transcript.text if may_repeat else held_back
        self._may_be_partial = not may_repeat
        self._waiting = ""
        self._splitter = EventSplitter()

    def take(self, piece: bytes) -> bytes:
        """What the client is sent for a piece of the second stream: whole events."""
        sent = b"".join([self._rewritten(event) for event in self._splitter.feed(piece)])
        self._transcript.take(sent)
        return sent

    def _rewritten(self, event: Event) -> bytes:
        chunk = _chunk(event)
        if chunk is None:
            return event.raw
        choices = _choices(chunk)
        is_final = bool(chunk.get("usage")) or any(choice.get("finish_reason") for choice in choices)
        for choice in choices:
            delta = _delta(choice)
            delta.pop("role", None)
            if isinstance(delta.get("content"), str):
                delta["content"] = self._new(delta["content"], is_last=bool(choice.get("finish_reason")))
            elif choice.get("finish_reason") and self._waiting:
                delta["content"] = self._new("", is_last=True)
            choice["delta"] = {name: value for name, value in delta.items() if value not in ("", None)}
        says_something = any(choice["delta"] for choice in choices)
        if choices and not says_something and not is_final:
            return b""
        if chunk.get("usage"):
            chunk["usage"] = summed(chunk["usage"], self._used)
        if is_final:
            chunk["synaxis"] = self._mark
        return b"data: " + msgspec.json.encode(chunk | self._frame) + b"\n\n"

    def _new(self, content: str, *, is_last: bool) -> str:
        """What of `content` the client does not have yet; held while that is not clear."""
        if not self._repeats:
            return content
        said = self._waiting + content
        if said.startswith(self._repeats):
            known, self._repeats, self._waiting = len(self._repeats), "", ""
            return said[known:]
        if self._repeats.startswith(said) and not is_last:
            self._waiting = said
            return ""
        repeats, self._repeats, self._waiting = self._repeats, "", ""
        if not self._may_be_partial:
            return said
        return said[_common(said, repeats) :]


def summed(usage: Any, before: TokenUsage) -> Any:
    """A `usage` object with what was used before in its totals."""
    if not isinstance(usage, dict):
        return usage
    prompt = _count(usage.get("prompt_tokens")) + before.input
    completion = _count(usage.get("completion_tokens")) + before.output
    totals = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return usage | totals


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _common(one: str, other: str) -> int:
    length = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        length += 1
    return length


def _chunk(event: Event) -> dict[str, Any] | None:
    """The chunk in an event that has one: not for comments and `[DONE]`."""
    if event.data is None or event.data.strip() == b"[DONE]":
        return None
    try:
        chunk = msgspec.json.decode(event.data)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None  # a number that no float holds, somewhere in a field of its own: goes on as it is
    return chunk if isinstance(chunk, dict) else None


def _choices(chunk: dict[str, Any]) -> list[dict[str, Any]]:
    choices = chunk.get("choices")
    return [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []


def _delta(choice: dict[str, Any]) -> dict[str, Any]:
    delta = choice.get("delta")
    return delta if isinstance(delta, dict) else {}
