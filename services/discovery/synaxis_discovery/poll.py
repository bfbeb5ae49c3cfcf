"""One poll of one provider: ask for its models within bounds, and say what it came to."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from synaxis_common import egress, exact_json, ids, key_variables
from synaxis_common.clock import Clock
from synaxis_common.contracts.observation import (
    MAX_OBSERVATION_BYTES,
    DiscoveryTarget,
    ObservedModel,
    PollOutcome,
    ProviderObservation,
    WireKind,
)
from synaxis_common.logging import REDACTED, scrub
from synaxis_common.proxies import DIRECT, Proxies
from synaxis_discovery.dialects import NotAModelList, Page, merged, read_page
from synaxis_discovery.metrics import LATENCY, POLLS, SKIPPED

MAX_LIST_BYTES: Final = 20 * 1024 * 1024
"""Of all pages, unpacked. OpenRouter's list, the richest known, has 1 MB."""
MAX_PAGES: Final = 50
PAGE_SIZE: Final = "1000"
ANTHROPIC_VERSION: Final = "2023-06-01"
USER_AGENT: Final = "Synaxis (model discovery)"

_UNAUTHORIZED: Final = frozenset({401, 402, 403})
"""402 too: it is the account behind the key that has no money, not the provider that is down."""
_TRY_LATER: Final = frozenset({407, 408, 425})
"""407: a proxy on the way wants credentials, which says nothing of the provider."""
_GOOGLE_BAD_KEY: Final = b"API_KEY_INVALID"
"""Google answers a wrong key with 400 and this reason."""


class PollFailed(Exception):
    """The poll did not come to a list."""

    def __init__(self, outcome: PollOutcome, message: str) -> None:
        super().__init__(message)
        self.outcome = outcome


@dataclass(slots=True)
class _Progress:
    """What is known of a poll so far."""

    http_status: int | None = None
    bytes_left: int = MAX_LIST_BYTES


def encoded(observation: ProviderObservation) -> bytes:
    """The observation as it goes over the bus, without the many fields that are unknown."""
    return observation.model_dump_json(exclude_defaults=True).encode()


class Poller:
    """Polls providers, with the keys that are in `environment`."""

    def __init__(
        self,
        clock: Clock,
        environment: Mapping[str, str],
        *,
        timeout_s: float,
        connections: int,
        proxies: Proxies = DIRECT,
    ) -> None:
        self._clock, self._environment, self._timeout_s = clock, environment, timeout_s
        self._clients = {
            allow_private: egress.HttpClient(proxies, allow_private=allow_private, connections=connections)
            for allow_private in (False, True)
        }

    async def close(self) -> None:
        """Close the connections."""
        for client in self._clients.values():
            await client.close()

    def can_ask(self, target: DiscoveryTarget) -> bool:
        """Whether the provider's key is here, or none is needed."""
        return not target.api_key_envs or self._key(target) is not None

    def _key(self, target: DiscoveryTarget) -> str | None:
        return key_variables.find_key(target.api_key_envs, self._environment)

    async def poll(self, target: DiscoveryTarget) -> ProviderObservation:
        """Ask `target` for its models. Never raises for what a provider does."""
        key, observed_at, begun = self._key(target), self._clock.now(), self._clock.monotonic()
        progress = _Progress()
        outcome, error = PollOutcome.OK, None
        models: tuple[ObservedModel, ...] = ()
        skipped = 0
        try:
            async with asyncio.timeout(self._timeout_s):
                models, skipped = await self._list(target, key, progress)
        except PollFailed as failure:
            outcome, error = failure.outcome, str(failure)
        except TimeoutError:
            outcome, error = PollOutcome.UNREACHABLE, f"no complete answer in {self._timeout_s:g} s"
        except aiohttp.ClientHttpProxyError as failure:
            outcome, error = PollOutcome.UNREACHABLE, egress.proxy_failure(failure)
        except (aiohttp.ClientError, OSError, ValueError) as failure:
            outcome, error = PollOutcome.UNREACHABLE, f"{type(failure).__name__}: {failure}"
        latency_s = self._clock.monotonic() - begun
        observation = ProviderObservation(
            poll_id=ids.uuid7(),
            provider_id=target.provider_id,
            observed_at=observed_at,
            outcome=outcome,
            http_status=progress.http_status,
            latency_s=latency_s,
            error=None if error is None else _without(key, error),
            models=models,
            skipped_entries=skipped,
        )
        if len(encoded(observation)) > MAX_OBSERVATION_BYTES:
            too_long = f"{len(models)} models do not fit into a message"
            observation = observation.model_copy(
                update={"outcome": PollOutcome.NOT_A_MODEL_LIST, "error": too_long, "models": ()}
            )
        POLLS.labels(observation.outcome).inc()
        LATENCY.labels(observation.outcome).observe(latency_s)
        SKIPPED.inc(skipped)
        return observation

    async def _list(
        self, target: DiscoveryTarget, key: str | None, progress: _Progress
    ) -> tuple[tuple[ObservedModel, ...], int]:
        try:
            egress.check_url(target.base_url, allow_private=target.allow_private)
        except egress.ForbiddenAddress as error:
            raise PollFailed(PollOutcome.UNREACHABLE, str(error)) from error
        if key is not None and not (key.isascii() and key.isprintable()):
            raise PollFailed(PollOutcome.UNAUTHORIZED, "the key has characters that no header can carry")
        models: list[ObservedModel] = []
        skipped = 0
        asked: set[str | None] = set()
        next_page: str | None = None
        while next_page not in asked and len(asked) < MAX_PAGES:
            asked.add(next_page)
            page = await self._page(target, key, next_page, progress)
            models.extend(page.models)
            skipped += page.skipped
            if page.next_page is None:
                return await asyncio.to_thread(merged, models), skipped
            next_page = page.next_page
        raise PollFailed(PollOutcome.NOT_A_MODEL_LIST, f"a list without end: {len(asked)} pages")

    async def _page(
        self, target: DiscoveryTarget, key: str | None, page: str | None, progress: _Progress
    ) -> Page:
        async with self._clients[target.allow_private].get(
            f"{target.base_url.rstrip('/')}/models",
            _headers(target, key),
            params=_parameters(target.kind, page),
        ) as answer:
            progress.http_status = answer.status
            body = bytearray()
            async for chunk in answer.content.iter_any():
                body += chunk
                if len(body) > progress.bytes_left:
                    raise PollFailed(
                        PollOutcome.NOT_A_MODEL_LIST, f"a list of more than {MAX_LIST_BYTES} bytes"
                    )
            progress.bytes_left -= len(body)
        _check_status(target.kind, answer.status, body)
        return await asyncio.to_thread(_read, target.kind, bytes(body))


def _parameters(kind: WireKind, page: str | None) -> dict[str, str]:
    if kind == "anthropic":
        return {"limit": PAGE_SIZE} if page is None else {"limit": PAGE_SIZE, "after_id": page}
    if kind == "google":
        return {"pageSize": PAGE_SIZE} if page is None else {"pageSize": PAGE_SIZE, "pageToken": page}
    return {}


def _headers(target: DiscoveryTarget, key: str | None) -> dict[str, str]:
    headers = {**target.headers, "Accept": "application/json", "User-Agent": USER_AGENT}
    if target.kind == "anthropic":
        headers["anthropic-version"] = ANTHROPIC_VERSION
    if key is not None:
        name, value = {
            "openai": ("Authorization", f"Bearer {key}"),
            "anthropic": ("x-api-key", key),
            "google": ("x-goog-api-key", key),
        }[target.kind]
        headers[name] = value
    return headers


def _check_status(kind: WireKind, status: int, body: bytes | bytearray) -> None:
    """Raise PollFailed unless the answer may be a list. Bodies of errors are not told: some echo the key."""
    if status == 200:
        return
    if status in _UNAUTHORIZED or (kind == "google" and status == 400 and _GOOGLE_BAD_KEY in body):
        outcome = PollOutcome.UNAUTHORIZED
    elif status == 429:
        outcome = PollOutcome.RATE_LIMITED
    elif status >= 500 or status in _TRY_LATER:
        outcome = PollOutcome.UNREACHABLE
    else:
        outcome = PollOutcome.NOT_A_MODEL_LIST
    raise PollFailed(outcome, f"HTTP {status}")


def _read(kind: WireKind, body: bytes) -> Page:
    try:
        document: Any = exact_json.parse(body)
        return read_page(kind, document)
    except (exact_json.NotJson, NotAModelList) as error:
        raise PollFailed(PollOutcome.NOT_A_MODEL_LIST, str(error)) from error


def _without(key: str | None, error: str) -> str:
    """`error` as it may be stored and shown."""
    if key is not None:
        error = error.replace(key, REDACTED)
    return scrub(error).replace("\x00", " ").encode(errors="replace").decode()
