"""Settings of sync, read from environment variables with the prefix `SYNAXIS_`."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field
from yarl import URL

from synaxis_common.schedule import checked_schedule
from synaxis_common.settings import OutwardSettings

MIB = 1024 * 1024


def _checked_url(text: str) -> str:
    url = URL(text.strip())
    if url.scheme not in {"http", "https"} or not url.host or not url.name:
        raise ValueError("must be an http or https URL of a document, such as https://models.dev/api.json")
    return str(url)


class SyncSettings(OutwardSettings):
    """What sync needs to know."""

    models_dev_url: Annotated[str, AfterValidator(_checked_url)] = Field(
        default="https://models.dev/api.json",
        description="models.dev's `api.json`; its sibling `models.json` is read too.",
    )
    sync_schedule: Annotated[str, AfterValidator(checked_schedule)] = Field(
        default="1d", description="When models.dev is read: an interval such as `1d`, or cron in UTC."
    )
    sync_jitter_s: float = Field(
        default=600.0,
        ge=0,
        description="How long after a slot a sync starts at most, at random, in seconds; never more than a "
        "tenth of the interval.",
    )
    models_dev_connect_timeout_s: float = Field(
        default=10.0, gt=0, description="How long connecting to models.dev may take, in seconds."
    )
    models_dev_timeout_s: float = Field(
        default=60.0, gt=0, description="How long reading one document may take, in seconds."
    )
    models_dev_max_bytes: int = Field(
        default=64 * MIB, gt=0, description="Largest document, unpacked, in bytes."
    )
