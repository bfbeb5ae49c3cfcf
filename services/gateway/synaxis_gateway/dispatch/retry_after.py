"""When a provider says it wants to be asked again. Five ways of saying it are in use."""

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
    for remaining, reset in _RESET_HEADERS:
        if headers.get(remaining, "").strip() == "0":
            seconds = _seconds(headers.get(reset, "").strip())
            if seconds is not None:
                # Some give the moment of the reset, as a Unix time, in seconds or milliseconds.
                if seconds > 1e12:
                    seconds = seconds / 1000
                if seconds > 1e9:
                    seconds -= now.timestamp()
                return _bounded(seconds)
    return None


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


def _until(text: str, now: datetime) -> float | None:
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError):
        return None
    return (moment.replace(tzinfo=moment.tzinfo or UTC) - now).total_seconds()
