"""Every channel of the bus with its messages, as data: what the AsyncAPI document is made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

from faststream.nats import NatsBroker
from faststream.specification import AsyncAPI

from synaxis_common import subjects
from synaxis_common.contracts.admin import ADMIN_ROUTES, AdminReply, AdminRequest
from synaxis_common.contracts.base import Message
from synaxis_common.contracts.catalog import CatalogComplete, CatalogMetadata, CatalogProvider
from synaxis_common.contracts.events import CURSOR_KEY, Availability, AvailabilityCursor, CloudEvent
from synaxis_common.contracts.health import Sightings
from synaxis_common.contracts.jobs import ClaimReply, JobClaim, JobFinish, JobHeartbeat, JobWake, LeaseReply
from synaxis_common.contracts.leases import (
    GatewayAlive,
    GatewayAliveReply,
    LeaseReturn,
    LeaseReturned,
    PlansStale,
    ProviderLease,
    ProviderLeaseAsk,
)
from synaxis_common.contracts.observation import (
    PollRequested,
    ProviderObservation,
    TargetsReply,
    TargetsRequest,
)
from synaxis_common.contracts.routing import (
    ModelsPage,
    ModelsRequest,
    RouteReply,
    RouteRequest,
)
from synaxis_common.contracts.usage import CallReport
from synaxis_common.examples import examples_of

VERSION = "1.0.0"
"""Of the contracts. Its first number changes only with the `v1` in the subjects."""


REPLY = ".reply"
BUCKET = f"$KV.{subjects.BUCKET_AVAILABILITY}"


@dataclass(frozen=True, slots=True)
class Channel:
    """A subject (`*` stands for one token, `>` for the rest) and what travels on it."""

    subject: str
    kind: Literal["request/reply", "core", "jetstream"]
    sender: str
    receiver: str
    message: type[Message]
    about: str
    reply: type[Message] | None = None


CHANNELS: tuple[Channel, ...] = (
    Channel(
        subjects.ROUTE,
        "request/reply",
        "gateway",
        "registry",
        RouteRequest,
        "Who can serve this request, in which order?",
        RouteReply,
    ),
    Channel(
        subjects.MODELS,
        "request/reply",
        "gateway",
        "registry",
        ModelsRequest,
        "A page of the models that the holder of a key may use.",
        ModelsPage,
    ),
    Channel(
        subjects.LEASE_RETURN,
        "request/reply",
        "gateway",
        "registry",
        LeaseReturn,
        "Permits and reserved money that were not used.",
        LeaseReturned,
    ),
    Channel(
        subjects.LEASE_PROVIDER,
        "request/reply",
        "gateway",
        "registry",
        ProviderLeaseAsk,
        "May attempts be made at a provider whose own limits all tenants share?",
        ProviderLease,
    ),
    Channel(
        subjects.LEASE_ALIVE,
        "request/reply",
        "gateway",
        "registry",
        GatewayAlive,
        "A gateway is there, and holds slots of limits on concurrent requests.",
        GatewayAliveReply,
    ),
    Channel(
        subjects.PLANS_STALE,
        "core",
        "registry",
        "gateway",
        PlansStale,
        "Plans and leases that gateways hold have become wrong.",
    ),
    Channel(
        subjects.SIGHTINGS,
        "core",
        "gateway",
        "gateway",
        Sightings,
        "What a gateway has seen of candidates that fail or are well again, for all other gateways.",
    ),
    Channel(
        subjects.USAGE,
        "jetstream",
        "gateway",
        "registry",
        CallReport,
        "What requests came to: one or more reports, a JSON object a line, at most 128 of them and 256 KiB. "
        "The ledger takes each request once, by its id; that is also the id of a message of a single report.",
    ),
    Channel(
        f"{subjects.CATALOG}.provider.*.*",
        "jetstream",
        "sync",
        "registry",
        CatalogProvider,
        "What models.dev lists for a provider, in parts where it is large.",
    ),
    Channel(
        f"{subjects.CATALOG_MODELS}.*",
        "jetstream",
        "sync",
        "registry",
        CatalogMetadata,
        "What models.dev says of models, whoever serves them.",
    ),
    Channel(
        subjects.CATALOG_COMPLETE,
        "jetstream",
        "sync",
        "registry",
        CatalogComplete,
        "Closes a sync: what it does not list has vanished.",
    ),
    Channel(
        f"{subjects.OBSERVATION}.*",
        "jetstream",
        "discovery",
        "registry",
        ProviderObservation,
        "What a provider answered to one poll of its model list.",
    ),
    Channel(
        subjects.DISCOVERY_TARGETS,
        "request/reply",
        "discovery",
        "registry",
        TargetsRequest,
        "Whom to poll; and which key variables are set, by name only.",
        TargetsReply,
    ),
    Channel(
        subjects.DISCOVERY_POLL,
        "core",
        "registry",
        "discovery",
        PollRequested,
        "Poll this provider now.",
    ),
    Channel(
        subjects.JOB_CLAIM,
        "request/reply",
        "sync, discovery",
        "registry",
        JobClaim,
        "May I run this slot of a job? Exactly one worker is told yes.",
        ClaimReply,
    ),
    Channel(
        f"{subjects.JOB_WAKE}.*",
        "core",
        "registry",
        "sync, discovery",
        JobWake,
        "Ask for the job now: an operator wants it run.",
    ),
    Channel(
        subjects.JOB_HEARTBEAT,
        "request/reply",
        "sync, discovery",
        "registry",
        JobHeartbeat,
        "Keeps the lease of a run.",
        LeaseReply,
    ),
    Channel(
        subjects.JOB_FINISH,
        "request/reply",
        "sync, discovery",
        "registry",
        JobFinish,
        "Ends a run, with its counts or its error.",
        LeaseReply,
    ),
    Channel(
        f"{subjects.EVENTS}.>",
        "jetstream",
        "registry",
        "everyone",
        CloudEvent,
        "Availability events, CloudEvents 1.0: `model.<event>.<provider>.<global model id>`, "
        "`provider.<event>.<provider>`, `tenant.budget.<event>.<tenant>`, each part as one token.",
    ),
    Channel(
        f"{BUCKET}.*.*",
        "jetstream",
        "registry",
        "everyone",
        Availability,
        "The key-value bucket of the present states, by provider and provider model, each as one token.",
    ),
    Channel(
        f"{BUCKET}.{CURSOR_KEY}",
        "jetstream",
        "registry",
        "everyone",
        AvailabilityCursor,
        "How far the bucket is complete: where in the stream of events to go on from.",
    ),
    *(
        Channel(
            subjects.admin(route.verb),
            "request/reply",
            "gateway",
            "registry",
            AdminRequest,
            f"{route.summary}. Needs the header `Synaxis-Admin-Proof`.",
            AdminReply,
        )
        for route in ADMIN_ROUTES
    ),
)


def asyncapi_document() -> dict[str, Any]:
    """The AsyncAPI 3.0 document of the whole bus, made by FastStream from `CHANNELS`."""
    broker = NatsBroker()
    for channel in CHANNELS:
        about = f"{channel.about} ({channel.kind}; {channel.sender} to {channel.receiver})"
        if channel.reply is None:
            broker.publisher(
                channel.subject, schema=channel.message, description=about, title=channel.subject
            )
            continue

        async def answer(body: Message) -> Message:
            return body

        answer.__annotations__ = {"body": channel.message, "return": channel.reply}
        broker.subscriber(channel.subject, description=about, title=channel.subject)(
            broker.publisher(
                f"{channel.subject}{REPLY}", title=f"{channel.subject}{REPLY}", schema=channel.reply
            )(answer)
        )
    document = AsyncAPI(
        broker,
        title="Synaxis",
        version=VERSION,
        description="The messages between the services of Synaxis, and the events for everyone else.",
    ).to_specification()
    return _with_examples(_with_replies(cast("dict[str, Any]", document.to_jsonable())))


def _with_replies(document: dict[str, Any]) -> dict[str, Any]:
    """Turn what FastStream shows as a channel of its own into the reply of its request.

    A reply goes to the address that the request names, so its channel has none.
    """
    operations, channels = document["operations"], document["channels"]
    for name in [name for name in operations if operations[name]["channel"]["$ref"].endswith(REPLY)]:
        answering = operations.pop(name)
        channel_name = answering["channel"]["$ref"].rsplit("/", 1)[-1]
        channels[channel_name] |= {"address": None}
        channels[channel_name].pop("bindings", None)
        asking = next(
            operation
            for operation in operations.values()
            if operation["channel"]["$ref"] == answering["channel"]["$ref"].removesuffix(REPLY)
        )
        asking["reply"] = {
            "address": {"location": "$message.header#/reply_to"},
            "channel": answering["channel"],
            "messages": answering["messages"],
        }
    return document


def _with_examples(document: dict[str, Any]) -> dict[str, Any]:
    """Show of every message what it may look like."""
    kinds = {kind.__name__: kind for channel in CHANNELS for kind in (channel.message, channel.reply) if kind}
    for message in document["components"]["messages"].values():
        name = message["payload"]["$ref"].rsplit("/", 1)[-1]
        message["examples"] = [
            {"name": _called(example), "payload": example.model_dump(mode="json")}
            for example in examples_of(kinds[name])
        ]
    return document


def _called(example: Message) -> str:
    return example.type.value if isinstance(example, CloudEvent) else type(example).__name__
