"""Records to JSON and back, exactly: amounts are decimal strings, times ISO 8601 in UTC."""

from __future__ import annotations

from typing import Generic, TypeVar

from pydantic import TypeAdapter

from synaxis_registry.core.health import HealthState
from synaxis_registry.core.records import GlobalModelRecord, ProviderModelRecord, ProviderRecord

R = TypeVar("R")


class Codec(Generic[R]):
    """Writes and reads one kind of record."""

    def __init__(self, kind: type[R]) -> None:
        self._adapter = TypeAdapter(kind)

    def write(self, record: R) -> str:
        """The record as JSON."""
        return self._adapter.dump_json(record).decode()

    def read(self, text: str) -> R:
        """The record again. Raises pydantic.ValidationError for what no version of ours has written."""
        return self._adapter.validate_json(text)


PROVIDER = Codec(ProviderRecord)
PROVIDER_MODEL = Codec(ProviderModelRecord)
GLOBAL_MODEL = Codec(GlobalModelRecord)
HEALTH = Codec(HealthState)
