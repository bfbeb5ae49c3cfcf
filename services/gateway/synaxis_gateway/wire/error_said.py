"""What an error says, whatever shape its provider gives it: codes, words, and when to come back.

Codes are what a program wrote for programs; words may repeat what a client sent. So they are kept apart, and
what stands in quotation marks, or is named `input`, is no part of the words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

MAX_PARSED_BYTES: Final = 64 * 1024
"""Of a larger body only the words at its beginning are looked at; a real error has a few hundred bytes."""
MAX_TEXT: Final = 2_000
"""Characters of an error's words that are looked at."""
MAX_CODES: Final = 16
_MAX_CODE: Final = 100

_CODES: Final = ("error_code", "code", "reason", "type", "status", "error_type", "title")
"""Names under which codes are found, the most specific first."""
_WORDS: Final = ("message", "detail", "msg", "error_message", "error_description")
_STATUSES: Final = ("code", "status", "status_code", "statusCode", "http_status")
_ENVELOPES: Final = frozenset({"error", "object", "list"})
"""What some write into `type` or `object` to say that this is an error."""
_MAX_NESTED: Final = 8

_QUOTED: Final = re.compile(r"(?<!\w)'[^']*'(?!\w)|\"[^\"]*\"|`[^`]*`|“[^”]*”")
_DURATION: Final = re.compile(r"\d{1,9}(?:\.\d{1,9})?s", re.ASCII)


@dataclass(frozen=True, slots=True)
class ErrorSaid:
    """An error, taken apart."""

    codes: tuple[str, ...] = ()
    """Lower case, the most specific first."""
    text: str = ""
    """Lower case, without what it quotes."""
    quoted_text: str = ""
    """The words of another provider that a reseller passes on: about the request, never about our account."""
    status: int | None = None
    """The HTTP status that a code in it stands for."""
    wait_s: float | None = None
    """When to come back, where the body says so."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers told in the body (OpenRouter's way of passing on those of others), names in lower case."""
    is_page: bool = False
    """A page for people: whoever answered, it was not the API."""


def read(body: bytes) -> ErrorSaid:
    """Take the body of an error apart. Anything at all may be in it."""
    head = body[: 4 * MAX_TEXT].lstrip()
    if head[:1] == b"<":
        return ErrorSaid(is_page=True)
    if head[:1] in (b"{", b"[", b'"') and len(body) <= MAX_PARSED_BYTES:
        try:
            return of(msgspec.json.decode(body))
        except (msgspec.DecodeError, ValueError, RecursionError):
            pass  # cut off, or not JSON after all: its words are still worth something
    return ErrorSaid(text=_words(head.decode(errors="replace")))


def of(document: Any) -> ErrorSaid:
    """Take an error apart that is JSON already: a whole body, or the value of its `error`."""
    if isinstance(document, list):
        document = document[0] if document else None  # Gemini's OpenAI endpoint wraps its error in a list
    if isinstance(document, str):
        return ErrorSaid(text=_words(document))
    if not isinstance(document, dict):
        return ErrorSaid()
    parts = list(_parts(document))
    codes: list[str] = []
    for part in parts:
        codes += (code for name in _CODES if (code := _code(part.get(name))) and code not in codes)
    return ErrorSaid(
        codes=tuple(codes[:MAX_CODES]),
        text=_words(" ".join(_texts(parts))),
        quoted_text=_words(_raw_of_others(parts)),
        status=next((status for part in parts if (status := _status(part)) is not None), None),
        wait_s=next((wait for part in parts if (wait := _wait_s(part)) is not None), None),
        headers=next((headers for part in parts if (headers := _headers(part))), {}),
    )


def is_error(document: Mapping[str, Any]) -> bool:
    """Whether an object that came where an answer should calls itself an error."""
    return bool(document.get("error")) or "error" in (document.get("object"), document.get("type"))


def _parts(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The objects that make up an error, the innermost, which is the most specific, first."""
    inner: list[dict[str, Any]] = []
    outer = [document]
    while len(outer) + len(inner) < _MAX_NESTED:
        last = outer[-1]
        nested = last.get("error") or last.get("errors")
        if isinstance(nested, list):
            nested = nested[0] if nested else None
        if not isinstance(nested, dict):
            break
        outer.append(nested)
    for part in outer:
        for name in ("innererror", "inner_error", "details", "metadata", "message", "detail"):
            value = part.get(name)
            entries = value if isinstance(value, list) else [value]
            inner += [entry for entry in entries[:_MAX_NESTED] if isinstance(entry, dict)]
    for part in list(inner):
        details = part.get("detail")  # Mistral: {"message": {"detail": [...]}}
        if isinstance(details, list):
            inner += [entry for entry in details[:_MAX_NESTED] if isinstance(entry, dict)]
    yield from inner
    yield from reversed(outer)


def _code(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_CODE:
        return ""
    code = value.strip().lower()
    return "" if code in _ENVELOPES or code.isdigit() else code


def _texts(parts: list[dict[str, Any]]) -> Iterator[str]:
    for part in reversed(parts):
        for name in (*_WORDS, "error"):
            value = part.get(name)
            if isinstance(value, str):
                yield value[:MAX_TEXT]


def _raw_of_others(parts: list[dict[str, Any]]) -> str:
    return " ".join(raw[:MAX_TEXT] for part in parts if isinstance(raw := part.get("raw"), str))


def _status(part: dict[str, Any]) -> int | None:
    for name in _STATUSES:
        value = part.get(name)
        if isinstance(value, str) and value.isascii() and value.isdigit():
            value = int(value[:4])
        if isinstance(value, int) and not isinstance(value, bool) and 400 <= value <= 599:
            return value
    return None


def _wait_s(part: dict[str, Any]) -> float | None:
    delay = part.get("retryDelay")  # Google's RetryInfo: "36s"
    if isinstance(delay, str) and _DURATION.fullmatch(delay):
        return float(delay[:-1])
    for name in ("estimated_time", "retry_after", "retry_after_seconds"):  # Hugging Face; others
        value = part.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e9:
            return float(value)
    return None


def _headers(part: dict[str, Any]) -> dict[str, str]:
    headers = part.get("headers")
    if not isinstance(headers, dict):
        return {}
    return {name.lower(): value for name, value in list(headers.items())[:32] if isinstance(value, str)}


def _words(text: str) -> str:
    return _QUOTED.sub(" ", text[: 2 * MAX_TEXT]).lower()[:MAX_TEXT]
