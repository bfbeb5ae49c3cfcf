"""When a provider says it wants to be asked again. Many ways of saying it are in use."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

MAX_RETRY_AFTER_S = 600.0
"""Nobody is left alone longer on their own word: conditions change, and hints can be wrong."""

_DURATION = re.compile(
    r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?", re.ASCII
)
_UNITS_S = (86_400.0, 3_600.0, 60.0, 1.0, 0.001)
_MS_HEADERS = ("retry-after-ms", "x-ms-retry-after-ms")
_RESET_HEADERS = (
    ("x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
    ("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
    ("x-ratelimit-remaining", "x-ratelimit-reset"),
    ("ratelimit-remaining", "ratelimit-reset"),
    ("anthropic-ratelimit-requests-remaining", "anthropic-ratelimit-requests-reset"),
    ("anthropic-ratelimit-input-tokens-remaining", "anthropic-ratelimit-input-tokens-reset"),
    ("anthropic-ratelimit-output-tokens-remaining", "anthropic-ratelimit-output-tokens-reset"),
    ("anthropic-ratelimit-tokens-remaining", "anthropic-ratelimit-tokens-reset"),
)
"""What is left, and when it is full again; the latter says something only once nothing is left."""
_IN_WORDS = re.compile(
    r"(?:try again|retry|available again)\s+(?:in|after)\s+([\d.]{1,12}(?:h|m|s|ms)?[\d.hms]{0,20})"
    r"(?:\s*(milliseconds?|seconds?|secs?|minutes?|mins?))?",
    re.ASCII,
)


def read(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds to wait, at most MAX_RETRY_AFTER_S; None where nothing is said that can be read."""
    for name in _MS_HEADERS:
        milliseconds = _number(headers.get(name, ""))
        if milliseconds is not None:
            return _bounded(milliseconds / 1000)
    said = headers.get("retry-after", "").strip()
    if said:
        seconds = _seconds(said)
        if seconds is None:
            seconds = _until(said, now)
        if seconds is not None:
            return _bounded(seconds)
    waits = [
        wait
        for remaining, reset in _RESET_HEADERS
        if headers.get(remaining, "").strip() == "0"
        and (wait := _reset_s(headers.get(reset, "").strip(), now)) is not None
    ]
    # Of several limits that are spent, all have to be free again.
    return _bounded(max(waits)) if waits else None


def in_words(text: str) -> float | None:
    """Seconds to wait as an error's words say it, in lower case: `please try again in 2.1s`."""
    found = _IN_WORDS.search(text)
    if found is None:
        return None
    value, unit = found.group(1).rstrip("."), found.group(2) or ""
    if unit.startswith("milli"):
        return _bounded(seconds / 1000) if (seconds := _number(value)) is not None else None
    seconds = _seconds(value)
    if seconds is None:
        return None
    return _bounded(seconds * (60.0 if unit.startswith("mi") else 1.0))


def _bounded(seconds: float) -> float:
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_S)


def _number(text: str) -> float | None:
    text = text.strip()
    return float(text) if re.fullmatch(r"\d{1,15}(?:\.\d{1,9})?", text, re.ASCII) else None


def _seconds(text: str) -> float | None:
    number = _number(text)
    if number is not None:
        return number
    parts = _DURATION.fullmatch(text[:40])
    if parts is None or not any(parts.groups()):
        return None
    return sum(
        float(part) * unit for part, unit in zip(parts.groups(), _UNITS_S, strict=True) if part is not None
    )


def _reset_s(text: str, now: datetime) -> float | None:
    """A duration, or the moment of the reset: a Unix time in seconds or milliseconds, or a date."""
    seconds = _seconds(text)
    if seconds is None:
        return _until(text, now)
    if seconds > 1e12:
        seconds = seconds / 1000
    return seconds - now.timestamp() if seconds > 1e9 else seconds


def _until(text: str, now: datetime) -> float | None:
    """Seconds until an HTTP date or one of RFC 3339."""
    moment: datetime
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        try:
            moment = datetime.fromisoformat(text[:40])
        except ValueError:
            return None
    return (moment.replace(tzinfo=moment.tzinfo or UTC) - now).total_seconds()
