"""Keeps the identity resolver in memory, and stores the global models that it makes."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from synaxis_common.contracts.catalog import ModelFacts
from synaxis_registry.core import identity
from synaxis_registry.core.records import GlobalModelRecord, Resolve, Resolved
from synaxis_registry.store import catalog
from synaxis_registry.store.database import Connection


def evidence(facts: ModelFacts, vendor: str | None = None) -> identity.ModelFacts:
    """What the resolver weighs of what is said about a model."""
    return identity.ModelFacts(
        name=facts.name,
        family=facts.family,
        vendor=vendor,
        release_date=facts.release_date,
        context_window=facts.context_window,
        max_output=facts.max_output,
        input_modalities=frozenset(facts.input_modalities),
        output_modalities=frozenset(facts.output_modalities),
        open_weights=facts.open_weights,
        reasoning=facts.capabilities.reasoning,
    )


def known_model(record: GlobalModelRecord) -> identity.KnownModel:
    """A global model as the resolver knows it."""
    aliases = record.aliases if record.operator_aliases is None else record.operator_aliases
    return identity.KnownModel(
        id=record.id,
        vendor=record.vendor,
        source_id=record.source_id,
        facts=evidence(record.facts, record.vendor),
        aliases=aliases,
    )


class Resolving:
    """Resolves provider model ids. Rebuilt when global models have changed elsewhere."""

    def __init__(self) -> None:
        self._resolver: identity.Resolver | None = None
        self._lock = threading.Lock()

    def forget(self) -> None:
        """Global models have changed: read them again before the next resolution."""
        self._resolver = None

    @asynccontextmanager
    async def session(self, connection: Connection) -> AsyncIterator[Resolve]:
        """A rule for the core; what it has to create is stored at the end, in the caller's transaction."""
        resolver = self._resolver
        if resolver is None:
            records = await catalog.read_models(connection)
            resolver = identity.Resolver([known_model(record) for record in records.values()])
            self._resolver = resolver
        created: dict[str, GlobalModelRecord] = {}

        def resolve(provider_id: str, provider_model_id: str, facts: ModelFacts) -> Resolved:
            offering = identity.Offering(provider_id, provider_model_id, evidence(facts))
            with self._lock:
                found = resolver.resolve(offering)
                if found.is_new and found.suggested is not None:
                    resolver.learn(found.suggested)
                    created[found.suggested.id] = GlobalModelRecord(
                        id=found.suggested.id,
                        name=facts.name or found.suggested.id,
                        vendor=found.suggested.vendor,
                        facts=facts,
                        aliases=found.suggested.aliases,
                    )
            return Resolved(found.global_model_id, str(found.rule), found.confidence)

        try:
            yield resolve
            await catalog.add_models(connection, created.values())
        except BaseException:
            self.forget()  # it has learnt of models that were not stored
            raise
