"""Small builders for the worlds of the routing core's tests."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from synaxis_common.contracts.catalog import (
    CatalogComplete,
    CatalogProvider,
    CatalogProviderModel,
    ModelFacts,
    Prices,
    SeenProvider,
)
from synaxis_common.contracts.events import Cause, ModelChange, ProviderChange
from synaxis_common.contracts.observation import ObservedModel, PollOutcome, ProviderObservation
from synaxis_common.contracts.routing import Needs, Preferences, RouteRequest
from synaxis_common.slices import at_once
from synaxis_registry.core.catalog import (
    ApiKey,
    Catalog,
    Changes,
    Endpoint,
    EndpointHealth,
    GlobalModel,
    Limit,
    Provider,
)
from synaxis_registry.core.changes import ProviderUpdate
from synaxis_registry.core.judgement import settle
from synaxis_registry.core.records import ProviderModelRecord, ProviderRecord, Resolved

NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)
CONFIRM = timedelta(seconds=30)
RUN = UUID("01900000-0000-7000-8000-000000000001")
REQUEST = UUID("01900000-0000-7000-8000-000000000002")
KEY_HASH = "k1:abc"
TENANT = "acme"


def usd(text: str | int) -> Decimal:
    return Decimal(text)


def prices(given_input: str | None, output: str | None = None, **others: Any) -> Prices:
    return Prices(
        input=None if given_input is None else usd(given_input),
        output=None if output is None else usd(output),
        **others,
    )


def endpoint(
    provider_id: str,
    provider_model_id: str = "m",
    *,
    model: str = "m",
    cost: Prices | None = None,
    **others: Any,
) -> Endpoint:
    return Endpoint(
        provider_id=provider_id,
        provider_model_id=provider_model_id,
        global_model_id=model,
        prices=prices("1", "2") if cost is None else cost,
        **others,
    )


def measured(ttft_p95_s: float | None = None, **others: Any) -> EndpointHealth:
    return EndpointHealth(samples=100, ttft_p95_s=ttft_p95_s, **others)


def catalog(
    *endpoints: Endpoint,
    providers: Iterable[Provider] = (),
    models: Iterable[GlobalModel] = (),
    limits: Iterable[Limit] = (),
) -> Catalog:
    """A catalog in which every provider and model that an endpoint names exists, and one key of `TENANT`."""
    known = {
        one.provider_id: Provider(
            provider_id=one.provider_id,
            name=one.provider_id,
            base_url=f"https://{one.provider_id}.example/v1",
            kind="openai",
        )
        for one in endpoints
    }
    known |= {provider.provider_id: provider for provider in providers}
    named = {one.global_model_id: GlobalModel(one.global_model_id, one.global_model_id) for one in endpoints}
    named |= {model.id: model for model in models}
    return updated(
        Catalog(),
        providers=known.values(),
        models=named.values(),
        endpoints=endpoints,
        keys=[ApiKey("key-1", KEY_HASH, TENANT)],
        limits=limits,
    )


def updated(before: Catalog, **changes: Any) -> Catalog:
    """`before` with `Changes`."""
    return at_once(before.changing(Changes(**changes)))


def ask(
    model: str = "m",
    *,
    needs: Needs | None = None,
    preferences: Preferences | None = None,
    key_hash: str = KEY_HASH,
) -> RouteRequest:
    return RouteRequest(
        request_id=REQUEST,
        key_hash=key_hash,
        model=model,
        needs=needs or Needs(input_tokens=1000),
        preferences=preferences or Preferences(),
    )


def resolve(provider_id: str, provider_model_id: str, facts: ModelFacts) -> Resolved:
    """Every provider model is the global model of its id's last part."""
    return Resolved(provider_model_id.rpartition("/")[2].lower(), "test", 1.0)


def said(
    *model_ids: str,
    provider_id: str = "acme-ai",
    content_hash: str = "h1",
    observed_at: datetime = NOW,
    base_url: str | None = "https://api.acme.example/v1",
    cost: Prices | None = None,
    part: int = 0,
    parts: int = 1,
    **others: Any,
) -> CatalogProvider:
    """What models.dev says of a provider."""
    envs = others.pop("api_key_envs", ("ACME_API_KEY",))
    return CatalogProvider(
        run_id=RUN,
        observed_at=observed_at,
        content_hash=content_hash,
        provider_id=provider_id,
        name=provider_id,
        base_url=base_url,
        api_key_envs=envs,
        npm=others.pop("npm", "@ai-sdk/openai-compatible"),
        part=part,
        parts=parts,
        models=tuple(
            CatalogProviderModel(
                provider_model_id=model_id,
                facts=ModelFacts(name=model_id),
                prices=prices("1", "2") if cost is None else cost,
                **others,
            )
            for model_id in model_ids
        ),
    )


def complete(*provider_ids: str, observed_at: datetime = NOW) -> CatalogComplete:
    """A closing message in which those providers were seen."""
    return CatalogComplete(
        run_id=RUN,
        observed_at=observed_at,
        source="models.dev",
        providers=tuple(SeenProvider(provider_id=one, content_hash="h1") for one in provider_ids),
    )


def poll(
    at_s: float,
    *model_ids: str,
    outcome: PollOutcome = PollOutcome.OK,
    provider_id: str = "acme-ai",
    cost: Prices | None = None,
) -> ProviderObservation:
    """A poll that began `at_s` seconds after `NOW`."""
    return ProviderObservation(
        poll_id=UUID(int=int(at_s * 1000) + 10_000),
        provider_id=provider_id,
        observed_at=NOW + timedelta(seconds=at_s),
        outcome=outcome,
        models=tuple(ObservedModel(provider_model_id=one, prices=cost) for one in model_ids),
    )


def _subject(data: ModelChange | ProviderChange) -> str:
    return data.provider_model_id if isinstance(data, ModelChange) else data.provider_id


class World:
    """One provider and its rows, to which updates are applied as the store would."""

    def __init__(self, record: ProviderRecord | None = None) -> None:
        self.record: ProviderRecord | None = record
        self.rows: dict[str, ProviderModelRecord] = {}
        self.events: list[str] = []

    @property
    def provider(self) -> ProviderRecord:
        assert self.record is not None, "the provider is not there yet"
        return self.record

    def apply(self, update: ProviderUpdate) -> ProviderUpdate:
        if update.record is not None:
            self.record = update.record
        for row in update.upserts:
            self.rows[row.provider_model_id] = row
        for event in update.events:
            self.events.append(f"{event.type.value} {_subject(event.data)}")
        return update

    def told(self) -> list[str]:
        """The events since this was asked last."""
        told, self.events = self.events, []
        return told

    def available(self) -> set[str]:
        return {key for key, row in self.rows.items() if row.is_available}

    def reasons(self) -> dict[str, str | None]:
        return {key: row.unavailable_reason for key, row in self.rows.items()}

    def is_settled(self) -> bool:
        """Whether judging everything again would change nothing."""
        again = settle(self.record, self.provider, self.rows, {}, NOW, Cause(kind="operator"))
        return again == ProviderUpdate()


def operators_provider(**others: Any) -> ProviderRecord:
    """A provider that an operator has put, without a key."""
    record = ProviderRecord(
        provider_id="acme-ai",
        name="Acme",
        source="operator",
        base_url="http://127.0.0.1:9000/v1",
        kind="openai",
        enabled=True,
        allow_private=True,
        pinned_host="127.0.0.1:9000",
    )
    return replace(record, **others)
