"""What models.dev says, as sync tells it to the registry."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from synaxis_common.contracts.base import Identifier, Message, Moment, Text
from synaxis_common.money import Usd

MAX_CATALOG_MESSAGE_BYTES = 512 * 1024
"""A message above this is said in parts; NATS refuses more than 1 MiB by default."""

Tokens = Annotated[int, Field(ge=0, lt=2**53)]


class Rates(Message):
    """USD per million tokens by kind of token; `None` is unknown, which is not zero."""

    input: Usd | None = None
    output: Usd | None = None
    cache_read: Usd | None = None
    cache_write: Usd | None = None
    reasoning: Usd | None = None
    input_audio: Usd | None = None
    output_audio: Usd | None = None


class PriceTier(Rates):
    """Rates that replace the base ones for a request with more than `over_tokens` of input context."""

    over_tokens: Tokens


class Prices(Rates):
    """The prices of a provider model. Tiers are in ascending order of `over_tokens`."""

    per_request: Usd | None = None
    """USD for each request, whatever its tokens."""
    tiers: tuple[PriceTier, ...] = ()


class Capabilities(Message):
    """What a model can do; `None` where nobody says."""

    tools: bool | None = None
    vision: bool | None = None
    audio: bool | None = None
    pdf: bool | None = None
    reasoning: bool | None = None
    structured_output: bool | None = None
    temperature: bool | None = None


class ModelFacts(Message):
    """What is said of a model, by models.dev for all or by one provider for its own."""

    name: Text | None = None
    family: Text | None = None
    description: Text | None = None
    release_date: Text | None = None
    knowledge_cutoff: Text | None = None
    last_updated: Text | None = None
    context_window: Tokens | None = None
    max_input: Tokens | None = None
    max_output: Tokens | None = None
    input_modalities: tuple[Text, ...] = ()
    output_modalities: tuple[Text, ...] = ()
    capabilities: Capabilities = Capabilities()
    open_weights: bool | None = None
    status: Literal["alpha", "beta", "deprecated"] | None = None


class CatalogModel(Message):
    """A model without a provider: an entry of `models.json`, e.g. `google/gemma-3-27b-it`."""

    source_id: Identifier
    facts: ModelFacts


class CatalogProviderModel(Message):
    """A model at a provider: an entry of `api.json`."""

    provider_model_id: Identifier
    facts: ModelFacts
    prices: Prices = Prices()
    base_url: Text | None = None
    """Where this model differs from its provider."""
    npm: Text | None = None
    """The SDK package of this model where it differs from its provider: tells the wire kind."""


class CatalogProvider(Message):
    """A provider with what models.dev lists for it; a large one comes in `parts` messages."""

    run_id: UUID
    observed_at: Moment
    content_hash: Text
    provider_id: Identifier
    name: Text
    base_url: Text | None = None
    api_key_envs: tuple[Identifier, ...] = ()
    npm: Text | None = None
    doc_url: Text | None = None
    part: Annotated[int, Field(ge=0)] = 0
    parts: Annotated[int, Field(ge=1)] = 1
    models: tuple[CatalogProviderModel, ...] = ()


class CatalogMetadata(Message):
    """What `models.json` says of models, whoever serves them."""

    run_id: UUID
    observed_at: Moment
    content_hash: Text
    part: Annotated[int, Field(ge=0)] = 0
    parts: Annotated[int, Field(ge=1)] = 1
    models: tuple[CatalogModel, ...] = ()


class SeenProvider(Message):
    """What a run saw of one provider, whether or not it was sent again."""

    provider_id: Identifier
    content_hash: Text
    parts: Annotated[int, Field(ge=1)] = 1


class CatalogComplete(Message):
    """Closes a run: what is not in it has vanished from models.dev."""

    run_id: UUID
    observed_at: Moment
    source: Literal["models.dev", "snapshot"]
    metadata_hash: Text | None = None
    providers: tuple[SeenProvider, ...]
    etags: dict[str, str] = {}
    """By document (`api.json`, `models.json`): what to say in `If-None-Match` next time."""
