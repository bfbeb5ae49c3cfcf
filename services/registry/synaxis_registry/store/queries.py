"""SQL by name: each `sql/*.sql` holds queries that begin with `-- name: <name>`."""

from __future__ import annotations

import re
from importlib.resources import files

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def load(module: str) -> dict[str, str]:
    """The queries of `sql/<module>.sql` by name. Raises ValueError when a name stands twice."""
    text = files("synaxis_registry.store").joinpath("sql", f"{module}.sql").read_text(encoding="utf-8")
    parts = _NAME.split(text)[1:]
    found: dict[str, str] = {}
    for name, body in zip(parts[::2], parts[1::2], strict=True):
        if name in found:
            raise ValueError(f"{module}.sql has two queries named {name}")
        found[name] = body.strip()
    return found
