"""Which environment variables may hold a provider's key.

models.dev names both a key's variable and the host that the key goes to, and an operator may name a
variable for a provider of their own. Neither may reach a secret that was put there for something else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

_NAME = re.compile(r"[A-Z0-9][A-Z0-9_]{2,99}")

_FORBIDDEN: Final = re.compile(
    r"""(?x)
      SYNAXIS_.* | NATS.* | PG[A-Z]+ | POSTGRES.* | DATABASE.* | KUBERNETES_.* | LD_.* | PYTHON.* | SSL_.*
    | XDG_.* | PATH | HOME | USER | SHELL | PWD | LANG | TERM | HOSTNAME | TMPDIR | LOGNAME | MAIL | DISPLAY
    """
)
"""Ours, our stores', and the machine's own: these never hold a provider's key."""

_SET_BY_OTHERS: Final = re.compile(
    r"""(?x)
      GITHUB_.* | GH_TOKEN | GITLAB_.* | GOOGLE_APPLICATION_CREDENTIALS | GOOGLE_VERTEX_.* | GCP_.*
    | GCLOUD_.* | AWS_.* | AZURE_CLIENT_.* | AZURE_TENANT_.* | DOCKER_.* | NPM_.* | CI_.*
    """
)
"""Other programs set these for purposes of their own, so their presence says nothing about Synaxis."""


def is_forbidden(name: str) -> bool:
    """Whether `name` may never be read as a provider's key, whoever asks."""
    return _NAME.fullmatch(name) is None or _FORBIDDEN.fullmatch(name) is not None


def switches_on(name: str) -> bool:
    """Whether the presence of `name` alone is an operator's wish to use the provider that names it."""
    return not is_forbidden(name) and _SET_BY_OTHERS.fullmatch(name) is None


def find_key(names: Iterable[str], environment: Mapping[str, str]) -> str | None:
    """The key of a provider: the value of the first of `names` that is set and may be read."""
    for name in names:
        value = environment.get(name, "").strip()
        if value and not is_forbidden(name):
            return value
    return None
