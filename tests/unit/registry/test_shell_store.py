"""SQL by name, numbered migrations, and records that survive being stored."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from importlib.resources import files
from uuid import UUID

import pytest

from synaxis_common.contracts.catalog import ModelFacts, Prices, PriceTier
from synaxis_common.contracts.observation import PollOutcome
from synaxis_common.contracts.performance import Performance, Spread
from synaxis_registry.core.health import HealthState
from synaxis_registry.core.records import (
    CatalogSaid,
    GlobalModelRecord,
    PendingCatalog,
    ProviderModelRecord,
    ProviderRecord,
    UnavailableReason,
)
from synaxis_registry.store import queries
from synaxis_registry.store.migrate import migrations
from synaxis_registry.store.records import GLOBAL_MODEL, HEALTH, PROVIDER, PROVIDER_MODEL

NOW = datetime(2026, 7, 1, 12, 30, 15, 123456, tzinfo=UTC)
MEASURED = Performance(requests=30, failures=1, error_rate=1 / 30, ttft_s=Spread(p50=0.1, p95=0.2, p99=0.3))
MODULES = sorted(
    entry.name.removesuffix(".sql") for entry in files("synaxis_registry.store").joinpath("sql").iterdir()
)


@pytest.mark.parametrize("module", MODULES)
def test_every_query_has_a_name_of_its_own_and_is_one_statement(module: str) -> None:
    found = queries.load(module)
    assert found
    for name, sql in found.items():
        assert sql, f"{name} is empty"
        code = "\n".join(line.partition("--")[0] for line in sql.splitlines())
        assert ";" not in code, f"{name} in {module}.sql holds more than one statement"


def test_migrations_are_numbered_without_a_gap() -> None:
    assert [number for number, _, _ in migrations()] == list(range(1, len(migrations()) + 1))


def test_a_provider_is_read_as_it_was_written() -> None:
    record = ProviderRecord(
        provider_id="alpha",
        name="Alpha",
        source="models.dev",
        api_key_envs=("ALPHA_API_KEY",),
        headers={"X-Title": "Synaxis"},
        catalog=CatalogSaid(name="Alpha", api_key_envs=("ALPHA_API_KEY",)),
        pending_catalog=PendingCatalog(
            run_id=UUID(int=1), observed_at=NOW, content_hash="h", parts=3, seen={0: ("a", "b"), 2: ()}
        ),
        last_poll_outcome=PollOutcome.NOT_A_MODEL_LIST,
        down_reason=UnavailableReason.UNREACHABLE,
        next_poll_at=NOW,
    )
    assert PROVIDER.read(PROVIDER.write(record)) == record


def test_prices_are_read_to_the_last_digit() -> None:
    exact = Decimal("0.10000000000000000000000000000000001")
    record = ProviderModelRecord(
        provider_id="alpha",
        provider_model_id="acme/talker",
        global_model_id="talker",
        resolved_by="slug",
        resolution_confidence=0.8,
        first_seen_at=NOW,
        last_seen_at=NOW,
        catalog_facts=ModelFacts(name="Talker", input_modalities=("text", "image")),
        prices=Prices(input=exact, tiers=(PriceTier(over_tokens=200_000, input=Decimal("1E-9")),)),
        override_input_price=exact,
    )
    text = PROVIDER_MODEL.write(record)
    assert '"0.10000000000000000000000000000000001"' in text
    assert '"0.000000001"' in text
    assert PROVIDER_MODEL.read(text) == record


def test_models_and_health_are_read_as_they_were_written() -> None:
    model = GlobalModelRecord(id="talker", name="Talker", aliases=frozenset({"a", "b"}), synced_at=NOW)
    assert GLOBAL_MODEL.read(GLOBAL_MODEL.write(model)) == model
    health = HealthState(recent=MEASURED, day=MEASURED, failures_in_a_row=1, open_until=NOW)
    assert HEALTH.read(HEALTH.write(health)) == health


def test_a_record_is_written_the_same_way_each_time() -> None:
    one = GlobalModelRecord(id="m", name="M", aliases=frozenset({"a", "b", "c", "d"}))
    other = GlobalModelRecord(id="m", name="M", aliases=frozenset({"d", "c", "b", "a"}))
    assert GLOBAL_MODEL.read(GLOBAL_MODEL.write(one)) == GLOBAL_MODEL.read(GLOBAL_MODEL.write(other))
