"""Settings of the gateway, read from environment variables with the prefix `SYNAXIS_`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import SettingsConfigDict

from synaxis_common.settings import OutwardSettings

MIB = 1024 * 1024


class GatewaySettings(OutwardSettings):
    """What the gateway needs to know."""

    model_config = SettingsConfigDict(
        env_prefix="SYNAXIS_", extra="ignore", frozen=True, hide_input_in_errors=True, validate_default=True
    )

    http_host: str = Field(default="0.0.0.0", description="Address on which clients are served.")
    http_port: int = Field(
        default=8080, ge=0, le=65535, description="Port on which clients are served; 0 picks a free one."
    )
    reuse_port: bool = Field(
        default=False, description="Share the port with other gateways on this machine (SO_REUSEPORT)."
    )
    admin_key: SecretStr = Field(
        default=SecretStr(""), description="The key of the admin API; the gateway does not start without it."
    )
    key_pepper: SecretStr = Field(
        default=SecretStr(""),
        description="Secret with which tenant keys are hashed; the gateway does not start without it.",
    )
    max_body_bytes: int = Field(default=10 * MIB, gt=0, description="Largest request body, in bytes.")
    max_answer_bytes: int = Field(
        default=64 * MIB, gt=0, description="Largest answer of a provider, streamed or not, in bytes."
    )
    body_timeout_s: float = Field(
        default=60.0, gt=0, description="How long a client may take to send a body, in seconds."
    )
    request_deadline_s: float = Field(
        default=600.0,
        gt=0,
        description="How long a request may take where its client does not say, in seconds.",
    )
    route_timeout_s: float = Field(
        default=5.0, gt=0, description="How long the gateway waits for a registry's plan, in seconds."
    )
    admin_timeout_s: float = Field(
        default=15.0, gt=0, description="How long the gateway waits for an admin answer, in seconds."
    )
    drain_delay_s: float = Field(
        default=0.0,
        ge=0,
        description="How long a stopping gateway still accepts connections while it says it is not ready, "
        "so that load balancers notice first, in seconds.",
    )
    max_in_flight: int = Field(
        default=2_000,
        gt=0,
        description="With more requests under way than this new ones are refused with 503, first those of "
        "tenants that have more than their share.",
    )
    plan_hard_age_s: float = Field(
        default=300.0,
        ge=0,
        description="How long tenants without limits are served by the plans that a gateway holds while no "
        "registry answers, in seconds; 0 refuses them at once, as those with limits are.",
    )
    spool_dir: Path | None = Field(
        default=None,
        description="Folder in which call reports are kept until the bus has stored them, so that a killed "
        "gateway loses none; gateways may share it. Unset: in memory only.",
    )
    report_queue_size: int = Field(
        default=10_000, gt=0, description="Call reports kept in memory while the bus does not take them."
    )

    @field_validator("admin_key", "key_pepper")
    @classmethod
    def _not_empty(cls, value: SecretStr) -> SecretStr:
        # An HMAC with an empty key is one that anybody can make, an empty key one that anybody has.
        if not value.get_secret_value().strip():
            raise ValueError("must be set and not empty")
        return value
