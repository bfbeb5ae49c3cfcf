"""Headers of an answer as they go out, a line each: what is the same for many answers is joined once."""

from __future__ import annotations

from collections.abc import Mapping


def join(headers: Mapping[str, str]) -> str:
    """The lines of `headers`, whose names and values hold no line ends."""
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items())


def split(lines: str) -> dict[str, str]:
    """The headers of `lines` again, for who wants them one by one."""
    return dict(line.split(": ", 1) for line in lines.splitlines())
