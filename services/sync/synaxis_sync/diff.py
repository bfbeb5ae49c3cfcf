"""What of models.dev the registry does not have yet, as messages. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal, TypeVar
from uuid import UUID

from synaxis_common import subjects
from synaxis_common.contracts.base import Message
from synaxis_common.contracts.catalog import (
    MAX_CATALOG_MESSAGE_BYTES,
    CatalogComplete,
    CatalogMetadata,
    CatalogModel,
    CatalogProvider,
    CatalogProviderModel,
    SeenProvider,
)
from synaxis_sync.entries import API, MODELS, ModelsRead, ProviderEntry, ProvidersRead

_PROVIDER: Final = "provider/"
_METADATA: Final = "models"
_ETAG: Final = "etag/"
_ENVELOPE_BYTES: Final = 32 * 1024
"""Kept free in a part for what it says beside its models."""

EntryT = TypeVar("EntryT", CatalogModel, CatalogProviderModel)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What the registry has applied already, as a job's grant says it."""

    providers: Mapping[str, str] = field(default_factory=dict)
    """Content hashes by provider id."""
    metadata_hash: str | None = None
    etags: Mapping[str, str] = field(default_factory=dict)
    """By document; only of those whose content the registry has."""

    @classmethod
    def of(cls, said: Mapping[str, str]) -> Checkpoint:
        """Take a grant's checkpoint apart."""
        providers = {
            key.removeprefix(_PROVIDER): value for key, value in said.items() if key.startswith(_PROVIDER)
        }
        metadata_hash = said.get(_METADATA)
        etags = {key.removeprefix(_ETAG): value for key, value in said.items() if key.startswith(_ETAG)}
        held = {API: bool(providers), MODELS: metadata_hash is not None}
        return cls(
            providers, metadata_hash, {name: etag for name, etag in etags.items() if held.get(name, False)}
        )


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message ready to be stored on the bus."""

    kind: Literal["metadata", "provider", "complete"]
    subject: str
    payload: bytes
    message_id: str


@dataclass(frozen=True, slots=True)
class Run:
    """The run that the messages belong to."""

    run_id: UUID
    observed_at: datetime
    source: Literal["models.dev", "snapshot"]
    etags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Changes:
    """The messages of a run in the order in which they are to be sent."""

    messages: tuple[Outgoing, ...]
    providers_changed: int
    metadata_changed: bool


def changes(
    run: Run, checkpoint: Checkpoint, providers: ProvidersRead | None, models: ModelsRead | None
) -> Changes:
    """Model metadata that is new, then providers that are, then the closing message.

    `providers` or `models` is None where the document is the one that the registry has.
    """
    metadata_hash, metadata = checkpoint.metadata_hash, []
    if models is not None:
        metadata_hash = content_hash([_content(model) for model in models.models])
        if metadata_hash != checkpoint.metadata_hash:
            metadata = list(_metadata_messages(run, models, metadata_hash))

    seen = {
        provider_id: SeenProvider(provider_id=provider_id, content_hash=known)
        for provider_id, known in checkpoint.providers.items()
        if providers is None or provider_id in providers.unreadable
    }
    sent: list[Outgoing] = []
    changed = 0
    for entry in providers.providers if providers is not None else ():
        entry_hash = content_hash(_entry_content(entry))
        parts = list(_parts(entry.models))
        seen[entry.provider_id] = SeenProvider(
            provider_id=entry.provider_id, content_hash=entry_hash, parts=len(parts)
        )
        if checkpoint.providers.get(entry.provider_id) != entry_hash:
            changed += 1
            sent.extend(_provider_messages(run, entry, entry_hash, parts))

    complete = CatalogComplete(
        run_id=run.run_id,
        observed_at=run.observed_at,
        source=run.source,
        metadata_hash=metadata_hash,
        providers=tuple(seen[provider_id] for provider_id in sorted(seen)),
        etags=dict(run.etags),
    )
    closing = _outgoing("complete", subjects.CATALOG_COMPLETE, complete, f"{run.run_id}/complete")
    return Changes((*metadata, *sent, closing), changed, bool(metadata))


def content_hash(content: Any) -> str:
    """SHA-256 of `content` as canonical JSON: the same for the same content, whatever run it came in."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f"sha256:{hashlib.sha256(canonical.encode()).hexdigest()}"


def _content(message: Message) -> dict[str, Any]:
    # Without defaults, so that a new optional field of a contract does not make everything look changed.
    return message.model_dump(mode="json", exclude_defaults=True)


def _entry_content(entry: ProviderEntry) -> dict[str, Any]:
    return {
        "provider_id": entry.provider_id,
        "name": entry.name,
        "base_url": entry.base_url,
        "api_key_envs": entry.api_key_envs,
        "npm": entry.npm,
        "doc_url": entry.doc_url,
        "models": [_content(model) for model in entry.models],
    }


def _metadata_messages(run: Run, read: ModelsRead, metadata_hash: str) -> Iterator[Outgoing]:
    parts = list(_parts(read.models))
    for number, models in enumerate(parts):
        message = CatalogMetadata(
            run_id=run.run_id,
            observed_at=run.observed_at,
            content_hash=metadata_hash,
            part=number,
            parts=len(parts),
            models=models,
        )
        yield _outgoing(
            "metadata", subjects.catalog_models(number), message, f"{run.run_id}/{_METADATA}/{number}"
        )


def _provider_messages(
    run: Run, entry: ProviderEntry, entry_hash: str, parts: Sequence[tuple[CatalogProviderModel, ...]]
) -> Iterator[Outgoing]:
    for number, models in enumerate(parts):
        message = CatalogProvider(
            run_id=run.run_id,
            observed_at=run.observed_at,
            content_hash=entry_hash,
            provider_id=entry.provider_id,
            name=entry.name,
            base_url=entry.base_url,
            api_key_envs=entry.api_key_envs,
            npm=entry.npm,
            doc_url=entry.doc_url,
            part=number,
            parts=len(parts),
            models=models,
        )
        yield _outgoing(
            "provider",
            subjects.catalog_provider(entry.provider_id, number),
            message,
            f"{run.run_id}/{_PROVIDER}{entry.provider_id}/{number}",
        )


def _outgoing(
    kind: Literal["metadata", "provider", "complete"], subject: str, message: Message, message_id: str
) -> Outgoing:
    return Outgoing(kind, subject, _bytes(message), message_id)


def _bytes(message: Message) -> bytes:
    """Without the many fields that are unknown: a third of the size, and read back as the same message."""
    return message.model_dump_json(exclude_defaults=True).encode()


def _parts(entries: Iterable[EntryT]) -> Iterator[tuple[EntryT, ...]]:
    """Split into runs of entries that fit into one message each; at least one, which may be empty."""
    room = MAX_CATALOG_MESSAGE_BYTES - _ENVELOPE_BYTES
    part: list[EntryT] = []
    size = 0
    for entry in entries:
        entry_size = len(_bytes(entry)) + 1
        if part and size + entry_size > room:
            yield tuple(part)
            part, size = [], 0
        part.append(entry)
        size += entry_size
    yield tuple(part)
