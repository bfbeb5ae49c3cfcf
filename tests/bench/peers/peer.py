"""What the comparison has to know of a peer: how it is installed, started and asked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Launch:
    """How a peer is started."""

    command: tuple[str, ...]
    completions: str | None
    """Where it will answer; None: it says so itself, on a line that begins with `LISTENING`."""
    environment: Mapping[str, str] = field(default_factory=dict)


LISTENING = "listening at "


@dataclass(frozen=True, slots=True)
class Peer:
    """One other gateway, with as little switched on as it can have."""

    name: str
    version: str
    model: str
    """What a request calls the upstream's model."""
    install: Callable[[Path], Awaitable[None]]
    """Into a folder that is there and empty. Raises NotInstalled."""
    launch: Callable[[Path, str, int], Launch]
    """With the folder that it was installed into, the root of the upstream, and a free port."""
    key: str = "none"
    headers: Callable[[str], tuple[str, ...]] = lambda _upstream: ()
    """More lines for the head of a request, with the root of the upstream."""

    @property
    def title(self) -> str:
        """As it stands in tables."""
        return f"{self.name} {self.version}"
