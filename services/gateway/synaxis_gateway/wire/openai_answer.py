"""An answer in OpenAI's format that came in one piece."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from synaxis_gateway.wire.openai_request import Endpoint
from synaxis_gateway.wire.usage import bytes_said


@dataclass(frozen=True, slots=True)
class WholeAnswer:
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


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """Bytes that are no answer, and why."""

    reason: str


def read(body: bytes, endpoint: Endpoint) -> WholeAnswer | EmbeddedError | NoAnswer:
    """What the body of a 200 is."""
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
    if answer.get("error"):
        return embedded_error(answer["error"])
    entries = answer.get("data" if endpoint == "embeddings" else "choices")
    if not isinstance(entries, list) or not entries:
        return NoAnswer("no choices" if endpoint != "embeddings" else "no embeddings")
    content = 0
    if endpoint != "embeddings":
        for choice in entries:
            message = choice.get("message", choice) if isinstance(choice, dict) else None
            if not isinstance(message, dict):
                return NoAnswer("a choice without a message")
            content += bytes_said(message)
    return WholeAnswer(usage=answer.get("usage"), content_bytes=content)


def embedded_error(error: Any) -> EmbeddedError:
    """What an `error` value says: an object with a code or a type, or just a text."""
    if not isinstance(error, dict):
        return EmbeddedError(None, str(error))
    text = " ".join(str(error[name]) for name in ("code", "type", "message") if error.get(name))
    for name in ("code", "status", "status_code"):
        code = error.get(name)
        if isinstance(code, str) and code.isascii() and code.isdigit():
            code = int(code[:4])
        if isinstance(code, int) and 400 <= code <= 599:
            return EmbeddedError(code, text)
    return EmbeddedError(None, text)
