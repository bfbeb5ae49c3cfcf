"""An answer in OpenAI's format that came in one piece."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from synaxis_gateway.wire import error_said
from synaxis_gateway.wire.error_said import ErrorSaid
from synaxis_gateway.wire.openai_request import Endpoint
from synaxis_gateway.wire.usage import bytes_said
from synaxis_gateway.wire.usual_message import NOT_USUAL, UsualMessage, decoded
from synaxis_gateway.wire.usual_message import bytes_said as bytes_in

FAILED: Final = ("error", "abort")
"""Finish reasons that are no end: OpenRouter's for a failure in its midst, vLLM's for an answer given up."""

UsualObject = Literal["chat.completion", "chat.completion.chunk", "text_completion", "list", ""] | None
UsualFinish = Literal["stop", "length", "tool_calls", "content_filter", "function_call", "eos", ""] | None
"""What nearly all say. Whatever else it is may be an error, and is looked at closely."""


class WholeAnswer(msgspec.Struct, frozen=True):
    """What an answer holds besides the bytes that go to the client."""

    usage: Any
    """The provider's `usage` object, as yet unchecked."""
    content_bytes: int
    """Bytes of text in it, for an estimate where there is no usage."""


@dataclass(frozen=True, slots=True)
class EmbeddedError:
    """An error object inside of an answer or event that claimed to be fine."""

    status: int | None
    """The HTTP status that its code stands for, where it is one."""
    text: str
    said: ErrorSaid | None = None
    """The error taken apart."""

    @classmethod
    def of(cls, said: ErrorSaid) -> EmbeddedError:
        """The error that `said` is."""
        return cls(said.status, " ".join((*said.codes, said.text)), said)


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """Bytes that are no answer, and why."""

    reason: str


class _UsualChoice(msgspec.Struct, gc=False):
    message: UsualMessage
    finish_reason: UsualFinish = None
    error: None = None


class _UsualChat(msgspec.Struct, gc=False):
    choices: list[_UsualChoice]
    usage: Any = None
    error: None = None
    object: UsualObject = None
    type: None = None


class _AnyObject(msgspec.Struct, gc=False):
    """Its vectors are not our business."""


class _UsualEmbeddings(msgspec.Struct, gc=False):
    data: list[_AnyObject]
    usage: Any = None
    error: None = None
    object: UsualObject = None
    type: None = None


_CHAT: Final = msgspec.json.Decoder(_UsualChat)
_EMBEDDINGS: Final = msgspec.json.Decoder(_UsualEmbeddings)


def read(body: bytes, endpoint: Endpoint) -> WholeAnswer | EmbeddedError | NoAnswer:
    """What the body of a 200 is."""
    return _usual(body, endpoint) or closely(body, endpoint)


def _usual(body: bytes, endpoint: Endpoint) -> WholeAnswer | None:
    """An answer like nearly all are; None: look closer."""
    content = 0
    try:
        if endpoint == "chat":
            chat = decoded(_CHAT, body)
            for choice in chat.choices:
                content += bytes_in(choice.message)
            answer: _UsualChat | _UsualEmbeddings = chat
            entries = len(chat.choices)
        elif endpoint == "embeddings":
            embeddings = decoded(_EMBEDDINGS, body)
            answer, entries = embeddings, len(embeddings.data)
        else:
            return None
    except NOT_USUAL:
        return None
    if not entries:
        return None
    return WholeAnswer(answer.usage, content)


def closely(body: bytes, endpoint: Endpoint) -> WholeAnswer | EmbeddedError | NoAnswer:
    """`read` for whatever it may be."""
    if not body.strip():
        return NoAnswer("empty body")
    if body.lstrip()[:1] == b"<":
        return NoAnswer("a page, not JSON")
    try:
        answer = msgspec.json.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return NoAnswer("not JSON")
    if not isinstance(answer, dict):
        return NoAnswer("not a JSON object")
    if error_said.is_error(answer):
        return EmbeddedError.of(error_said.of(answer))
    entries = answer.get("data" if endpoint == "embeddings" else "choices")
    if not isinstance(entries, list) or not entries:
        return NoAnswer("no choices" if endpoint != "embeddings" else "no embeddings")
    content = 0
    if endpoint != "embeddings":
        for choice in entries:
            message = choice.get("message", choice) if isinstance(choice, dict) else None
            if not isinstance(message, dict):
                return NoAnswer("a choice without a message")
            if choice.get("error") or choice.get("finish_reason") in FAILED:
                return EmbeddedError.of(error_said.of(choice))
            content += bytes_said(message)
    return WholeAnswer(usage=answer.get("usage"), content_bytes=content)
