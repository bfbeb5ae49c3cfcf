"""What `models.json` says becomes global models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from synaxis_common.contracts.catalog import CatalogMetadata
from synaxis_registry.core import identity
from synaxis_registry.core.records import GlobalModelRecord


def global_models(
    known: Mapping[str, GlobalModelRecord], message: CatalogMetadata
) -> list[GlobalModelRecord]:
    """The records that `message` adds or changes. Ids that exist stay; an operator's words stay."""
    by_source = {record.source_id: record for record in known.values() if record.source_id is not None}
    entries = {
        model.source_id: {
            "name": model.facts.name,
            "family": model.facts.family,
            "release_date": model.facts.release_date,
            "open_weights": model.facts.open_weights,
            "reasoning": model.facts.capabilities.reasoning,
            "limit": {"context": model.facts.context_window, "output": model.facts.max_output},
            "modalities": {
                "input": list(model.facts.input_modalities),
                "output": list(model.facts.output_modalities),
            },
        }
        for model in message.models
    }
    existing = {source_id: record.id for source_id, record in by_source.items()}
    found = {one.source_id: one for one in identity.global_models_from_models_json(entries, existing)}
    changed = []
    for model in message.models:
        one = found[model.source_id]
        before = known.get(one.id) or GlobalModelRecord(id=one.id, name=one.id)
        after = replace(
            before,
            name=model.facts.name or one.id,
            vendor=one.vendor,
            source_id=model.source_id,
            facts=model.facts,
            aliases=before.aliases | one.aliases,
        )
        if after != before or one.id not in known:
            changed.append(after)
    return changed
