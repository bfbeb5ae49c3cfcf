"""Settings of discovery, read from environment variables with the prefix `SYNAXIS_`."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from synaxis_common.schedule import checked_schedule
from synaxis_common.settings import OutwardSettings


class DiscoverySettings(OutwardSettings):
    """What discovery needs to know. The providers' keys are in its environment, under their own names."""

    discovery_schedule: Annotated[str, AfterValidator(checked_schedule)] = Field(
        default="1h", description="When all providers are polled: an interval such as `1h`, or cron in UTC."
    )
    discovery_jitter_s: float = Field(
        default=120.0,
        ge=0,
        description="How long after a slot the polls start at most, at random, in seconds; never more than a "
        "tenth of the interval.",
    )
    discovery_spread_s: float = Field(
        default=1.0,
        ge=0,
        description="The polls of one run begin at random moments within this time, in seconds.",
    )
    discovery_timeout_s: float = Field(
        default=10.0, gt=0, le=300, description="How long the poll of one provider may take, in seconds."
    )
    discovery_concurrency: int = Field(
        default=32, gt=0, le=1000, description="How many providers are polled at the same time at most."
    )
    discovery_targets_interval_s: float = Field(
        default=15.0,
        gt=0,
        description="How often the registry is asked which providers there are and told which keys are "
        "here, in seconds.",
    )
