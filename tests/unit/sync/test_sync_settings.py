"""Sync's settings are checked where they are read."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from synaxis_sync.settings import SyncSettings


def test_the_defaults_are_the_design_s() -> None:
    settings = SyncSettings()
    assert settings.models_dev_url == "https://models.dev/api.json"
    assert settings.sync_schedule == "1d"


@pytest.mark.parametrize(
    "url", ["", "models.dev", "ftp://models.dev/api.json", "https://models.dev/", "file:///x"]
)
def test_a_url_that_names_no_document_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="must be an http or https URL"):
        SyncSettings(models_dev_url=url)


def test_a_bad_schedule_is_refused() -> None:
    with pytest.raises(ValidationError, match="is no schedule"):
        SyncSettings(sync_schedule="now and then")
