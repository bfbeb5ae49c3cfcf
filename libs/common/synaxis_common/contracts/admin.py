"""The admin API: one table of verbs, served over HTTP by the gateway, answered on the bus by the registry."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints

from synaxis_common.contracts.base import Identifier, Message, Moment, Text
from synaxis_common.contracts.routing import Needs, Preferences
from synaxis_common.money import Usd

Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,99}$")]
"""An id that an operator chooses."""

Rpm = Annotated[int, Field(ge=0, lt=2**31)]
Tpm = Annotated[int, Field(ge=0, lt=2**53)]
Concurrency = Annotated[int, Field(ge=0, lt=2**31)]
Budget = Annotated[Usd, Field(decimal_places=12)]
"""Twelve decimals: a token at 0.000001 USD a million costs 1e-12 USD."""

PROOF_HEADER = "Synaxis-Admin-Proof"
PROOF_LIFETIME_S = 30
"""How old a proof may be: long enough for a slow bus and clocks a little apart, short against replay."""


class AdminBody(BaseModel):
    """A body of the admin API. A misspelt field is an error, not silence."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Seconds = Annotated[float, Field(gt=0, le=3_600)]


class TimeoutsPut(AdminBody):
    """Bounds of an attempt, in seconds; what is missing follows from how long the provider usually takes."""

    connect_s: Seconds | None = None
    first_token_s: Seconds | None = None
    """Of an answer that is not streamed: until it is there as a whole."""
    between_tokens_s: Seconds | None = None
    total_s: Seconds | None = None


class ProviderPut(AdminBody):
    """Adds a provider or changes one. What is left out keeps its default, not its former value."""

    base_url: Text
    kind: Literal["openai", "anthropic"] = "openai"
    name: Text | None = None
    api_key_env: Identifier | None = None
    enabled: bool = True
    tier: Annotated[int, Field(ge=0, le=100)] = 0
    """Ranks before latency among equally dear candidates; lower is better."""
    rate_limit_rpm: Annotated[int, Field(gt=0)] | None = None
    rate_limit_tpm: Annotated[int, Field(gt=0)] | None = None
    discover: bool = True
    headers: dict[str, Text] = {}
    timeouts: TimeoutsPut = TimeoutsPut()


class ModelPatch(AdminBody):
    """Changes what an operator may change of a global model."""

    name: Text | None = None
    aliases: tuple[Identifier, ...] | None = None
    status: Literal["active", "deprecated", "retired"] | None = None


class ModelMerge(AdminBody):
    """Two global models are one: the one named in the path becomes `into`."""

    into: Identifier


class ProviderModelName(AdminBody):
    """One provider model."""

    provider_id: Identifier
    provider_model_id: Identifier


class ModelSplit(AdminBody):
    """Some provider models of a global model are another model."""

    id: Slug
    """Of the new model, or of one that there is."""
    name: Text | None = None
    provider_models: Annotated[tuple[ProviderModelName, ...], Field(min_length=1, max_length=1000)]


class ProviderModelPatch(AdminBody):
    """Changes what an operator may change of a provider model; a field set to null takes the word back."""

    global_model_id: Identifier | None = None
    input_price: Usd | None = None
    output_price: Usd | None = None
    context_window: Annotated[int, Field(gt=0)] | None = None
    max_output: Annotated[int, Field(gt=0)] | None = None
    rate_limit_rpm: Annotated[int, Field(gt=0)] | None = None
    rate_limit_tpm: Annotated[int, Field(gt=0)] | None = None
    enabled: bool | None = None


class TenantCreate(AdminBody):
    """A new tenant."""

    id: Slug
    name: Text


class TenantPatch(AdminBody):
    """What changes of a tenant; what is missing stays."""

    name: Text | None = None
    hedge: bool | None = None
    """Whether every request of the tenant is hedged that does not say otherwise."""


class KeyCreate(AdminBody):
    """A new key, as an operator asks for it over HTTP."""

    name: Text = ""


class KeyStore(AdminBody):
    """A new key, as the gateway that made it has it stored: never the key itself."""

    name: Text
    key_id: Text
    key_hash: Text


class LimitPut(AdminBody):
    """What a tenant may use of a model, or of all (`*`). None: no such limit; 0: nothing at all."""

    allowed_rpm: Rpm | None = None
    allowed_tpm: Tpm | None = None
    allowed_concurrency: Concurrency | None = None
    """How many requests may be under way at once."""
    monthly_budget_usd: Budget | None = None
    """For a calendar month in UTC."""
    allowed: bool = True


class KeyLimitPut(AdminBody):
    """What one key may use of all models together, within the limits of its tenant; as in `LimitPut`."""

    allowed_rpm: Rpm | None = None
    allowed_tpm: Tpm | None = None
    allowed_concurrency: Concurrency | None = None
    monthly_budget_usd: Budget | None = None


class RouteAsk(AdminBody):
    """A request to be planned but not made."""

    tenant_id: Identifier | None = None
    """None: as a tenant without limits would be served."""
    model: Text
    needs: Needs = Needs()
    preferences: Preferences = Preferences()


Filters = Annotated[tuple[Text, ...], Field(max_length=100)]
Url = Annotated[Text, StringConstraints(max_length=2_000)]


class WebhookCreate(AdminBody):
    """An address that is to get events. Empty filters take any."""

    url: Url
    """Without a query or a password: no secret may be in it, what is sent is signed."""
    events: Filters = ()
    """Types such as `model.available`, or beginnings of some, such as `model`."""
    providers: Filters = ()
    models: Filters = ()
    allow_private: bool = False
    """Whether it may be at a private address; registries must allow that too."""


class WebhookPatch(AdminBody):
    """What changes of a webhook; what is missing stays."""

    url: Url | None = None
    events: Filters | None = None
    providers: Filters | None = None
    models: Filters | None = None
    allow_private: bool | None = None
    enabled: bool | None = None


class WebhookReplay(AdminBody):
    """Which deliveries are to be made once more."""

    since: Moment


class AdminStatus(StrEnum):
    """How an admin verb ended."""

    OK = "ok"
    CREATED = "created"
    ACCEPTED = "accepted"
    INVALID = "invalid"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    UNAVAILABLE = "unavailable"


class AdminRequest(Message):
    """An admin verb with what its path, query and body said."""

    path: dict[str, str] = {}
    query: dict[str, str] = {}
    body: JsonValue = None


class AdminReply(Message):
    """The answer: a JSON body, or why there is none."""

    status: AdminStatus
    body: JsonValue = None
    error: Text | None = None
    field: Text | None = None
    """Which input is at fault, where one is."""


@dataclass(frozen=True, slots=True)
class AdminRoute:
    """One line of the admin API. `{…}` in the path match one segment, `{…:.+}` the rest of the path."""

    method: str
    path: str
    verb: str
    body: type[AdminBody] | None = None
    summary: str = ""


ADMIN_ROUTES: tuple[AdminRoute, ...] = (
    AdminRoute("GET", "/providers", "provider.list", summary="All providers"),
    AdminRoute("PUT", "/providers/{provider}", "provider.put", ProviderPut, "Add or change a provider"),
    AdminRoute("GET", "/providers/{provider}", "provider.get", summary="One provider"),
    AdminRoute("DELETE", "/providers/{provider}", "provider.delete", summary="Remove a provider"),
    AdminRoute("GET", "/models", "model.list", summary="All global models"),
    AdminRoute("GET", "/models/{model}", "model.get", summary="One global model with its endpoints"),
    AdminRoute("PATCH", "/models/{model}", "model.patch", ModelPatch, "Change a global model"),
    AdminRoute("POST", "/models/{model}/merge", "model.merge", ModelMerge, "Make two global models one"),
    AdminRoute(
        "POST",
        "/models/{model}/split",
        "model.split",
        ModelSplit,
        "Make some of its provider models another model",
    ),
    AdminRoute("GET", "/provider-models", "provider-model.list", summary="All provider models"),
    AdminRoute(
        "GET",
        "/provider-models/{provider}/{provider_model_id:.+}",
        "provider-model.get",
        summary="One provider model, and how its global model was decided",
    ),
    AdminRoute(
        "PATCH",
        "/provider-models/{provider}/{provider_model_id:.+}",
        "provider-model.patch",
        ProviderModelPatch,
        "Pin, price, limit or disable a provider model",
    ),
    AdminRoute("GET", "/tenants", "tenant.list", summary="All tenants"),
    AdminRoute("POST", "/tenants", "tenant.create", TenantCreate, "Add a tenant"),
    AdminRoute("GET", "/tenants/{tenant}", "tenant.get", summary="One tenant"),
    AdminRoute(
        "PATCH", "/tenants/{tenant}", "tenant.patch", TenantPatch, "Rename a tenant, or hedge its requests"
    ),
    AdminRoute("DELETE", "/tenants/{tenant}", "tenant.delete", summary="Remove a tenant and its keys"),
    AdminRoute("GET", "/tenants/{tenant}/keys", "key.list", summary="A tenant's keys"),
    AdminRoute("POST", "/tenants/{tenant}/keys", "key.create", KeyCreate, "Make a key, shown this once"),
    AdminRoute("DELETE", "/tenants/{tenant}/keys/{key_id}", "key.delete", summary="Revoke a key"),
    AdminRoute(
        "GET",
        "/tenants/{tenant}/keys/{key_id}/limits",
        "key-limit.get",
        summary="A key's limits and live use",
    ),
    AdminRoute(
        "PUT", "/tenants/{tenant}/keys/{key_id}/limits", "key-limit.put", KeyLimitPut, "Set a key's limits"
    ),
    AdminRoute(
        "DELETE",
        "/tenants/{tenant}/keys/{key_id}/limits",
        "key-limit.delete",
        summary="Remove a key's limits",
    ),
    AdminRoute("GET", "/tenants/{tenant}/limits", "limit.list", summary="A tenant's limits and live use"),
    AdminRoute("PUT", "/tenants/{tenant}/limits/{model:.+}", "limit.put", LimitPut, "Set a limit"),
    AdminRoute("DELETE", "/tenants/{tenant}/limits/{model:.+}", "limit.delete", summary="Remove a limit"),
    AdminRoute("GET", "/usage", "usage.query", summary="Exact sums of the ledger"),
    AdminRoute(
        "GET", "/dead-letters", "dead-letter.list", summary="Messages that were set aside, newest first"
    ),
    AdminRoute(
        "POST", "/dead-letters/{id}/replay", "dead-letter.replay", summary="Send one to its subject again"
    ),
    AdminRoute("DELETE", "/dead-letters/{id}", "dead-letter.delete", summary="Throw one away"),
    AdminRoute("GET", "/webhooks", "webhook.list", summary="Addresses that get events"),
    AdminRoute(
        "POST", "/webhooks", "webhook.create", WebhookCreate, "Add one; its secret is shown this once"
    ),
    AdminRoute("GET", "/webhooks/{webhook}", "webhook.get", summary="One webhook"),
    AdminRoute("PATCH", "/webhooks/{webhook}", "webhook.patch", WebhookPatch, "Change one, or switch it"),
    AdminRoute("DELETE", "/webhooks/{webhook}", "webhook.delete", summary="Remove one"),
    AdminRoute(
        "POST", "/webhooks/{webhook}/rotate", "webhook.rotate", summary="A new secret, shown this once"
    ),
    AdminRoute(
        "GET", "/webhooks/{webhook}/deliveries", "webhook.deliveries", summary="Its deliveries, newest first"
    ),
    AdminRoute(
        "POST",
        "/webhooks/{webhook}/deliveries/{delivery}/replay",
        "webhook.replay-one",
        summary="Make a delivery once more",
    ),
    AdminRoute(
        "POST",
        "/webhooks/{webhook}/replay",
        "webhook.replay",
        WebhookReplay,
        "Make all deliveries since a moment once more",
    ),
    AdminRoute("GET", "/jobs", "job.list", summary="The jobs and their last runs"),
    AdminRoute("POST", "/jobs/{job}/run", "job.run", summary="Run a job now"),
    AdminRoute("GET", "/jobs/{job}/runs", "job.runs", summary="A job's runs, newest first"),
    AdminRoute("POST", "/route", "route", RouteAsk, "The plan for a request, without making it"),
)
"""In the registry `key.create` takes a `KeyStore`: the gateway makes the key and sends only its hash."""


def admin_proof(admin_key: str, verb: str, payload: bytes, at: int) -> str:
    """Shows the registry that a message comes from a holder of the admin key: `<unix time>.<hex HMAC>`.

    Being on the bus is no proof: other systems are there too. Raises ValueError for an empty key.
    """
    if not admin_key:
        raise ValueError("the admin key must not be empty")
    signed = b"\n".join((verb.encode(), str(at).encode(), payload))
    return f"{at}.{hmac.new(admin_key.encode(), signed, hashlib.sha256).hexdigest()}"


def is_admin_proof(proof: str, admin_key: str, verb: str, payload: bytes, now: float) -> bool:
    """Whether `proof` was made with `admin_key` for just this verb and payload, not long ago."""
    at, _, _ = proof.partition(".")
    if not (at.isascii() and at.isdigit() and len(at) <= 12):
        return False
    fresh = abs(now - int(at)) <= PROOF_LIFETIME_S
    return hmac.compare_digest(proof, admin_proof(admin_key, verb, payload, int(at))) and fresh


def page(data: list[Any], next_cursor: str | None) -> dict[str, Any]:
    """The form of every list the admin API answers."""
    return {"data": data, "next_cursor": next_cursor}
