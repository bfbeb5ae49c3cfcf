"""Every subject on the bus, and how a name becomes one token of a subject or a key."""

from __future__ import annotations

import re
from typing import Final

ROUTE: Final = "synaxis.route.v1"
MODELS: Final = "synaxis.models.v1"
LEASE_RETURN: Final = "synaxis.lease.v1.return"
LEASE_PROVIDER: Final = "synaxis.lease.v1.provider"
LEASE_ALIVE: Final = "synaxis.lease.v1.alive"
PLANS_STALE: Final = "synaxis.plan.v1.stale"
SIGHTINGS: Final = "synaxis.health.v1.seen"
USAGE: Final = "synaxis.usage.v1"

CATALOG: Final = "synaxis.catalog.v1"
CATALOG_MODELS: Final = f"{CATALOG}.models"
CATALOG_COMPLETE: Final = f"{CATALOG}.complete"

OBSERVATION: Final = "synaxis.observation.v1"
DISCOVERY_TARGETS: Final = "synaxis.discovery.v1.targets"
DISCOVERY_POLL: Final = "synaxis.discovery.v1.poll"

JOB_CLAIM: Final = "synaxis.job.v1.claim"
JOB_HEARTBEAT: Final = "synaxis.job.v1.heartbeat"
JOB_FINISH: Final = "synaxis.job.v1.finish"
JOB_WAKE: Final = "synaxis.job.v1.wake"

ADMIN: Final = "synaxis.admin.v1"
EVENTS: Final = "synaxis.events.v1"

STREAM_USAGE: Final = "SYNAXIS_USAGE"
STREAM_CATALOG: Final = "SYNAXIS_CATALOG"
STREAM_OBSERVATION: Final = "SYNAXIS_OBSERVATION"
STREAM_EVENTS: Final = "SYNAXIS_EVENTS"
BUCKET_AVAILABILITY: Final = "synaxis-availability"

QUEUE_REGISTRY: Final = "registry"
QUEUE_DISCOVERY: Final = "discovery"

_UNSAFE = re.compile(rb"[^A-Za-z0-9_/-]")
_ESCAPED = re.compile(rb"=([0-9A-F]{2})")


def token(name: str) -> str:
    """Encode `name` as one token that is legal in a NATS subject and in a KV key alike.

    Letters, digits, `-`, `_` and `/` stay; every other byte of its UTF-8 form becomes `=XX`, so
    `gpt-4.1` is `gpt-4=2E1`. Raises ValueError for an empty name, which no subject can hold.
    """
    if not name:
        raise ValueError("an empty name cannot be a subject token")
    return _UNSAFE.sub(lambda m: b"=%02X" % m[0][0], name.encode()).decode("ascii")


def untoken(encoded: str) -> str:
    """The name that `token` encoded. Raises UnicodeDecodeError for bytes that are not UTF-8."""
    return _ESCAPED.sub(lambda m: bytes([int(m[1], 16)]), encoded.encode("ascii")).decode()


def catalog_provider(provider_id: str, part: int = 0) -> str:
    """Where sync says what models.dev lists for a provider; a large provider is said in parts."""
    return f"{CATALOG}.provider.{token(provider_id)}.{part}"


def catalog_models(part: int = 0) -> str:
    """Where sync says what models.dev says of models; a subject a part, since the stream keeps the newest."""
    return f"{CATALOG_MODELS}.{part}"


def observation(provider_id: str) -> str:
    """Where discovery says what a provider answered to one poll."""
    return f"{OBSERVATION}.{token(provider_id)}"


def admin(verb: str) -> str:
    """The request/reply subject of an admin verb such as `provider.put`."""
    return f"{ADMIN}.{verb}"


def job_wake(job: str) -> str:
    """Tells the workers of a job to ask at once whether there is something to do."""
    return f"{JOB_WAKE}.{token(job)}"


def model_event(event: str, provider_id: str, global_model_id: str) -> str:
    """The subject of an event about a model at a provider, e.g. `model_event("available", …)`."""
    return f"{EVENTS}.model.{event}.{token(provider_id)}.{token(global_model_id)}"


def provider_event(event: str, provider_id: str) -> str:
    """The subject of an event about a whole provider, e.g. `provider_event("disabled", …)`."""
    return f"{EVENTS}.provider.{event}.{token(provider_id)}"


def availability_key(provider_id: str, provider_model_id: str) -> str:
    """The key of a provider model in the bucket `synaxis-availability`."""
    return f"{token(provider_id)}.{token(provider_model_id)}"
