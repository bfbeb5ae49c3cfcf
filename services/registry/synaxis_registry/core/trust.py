"""What models.dev is not trusted with: where a key goes, what switches a provider on, and money."""

from __future__ import annotations

import ipaddress
from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum
from typing import Final
from urllib.parse import urlsplit

from synaxis_common import key_variables
from synaxis_common.contracts.catalog import Prices, Rates
from synaxis_common.contracts.observation import WireKind
from synaxis_registry.core.records import Kind, ProviderRecord

NPM_KINDS: Final[Mapping[str, Kind]] = {
    "@ai-sdk/openai-compatible": "openai",
    "@ai-sdk/openai": "openai",
    "@openrouter/ai-sdk-provider": "openai",
    "@ai-sdk/anthropic": "anthropic",
}
"""models.dev names an SDK package; these tell which protocol is spoken at the base URL."""

_NOT_A_KEY: Final = (
    "_ACCOUNT", "_ACCOUNT_ID", "_BASE_URL", "_ENDPOINT", "_GATEWAY_ID", "_HOST", "_LOCATION", "_PROJECT",
    "_REGION", "_RESOURCE_NAME",
)  # fmt: skip
"""models.dev's `env` also names what fills a URL template; such a variable holds no key."""

FALL_HELD_BELOW: Final = Decimal("0.5")
RISE_HELD_FROM: Final = Decimal(10)
"""A price that falls under half, or rises tenfold, waits for an operator (DESIGN, "not trusted")."""


@dataclass(frozen=True, slots=True)
class KnownProvider:
    """A provider that we ship: where it lives, whatever models.dev says."""

    host: str
    base_url: str | None = None
    """Where its OpenAI-compatible API is, for those of which models.dev names no URL."""
    discovery_kind: WireKind = "openai"
    discovery_base_url: str | None = None
    discover: bool = True


def _at(base_url: str, *, discover: bool = True) -> KnownProvider:
    return KnownProvider(urlsplit(base_url).hostname or "", base_url, discover=discover)


KNOWN_PROVIDERS: Final[Mapping[str, KnownProvider]] = {
    "aihubmix": _at("https://aihubmix.com/v1"),
    # Chat by the OpenAI-compatible endpoint; the list of models by Anthropic's own.
    "anthropic": KnownProvider("api.anthropic.com", "https://api.anthropic.com/v1", "anthropic"),
    "cerebras": _at("https://api.cerebras.ai/v1"),
    "cohere": _at("https://api.cohere.ai/compatibility/v1", discover=False),
    "deepinfra": _at("https://api.deepinfra.com/v1/openai"),
    "deepseek": KnownProvider("api.deepseek.com"),
    "fireworks-ai": KnownProvider("api.fireworks.ai"),
    "google": KnownProvider(
        "generativelanguage.googleapis.com",
        "https://generativelanguage.googleapis.com/v1beta/openai",
        "google",
        "https://generativelanguage.googleapis.com/v1beta",
    ),
    "groq": _at("https://api.groq.com/openai/v1"),
    "huggingface": KnownProvider("router.huggingface.co"),
    "mistral": _at("https://api.mistral.ai/v1"),
    "moonshotai": KnownProvider("api.moonshot.ai"),
    "nebius": KnownProvider("api.tokenfactory.nebius.com"),
    "novita-ai": KnownProvider("api.novita.ai"),
    "nvidia": KnownProvider("integrate.api.nvidia.com"),
    "openai": _at("https://api.openai.com/v1"),
    "openrouter": KnownProvider("openrouter.ai"),
    "perplexity": _at("https://api.perplexity.ai", discover=False),
    "siliconflow": KnownProvider("api.siliconflow.com"),
    "togetherai": _at("https://api.together.xyz/v1"),
    "v0": _at("https://api.v0.dev/v1", discover=False),
    "venice": _at("https://api.venice.ai/api/v1"),
    "vercel": _at("https://ai-gateway.vercel.sh/v1"),
    "xai": _at("https://api.x.ai/v1"),
}
"""Their hosts are pinned from the start. Source: each provider's API reference, and models.dev."""

RESPONSES_ONLY: Final = frozenset({"perplexity-agent"})
"""They list an OpenAI SDK, and have no chat completions."""


class OffReason(StrEnum):
    """Why a provider is off."""

    DISABLED = "disabled"
    """An operator said so."""
    RETIRED = "retired"
    """Gone from models.dev, or removed by an operator."""
    NO_BASE_URL = "no_base_url"
    UNUSABLE_BASE_URL = "unusable_base_url"
    """Plain HTTP, a template with parts to fill in, or an address that is not public."""
    UNSUPPORTED_PROTOCOL = "unsupported_protocol"
    HOST_UNCONFIRMED = "host_unconfirmed"
    """models.dev names another host than the pinned one: the key waits for an operator."""
    NO_KEY = "no_key"
    """None of its key variables is set where discovery runs."""


@dataclass(frozen=True, slots=True)
class ProviderState:
    """Whether a provider takes part, and if not, why."""

    is_on: bool
    off_reason: OffReason | None = None


_ON: Final = ProviderState(True)
_OFF: Final = {reason: ProviderState(False, reason) for reason in OffReason}


def normal_url(url: str) -> str:
    """A base URL as requests are appended to it: some are listed with `/chat/completions` or a slash."""
    return url.strip().rstrip("/").removesuffix("/chat/completions").rstrip("/")


def host_of(url: str | None) -> str | None:
    """The host of `url`, with the port where it names one; None where there is no telling."""
    try:
        parts = urlsplit(url or "")
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if not host:
        return None
    return host if port is None else f"{host}:{port}"


def is_usable_url(url: str, *, allow_private: bool) -> bool:
    """Whether a key may go to `url` at all. Names are checked again when they have been resolved."""
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError:
        return False
    if not host or "{" in url or parts.username is not None or parts.query or parts.fragment:
        return False
    if parts.scheme not in ({"https", "http"} if allow_private else {"https"}):
        return False
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return allow_private or not (
            host == "localhost" or host.endswith((".localhost", ".local", ".internal"))
        )
    return not address.is_link_local and (allow_private or address.is_global)


def provider_state(record: ProviderRecord) -> ProviderState:
    """Whether `record` takes part in routing and discovery, and if not, why.

    An operator's "no" is first, then what no key can cure, then the key. A provider of models.dev without a
    key variable is never on by itself; one that an operator put without a variable needs no key.
    """
    if record.enabled is False:
        return _OFF[OffReason.DISABLED]
    if record.retired_at is not None:
        return _OFF[OffReason.RETIRED]
    if record.kind is None:
        return _OFF[OffReason.UNSUPPORTED_PROTOCOL]
    if not record.base_url:
        return _OFF[OffReason.NO_BASE_URL]
    if not is_usable_url(record.base_url, allow_private=record.allow_private):
        return _OFF[OffReason.UNUSABLE_BASE_URL]
    if not record.host_confirmed:
        return _OFF[OffReason.HOST_UNCONFIRMED]
    needs_key = bool(record.api_key_envs) or record.source == "models.dev"
    if needs_key and not record.key_present:
        return _OFF[OffReason.NO_KEY]
    return _ON


def key_envs(names: tuple[str, ...]) -> tuple[str, ...]:
    """Those of models.dev's `env` that may hold the key and whose presence is meant for this provider.

    None of ours, none that other programs set for their own ends, none that only fills a template: what is
    left out here is neither looked for nor ever sent.
    """
    return tuple(name for name in names if key_variables.switches_on(name) and not name.endswith(_NOT_A_KEY))


def switching_variables(record: ProviderRecord) -> tuple[str, ...]:
    """The variables of which one has to be set for `record` to be on.

    Of models.dev's only those that nobody sets for another purpose; an operator's word counts for any that
    is not ours.
    """
    if record.source == "operator":
        return tuple(name for name in record.api_key_envs if not key_variables.is_forbidden(name))
    return key_envs(record.api_key_envs)


def is_key_present(record: ProviderRecord, present: Container[str]) -> bool:
    """`key_present` of `record`, when `present` are the variables that discovery has."""
    return any(name in present for name in switching_variables(record))


def with_pin(record: ProviderRecord) -> ProviderRecord:
    """`record` with its host compared to the pinned one, and pinned if it is now used for the first time.

    An operator's base URL is the operator's confirmation of its host.
    """
    host = host_of(record.base_url)
    if record.source == "operator":
        return replace(record, pinned_host=host, host_confirmed=True)
    known = KNOWN_PROVIDERS.get(record.provider_id)
    pinned = known.host if known is not None else record.pinned_host
    record = replace(
        record, pinned_host=pinned, host_confirmed=pinned is None or host is None or host == pinned
    )
    if pinned is None and provider_state(record).is_on:
        record = replace(record, pinned_host=host)
    return record


def _is_jump(old: Decimal | None, new: Decimal | None) -> bool:
    if old is None or new is None or old == new:
        return False
    return new < old * FALL_HELD_BELOW or new >= old * RISE_HELD_FROM


def is_held(accepted: Prices, said: Prices) -> bool:
    """Whether the step from `accepted` to `said` is so large that it waits for an operator.

    From zero every rise is more than tenfold; a price that was unknown is no ground to doubt a new one.
    """
    old_tiers = {tier.over_tokens: tier for tier in accepted.tiers}
    pairs: list[tuple[Rates, Rates]] = [(accepted, said)]
    pairs += [(old_tiers[tier.over_tokens], tier) for tier in said.tiers if tier.over_tokens in old_tiers]
    return _is_jump(accepted.per_request, said.per_request) or any(
        _is_jump(getattr(old, name), getattr(new, name)) for old, new in pairs for name in Rates.model_fields
    )
