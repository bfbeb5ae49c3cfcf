"""Which events a reader wants, and may have."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from synaxis_common import subjects
from synaxis_common.contracts.events import EventType

MAX_SUBJECTS = 64
"""Filters of one consumer; beyond that all events are read and the rest dropped here."""
ALL_SUBJECTS = (f"{subjects.EVENTS}.>",)
_PREFIX = subjects.EVENTS.count(".") + 1


class NoSuchEvent(ValueError):
    """A filter names an event that there is not, or filters that exclude each other."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A filter on events. Empty sets take any; `tenant_id` None takes the budgets of all tenants."""

    types: frozenset[EventType]
    providers: frozenset[str] = frozenset()
    """Provider ids, as tokens."""
    models: frozenset[str] = frozenset()
    """Global model ids, as tokens."""
    tenant_id: str | None = None

    def takes(self, subject: str) -> bool:
        """Whether an event of this subject is wanted."""
        tokens = subject.split(".")[_PREFIX:]
        length = 3 if tokens[0] == "tenant" else 2
        kind, about = ".".join(tokens[:length]), tokens[length:]
        if kind not in self.types:
            return False
        match tokens[0]:
            case "model":
                return _is_in(about[0], self.providers) and _is_in(about[1], self.models)
            case "provider":
                return _is_in(about[0], self.providers) and not self.models
            case _:
                is_allowed = self.tenant_id is None or about[0] == subjects.token(self.tenant_id)
                return is_allowed and not self.providers and not self.models

    def subjects(self) -> tuple[str, ...]:
        """NATS subjects that together have all that is wanted, perhaps more; they do not overlap."""
        providers, models = sorted(self.providers) or ["*"], sorted(self.models) or ["*"]
        tenant = "*" if self.tenant_id is None else subjects.token(self.tenant_id)
        found = []
        for kind in sorted(self.types):
            begin = f"{subjects.EVENTS}.{kind.value}"
            match kind.value.partition(".")[0]:
                case "model":
                    found += [f"{begin}.{provider}.{model}" for provider in providers for model in models]
                case "provider" if not self.models:
                    found += [f"{begin}.{provider}" for provider in providers]
                case "tenant" if not self.models and not self.providers:
                    found.append(f"{begin}.{tenant}")
        return tuple(found) if len(found) <= MAX_SUBJECTS else ALL_SUBJECTS


def wanted(
    events: Iterable[str], providers: Iterable[str], models: Iterable[str], tenant_id: str | None
) -> Wanted:
    """What a reader asks for. Each value may be a list with commas.

    An event is a type such as `model.available`, or the beginning of some, such as `model` or
    `tenant.budget`. Raises NoSuchEvent.
    """
    types: set[EventType] = set()
    names = _split(events)
    for name in names:
        found = {kind for kind in EventType if f"{kind.value}.".startswith(f"{name}.")}
        if not found:
            raise NoSuchEvent(f"There is no event {name[:100]!r}; there are {', '.join(EventType)}.")
        types |= found
    asked = Wanted(
        frozenset(types if names else EventType),
        frozenset(subjects.token(name) for name in _split(providers)),
        frozenset(subjects.token(name) for name in _split(models)),
        tenant_id,
    )
    if not asked.subjects():
        raise NoSuchEvent("These filters exclude each other: no event has all of it.")
    return asked


def _split(values: Iterable[str]) -> list[str]:
    return [part.strip() for value in values for part in value.split(",") if part.strip()]


def _is_in(token: str, chosen: frozenset[str]) -> bool:
    return not chosen or token in chosen
