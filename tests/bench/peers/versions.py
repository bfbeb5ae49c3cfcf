"""What is installed of the peers: each version is pinned here and nowhere else."""

from __future__ import annotations

LITELLM = "1.106.12"
"""The newest whose extra `proxy` can be installed whole from the index that this was written with."""
PORTKEY = "1.15.2"
TENSORZERO = "2026.6.0"

HONO_NODE_SERVER = "1.13.5"
"""The HTTP server under Portkey's gateway. With later ones, which its range allows, streams answer 500."""

HTTPTOOLS = "0.9.0"
"""Uvicorn's quicker parser, which LiteLLM's extra `proxy` leaves out: with it there, Uvicorn takes it."""

PINS = f"{LITELLM} {HTTPTOOLS} {PORTKEY} {HONO_NODE_SERVER} {TENSORZERO}"
"""When one of these changes, all is installed anew."""

COMPROMISED = {"litellm": frozenset({"1.82.7", "1.82.8", "1.107.0"})}
"""Releases that somebody else had got to publish, by package. Never to be installed, not even to measure."""


class Compromised(Exception):
    """A version that is never to be installed."""


def requirement(package: str, version: str, extra: str = "") -> str:
    """As pip takes it: exactly this version. Raises Compromised."""
    if version in COMPROMISED.get(package, ()):
        raise Compromised(f"{package} {version} was published by somebody who had broken in")
    return f"{package}{f'[{extra}]' if extra else ''}=={version}"
