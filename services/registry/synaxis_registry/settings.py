"""Settings of the registry, read from environment variables with the prefix `SYNAXIS_`."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated

from pydantic import BeforeValidator, Field, SecretStr, field_validator
from pydantic_settings import SettingsConfigDict

from synaxis_common import key_variables
from synaxis_common.settings import ServiceSettings

LEAST_SECRET = 16
_UNITS = {"s": 1, "m": 60, "h": 3600, "": 1}


def _span(value: object) -> object:
    """Read `30`, `30s`, `5m` or `1h`."""
    if isinstance(value, str) and (found := re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh]?)\s*", value)):
        return timedelta(seconds=float(found[1]) * _UNITS[found[2]])
    return value


class RegistrySettings(ServiceSettings):
    """What the registry needs to know."""

    model_config = SettingsConfigDict(
        env_prefix="SYNAXIS_", extra="ignore", frozen=True, hide_input_in_errors=True, validate_default=True
    )

    database_url: SecretStr = Field(
        default=SecretStr(""),
        description="Where Postgres (15 to 18) is: `postgresql://user:password@host/name`.",
    )
    database_pool: int = Field(
        default=20, ge=2, description="Connections to Postgres a registry keeps at most."
    )
    admin_key: SecretStr = Field(
        default=SecretStr(""), description="The key of the admin API, with which its messages are proved."
    )
    discovery_confirm_after: Annotated[timedelta, BeforeValidator(_span)] = Field(
        default=timedelta(seconds=30),
        gt=timedelta(0),
        description="How much later a second poll must confirm that a model or provider is gone, e.g. `30s`.",
    )
    allow_private_providers: bool = Field(
        default=False, description="Whether operators may put providers at private and loopback addresses."
    )
    webhook_secret: SecretStr | None = Field(
        default=None,
        description="Secret from which those of the webhooks follow, the same for all registries; without it "
        "there are no webhooks.",
    )
    webhook_allow_private: bool = Field(
        default=False, description="Whether webhooks may be at private and loopback addresses."
    )
    key_variables: str = Field(
        default="",
        description="Names of variables, beside those of models.dev, that `api_key_env` may name; by commas.",
    )

    @field_validator("admin_key", "database_url")
    @classmethod
    def _not_empty(cls, value: SecretStr) -> SecretStr:
        if not value.get_secret_value().strip():
            raise ValueError("must be set and not empty")
        return value

    @field_validator("webhook_secret")
    @classmethod
    def _is_long(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None or not value.get_secret_value():
            return None  # a variable that is there and empty, as compose files make it
        if len(value.get_secret_value()) < LEAST_SECRET:
            raise ValueError(f"must have at least {LEAST_SECRET} characters")
        return value

    @field_validator("key_variables")
    @classmethod
    def _may_hold_keys(cls, value: str) -> str:
        for name in value.split(","):
            if name.strip() and key_variables.is_forbidden(name.strip()):
                raise ValueError(f"{name.strip()} may never hold a provider's key")
        return value

    @property
    def allowed_key_variables(self) -> frozenset[str]:
        """The names in `key_variables`."""
        return frozenset(name.strip() for name in self.key_variables.split(",") if name.strip())
