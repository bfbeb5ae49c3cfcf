"""Settings that every service has. Each service adds its own in its `settings.py`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from synaxis_common.proxies import Proxies, parse_exemptions, parse_proxy


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


class OutwardSettings(ServiceSettings):
    """Of the services that send requests to providers or to models.dev."""

    model_config = SettingsConfigDict(
        env_prefix="SYNAXIS_", extra="ignore", frozen=True, hide_input_in_errors=True
    )

    upstream_proxy: SecretStr | None = Field(
        default=None,
        description="The HTTP proxy for all requests to providers and to models.dev: "
        "`http://[user:password@]host:port`. `HTTP_PROXY` and its like are never read.",
    )
    upstream_no_proxy: str = Field(
        default="",
        description="Who is reached without that proxy, by commas: hosts (with all below them), `.suffix`, "
        "IP addresses, networks such as `10.0.0.0/8`, `*`.",
    )

    @field_validator("upstream_proxy")
    @classmethod
    def _is_proxy(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None or not value.get_secret_value().strip():
            return None
        parse_proxy(value.get_secret_value())
        return value

    @field_validator("upstream_no_proxy")
    @classmethod
    def _are_exemptions(cls, value: str) -> str:
        parse_exemptions(value)
        return value

    @property
    def proxies(self) -> Proxies:
        """Through which proxy requests go, and which do not."""
        proxy = None if self.upstream_proxy is None else parse_proxy(self.upstream_proxy.get_secret_value())
        return Proxies(proxy, parse_exemptions(self.upstream_no_proxy))
