"""Keeps the identity resolver in memory, and stores the global models that it makes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from synaxis_common import slices
from synaxis_common.contracts.catalog import ModelFacts
from synaxis_registry.core import identity
from synaxis_registry.core.effective import effective_facts
from synaxis_registry.core.records import GlobalModelRecord, ProviderModelRecord, Resolve, Resolved
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
    """Resolves provider model ids, with what this and other registries have stored until now."""

    def __init__(self) -> None:
        self._resolver = identity.Resolver([])
        self._records: dict[str, GlobalModelRecord] = {}
        self._made: dict[str, GlobalModelRecord] = {}
        """Made here and not yet seen in the database: the transaction that made it may have failed."""
        self._horizon = catalog.FIRST
        self._made_meanwhile: list[identity.KnownModel] = []
        """Made since the last time that something was absorbed."""
        self._absorbing = asyncio.Lock()
        self._lock = threading.Lock()
        """Held for an instant only: rules of the core resolve in threads."""

    @asynccontextmanager
    async def session(self, connection: Connection) -> AsyncIterator[Resolve]:
        """A rule for the core; what it has to create is stored at the end, in the caller's transaction."""
        horizon, changed = await catalog.read_models_since(connection, self._horizon)
        if changed:
            await self._absorb(changed)
        self._horizon = horizon
        needed: dict[str, GlobalModelRecord] = {}

        def resolve(provider_id: str, provider_model_id: str, facts: ModelFacts) -> Resolved:
            with self._lock:
                found = self._resolve(provider_id, provider_model_id, facts)
                made = self._made.get(found.global_model_id)
            if made is not None:
                needed[made.id] = made
            return found

        yield resolve
        await catalog.add_models(connection, needed.values())

    async def explain(self, connection: Connection, row: ProviderModelRecord) -> identity.Resolution:
        """What the rules say of a provider model, and why, whether or not an operator has pinned it."""
        async with self.session(connection):
            offering = identity.Offering(
                row.provider_id, row.provider_model_id, evidence(effective_facts(row))
            )
            with self._lock:
                return self._resolver.resolve(offering)

    async def _absorb(self, changed: Sequence[GlobalModelRecord]) -> None:
        """Learn of models that are new, different or gone; until all are learnt nobody is told of any."""
        async with self._absorbing:
            with self._lock:
                fresh = {record.id: record for record in changed if self._records.get(record.id) != record}
                self._made_meanwhile.clear()
                before = self._resolver
                for record in changed:
                    self._made.pop(record.id, None)
            gone = [record.id for record in fresh.values() if record.merged_into is not None]
            known = [known_model(record) for record in fresh.values() if record.merged_into is None]
            after = await slices.run(before.changing(known, gone))
            with self._lock:
                for model in self._made_meanwhile:
                    if model.id not in fresh:
                        after.learn(model)
                self._resolver = after
                self._records.update(fresh)

    def _resolve(self, provider_id: str, provider_model_id: str, facts: ModelFacts) -> Resolved:
        offering = identity.Offering(provider_id, provider_model_id, evidence(facts))
        found = self._resolver.resolve(offering)
        if found.is_new and found.suggested is not None:
            self._resolver.learn(found.suggested)
            self._made_meanwhile.append(found.suggested)
            record = GlobalModelRecord(
                id=found.suggested.id,
                name=facts.name or found.suggested.id,
                vendor=found.suggested.vendor,
                facts=facts,
                aliases=found.suggested.aliases,
            )
            self._made[record.id] = self._records[record.id] = record
        return Resolved(found.global_model_id, str(found.rule), found.confidence)
