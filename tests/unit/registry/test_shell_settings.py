"""What the registry is told by its environment."""

from __future__ import annotations

from datetime import timedelta

import pytest
from pydantic import ValidationError

from synaxis_registry.settings import RegistrySettings

NEEDED = {"SYNAXIS_ADMIN_KEY": "admin", "SYNAXIS_DATABASE_URL": "postgresql://127.0.0.1/synaxis"}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in NEEDED.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("said", "meant"),
    [("30", 30), ("30s", 30), ("0.5s", 0.5), ("5m", 300), ("1h", 3600), ("PT45S", 45)],
)
def test_spans_of_time_are_read_with_and_without_unit(
    monkeypatch: pytest.MonkeyPatch, said: str, meant: float
) -> None:
    monkeypatch.setenv("SYNAXIS_DISCOVERY_CONFIRM_AFTER", said)
    assert RegistrySettings().discovery_confirm_after == timedelta(seconds=meant)


@pytest.mark.parametrize("said", ["", "soon", "-1", "0"])
def test_a_span_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setenv("SYNAXIS_DISCOVERY_CONFIRM_AFTER", said)
    with pytest.raises(ValidationError, match="discovery_confirm_after"):
        RegistrySettings()


@pytest.mark.parametrize("name", sorted(NEEDED))
@pytest.mark.parametrize("value", ["", "  ", None])
def test_it_does_not_start_without_an_admin_key_or_a_database(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str | None
) -> None:
    if value is None:
        monkeypatch.delenv(name)
    else:
        monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError, match="must be set and not empty"):
        RegistrySettings()


def test_an_error_does_not_show_what_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNAXIS_DATABASE_POOL", "hunter2")
    with pytest.raises(ValidationError) as refused:
        RegistrySettings()
    assert "hunter2" not in str(refused.value)


def test_operators_may_allow_more_key_variables_but_none_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNAXIS_KEY_VARIABLES", "MY_LAB_KEY, OTHER_KEY,")
    assert RegistrySettings().allowed_key_variables == {"MY_LAB_KEY", "OTHER_KEY"}
    monkeypatch.setenv("SYNAXIS_KEY_VARIABLES", "MY_LAB_KEY,SYNAXIS_ADMIN_KEY")
    with pytest.raises(ValidationError, match="may never hold a provider's key"):
        RegistrySettings()


def test_its_secrets_do_not_show() -> None:
    assert "postgresql" not in repr(RegistrySettings())


def test_an_empty_webhook_secret_is_none_and_a_short_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "SYNAXIS_WEBHOOK_SECRET", ""
    )  # as the compose file passes it on where nobody has set it
    assert RegistrySettings().webhook_secret is None
    monkeypatch.setenv("SYNAXIS_WEBHOOK_SECRET", "short")
    with pytest.raises(ValidationError, match="at least 16 characters"):
        RegistrySettings()
