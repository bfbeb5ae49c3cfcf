"""Settings that every service has. Each service adds its own in its `settings.py`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class ServiceSettings(BaseSettings):
    """Read from environment variables with the prefix `SYNAXIS_`."""

    model_config = SettingsConfigDict(env_prefix="SYNAXIS_", extra="ignore", frozen=True)

    nats_url: SecretStr = Field(
        default=SecretStr("nats://127.0.0.1:4222"),
        description="Where NATS is; may hold a user and password. Several are separated by commas.",
    )
    nats_inbox_prefix: str = Field(
        default="_INBOX",
        description="Prefix of this service's reply subjects, for a NATS user that may hear only those.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="The least important log lines to write."
    )
    health_host: str = Field(default="127.0.0.1", description="Address of a worker's health endpoint.")
    health_port: int = Field(
        default=8081,
        ge=0,
        le=65535,
        description="Port of a worker's /healthz, /readyz and /metrics; 0 picks one.",
    )
    shutdown_grace_s: float = Field(
        default=25.0, gt=0, description="How long a stopping service finishes what it is doing, in seconds."
    )
