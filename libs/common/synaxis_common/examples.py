"""An example of every message, for the AsyncAPI document."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Final
from uuid import UUID

from synaxis_common.contracts.admin import AdminReply, AdminRequest, AdminStatus
from synaxis_common.contracts.base import Message
from synaxis_common.contracts.catalog import (
    Capabilities,
    CatalogComplete,
    CatalogMetadata,
    CatalogModel,
    CatalogProvider,
    CatalogProviderModel,
    ModelFacts,
    Prices,
    SeenProvider,
)
from synaxis_common.contracts.events import (
    Availability,
    AvailabilityCursor,
    BudgetChange,
    BudgetState,
    Cause,
    CloudEvent,
    EventType,
    FailureCount,
    ModelChange,
    ModelState,
    ProviderChange,
    ProviderState,
)
from synaxis_common.contracts.health import Blamed, Seen, Sighting, Sightings
from synaxis_common.contracts.jobs import (
    ClaimReply,
    JobClaim,
    JobFinish,
    JobGrant,
    JobHeartbeat,
    JobWake,
    LeaseReply,
    RunStatus,
)
from synaxis_common.contracts.leases import (
    EndpointName,
    GatewayAlive,
    GatewayAliveReply,
    LeaseAsk,
    LeaseDraw,
    LeaseReturn,
    LeaseReturned,
    Permit,
    PlansStale,
    ProviderLease,
    ProviderLeaseAsk,
    SlotGrant,
)
from synaxis_common.contracts.observation import (
    DiscoveryTarget,
    ObservedModel,
    PollOutcome,
    PollRequested,
    ProviderObservation,
    TargetsReply,
    TargetsRequest,
)
from synaxis_common.contracts.performance import Performance, Spread
from synaxis_common.contracts.routing import (
    Candidate,
    EndpointView,
    ModelsPage,
    ModelsRequest,
    ModelView,
    Needs,
    RefusalCode,
    RoutePlan,
    RouteRefusal,
    RouteReply,
    RouteRequest,
)
from synaxis_common.contracts.usage import (
    AttemptOutcome,
    AttemptReport,
    CallReport,
    RequestOutcome,
    TokenUsage,
)

_AT: Final = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
_ID: Final = UUID("0195f0c2-7c00-7000-8000-000000000001")
_OTHER: Final = UUID("0195f0c2-7c00-7000-8000-000000000002")
_PROVIDER: Final = "nvidia"
_AT_PROVIDER: Final = "google/gemma-3-27b-it"
_MODEL: Final = "gemma-3-27b"
_GATEWAY: Final = "gateway-7c9f-31-a1b2c3"
_PRICES: Final = Prices(input=Decimal("0.10"), output=Decimal("0.30"))
_LOWER: Final = Prices(input=Decimal("0.08"), output=Decimal("0.30"))
_FACTS: Final = ModelFacts(
    name="Gemma 3 27B", context_window=131_072, max_output=8_192, capabilities=Capabilities(tools=True)
)
_POLL: Final = Cause(kind="poll", id=str(_ID), detail="ok")
_TARGET: Final = DiscoveryTarget(
    provider_id=_PROVIDER,
    base_url="https://integrate.api.nvidia.com/v1",
    kind="openai",
    api_key_envs=("NVIDIA_API_KEY",),
    poll=True,
)


def _event(number: int, kind: EventType, data: ModelChange | ProviderChange | BudgetChange) -> CloudEvent:
    match data:
        case ModelChange():
            about = f"{_PROVIDER}/{_AT_PROVIDER}"
        case ProviderChange():
            about = _PROVIDER
        case BudgetChange():
            about = "acme/*"
    event_id = str(UUID(int=_ID.int + number))
    return CloudEvent(id=event_id, type=kind, subject=about, time=_AT, sequence=f"{number:020d}", data=data)


def _model(before: ModelState | None, after: ModelState, cause: Cause = _POLL) -> ModelChange:
    return ModelChange(
        provider_id=_PROVIDER,
        provider_model_id=_AT_PROVIDER,
        global_model_id=_MODEL,
        before=before,
        after=after,
        cause=cause,
    )


_THERE: Final = ModelState(is_available=True, prices=_PRICES)
_AWAY: Final = ModelState(is_available=False, reason="not_listed", prices=_PRICES)
_OFF: Final = ProviderState(is_on=False, reason="22 of 24 requests failed within 300 s")
_ON: Final = ProviderState(is_on=True)
_FEEDBACK: Final = Cause(
    kind="feedback", id="failing-provider", detail="22 of 24 requests failed within 300 s"
)
_BUDGET: Final = BudgetChange(
    tenant_id="acme",
    global_model_id="*",
    spent_usd="80.12",
    budget_usd="100",
    threshold_percent=80,
    before=BudgetState(spent_usd="79.98", threshold_percent=50),
    after=BudgetState(spent_usd="80.12", threshold_percent=80),
)

_EVENTS: Final = (
    _event(1, EventType.MODEL_DISCOVERED, _model(None, _THERE)),
    _event(2, EventType.MODEL_AVAILABLE, _model(_AWAY, _THERE)),
    _event(3, EventType.MODEL_UNAVAILABLE, _model(_THERE, _AWAY)),
    _event(4, EventType.MODEL_RETIRED, _model(_AWAY, ModelState(is_available=False, reason="retired"))),
    _event(
        5,
        EventType.MODEL_REPRICED,
        _model(_THERE, ModelState(is_available=True, prices=_LOWER), Cause(kind="sync", id=str(_OTHER))),
    ),
    _event(
        6,
        EventType.PROVIDER_DISABLED,
        ProviderChange(
            provider_id=_PROVIDER,
            reason="22 of 24 requests failed within 300 s",
            before=_ON,
            after=_OFF,
            failures=FailureCount(requests=24, failures=22, window_s=300),
            cause=_FEEDBACK,
        ),
    ),
    _event(
        7,
        EventType.PROVIDER_RECOVERED,
        ProviderChange(
            provider_id=_PROVIDER, reason="on again", before=_OFF, after=_ON, cause=Cause(kind="operator")
        ),
    ),
    _event(8, EventType.BUDGET_THRESHOLD, _BUDGET),
    _event(
        9,
        EventType.BUDGET_EXHAUSTED,
        _BUDGET.model_copy(
            update={
                "spent_usd": "100",
                "threshold_percent": 100,
                "before": BudgetState(spent_usd="99.99", threshold_percent=95),
                "after": BudgetState(spent_usd="100", threshold_percent=100),
            }
        ),
    ),
)

_MEASURED: Final = Performance(
    requests=412,
    failures=3,
    error_rate=3 / 412,
    ttft_s=Spread(p50=0.21, p95=0.64, p99=1.1),
    total_s=Spread(p50=1.9, p95=4.2, p99=6.8),
    tokens_per_s=Spread(p50=71.0, p95=98.0, p99=104.0),
)
_CANDIDATE: Final = Candidate(
    provider_id=_PROVIDER,
    provider_model_id=_AT_PROVIDER,
    global_model_id=_MODEL,
    base_url=_TARGET.base_url,
    kind="openai",
    api_key_envs=_TARGET.api_key_envs,
    prices=_PRICES,
    expected_cost_usd=Decimal("0.000131"),
)

EXAMPLES: Final[tuple[Message, ...]] = (
    *_EVENTS,
    Availability(
        provider_id=_PROVIDER,
        provider_model_id=_AT_PROVIDER,
        global_model_id=_MODEL,
        is_available=True,
        prices=_PRICES,
        sequence=f"{2:020d}",
        stream_sequence=2,
        at=_AT,
    ),
    AvailabilityCursor(stream_sequence=9, stream_created=_AT, at=_AT),
    RouteRequest(
        request_id=_ID,
        key_hash="9f86d081884c7d65",
        model=_MODEL,
        needs=Needs(stream=True, input_tokens=512, max_output_tokens=256),
        sent_at=_AT.timestamp(),
        lease=LeaseAsk(lease_id=_OTHER, gateway_id=_GATEWAY, permits=8),
    ),
    RouteReply(
        answer=RoutePlan(
            request_id=_ID,
            tenant_id="acme",
            key_id="Qarl2VFp",
            global_model_id=_MODEL,
            candidates=(_CANDIDATE,),
            permit=Permit(lease_id=_OTHER, permits=8, expires_in_s=2.0, usd_each=Decimal("0.00021")),
        )
    ),
    RouteReply(
        answer=RouteRefusal(
            request_id=_ID,
            code=RefusalCode.MODEL_NOT_FOUND,
            message="There is no model 'gema-3-27b'.",
            nearest=(_MODEL,),
        )
    ),
    ModelsRequest(key_hash="9f86d081884c7d65", limit=50),
    ModelsPage(
        models=(
            ModelView(
                id=_MODEL,
                name="Gemma 3 27B",
                vendor="google",
                context_window=131_072,
                capabilities=("tools",),
                endpoints=(
                    EndpointView(
                        provider_id=_PROVIDER,
                        provider_model_id=_AT_PROVIDER,
                        prices=_PRICES,
                        is_available=True,
                        ttft_p95_s=0.64,
                        error_rate=3 / 412,
                        recent=_MEASURED,
                        day=_MEASURED,
                    ),
                ),
            ),
        ),
        next_after=_MODEL,
    ),
    LeaseReturn(lease_id=_OTHER, tenant_id="acme", unused_permits=3, unused_usd=Decimal("0.00063")),
    LeaseReturned(lease_id=_OTHER),
    ProviderLeaseAsk(
        lease_id=_OTHER,
        gateway_id=_GATEWAY,
        provider_id=_PROVIDER,
        provider_model_id=_AT_PROVIDER,
        permits=4,
        tokens_each=768,
    ),
    ProviderLease(lease_id=_OTHER, permits=4, tokens=3_072),
    GatewayAlive(gateway_id=_GATEWAY, slots={"t/acme/*": 3}, slots_seq=17),
    GatewayAliveReply(slots=(SlotGrant(scope="t/acme/*", slots=3),)),
    PlansStale(endpoints=(EndpointName(provider_id=_PROVIDER, provider_model_id=_AT_PROVIDER),)),
    Sightings(
        gateway_id=_GATEWAY,
        sightings=(
            Sighting(
                provider_id=_PROVIDER,
                provider_model_id=_AT_PROVIDER,
                seen=Seen.FAILED,
                blamed=Blamed.CANDIDATE,
                reason="answered 503",
            ),
        ),
    ),
    CallReport(
        request_id=_ID,
        lease_id=_OTHER,
        draws=(LeaseDraw(lease_id=_OTHER, tokens=768, usd=Decimal("0.00021")),),
        gateway_id=_GATEWAY,
        tenant_id="acme",
        key_id="Qarl2VFp",
        global_model_id=_MODEL,
        model_asked=_MODEL,
        stream=True,
        started_at=_AT,
        outcome=RequestOutcome.OK,
        http_status=200,
        latency_s=1.9,
        time_to_first_token_s=0.21,
        attempts=(
            AttemptReport(
                provider_id=_PROVIDER,
                provider_model_id=_AT_PROVIDER,
                outcome=AttemptOutcome.OK,
                http_status=200,
                latency_s=1.88,
                time_to_first_token_s=0.2,
                usage=TokenUsage(input=512, output=128),
                prices=_PRICES,
            ),
        ),
    ),
    CatalogProvider(
        run_id=_ID,
        observed_at=_AT,
        content_hash="5feceb66ffc86f38",
        provider_id=_PROVIDER,
        name="NVIDIA",
        base_url=_TARGET.base_url,
        api_key_envs=_TARGET.api_key_envs,
        npm="@ai-sdk/openai-compatible",
        models=(CatalogProviderModel(provider_model_id=_AT_PROVIDER, facts=_FACTS, prices=_PRICES),),
    ),
    CatalogMetadata(
        run_id=_ID,
        observed_at=_AT,
        content_hash="6b86b273ff34fce1",
        models=(CatalogModel(source_id=_AT_PROVIDER, facts=_FACTS),),
    ),
    CatalogComplete(
        run_id=_ID,
        observed_at=_AT,
        source="models.dev",
        providers=(SeenProvider(provider_id=_PROVIDER, content_hash="5feceb66ffc86f38"),),
    ),
    ProviderObservation(
        poll_id=_ID,
        provider_id=_PROVIDER,
        observed_at=_AT,
        outcome=PollOutcome.OK,
        http_status=200,
        latency_s=0.4,
        models=(ObservedModel(provider_model_id=_AT_PROVIDER),),
    ),
    TargetsRequest(worker_id="discovery-5d8c-17", keys_present=("NVIDIA_API_KEY",)),
    TargetsReply(targets=(_TARGET,), key_variables=("NVIDIA_API_KEY", "HF_TOKEN")),
    PollRequested(target=_TARGET, reason="due"),
    JobClaim(job="models-dev-sync", worker_id="sync-6f7b-12", scheduled_at=_AT, lease_s=30.0),
    ClaimReply(answer=JobGrant(run_id=_ID, fence=1, trigger="schedule")),
    JobWake(job="provider-discovery"),
    JobHeartbeat(run_id=_ID, fence=1, lease_s=30.0),
    JobFinish(run_id=_ID, fence=1, status=RunStatus.SUCCEEDED, counts={"provider_models": 4_711}),
    LeaseReply(held=True),
    AdminRequest(path={"tenant": "acme"}, body={"name": "ci"}),
    AdminReply(status=AdminStatus.OK, body={"data": [], "next_cursor": None}),
)


def examples_of(kind: type[Message]) -> tuple[Message, ...]:
    """Of one kind of message."""
    return tuple(example for example in EXAMPLES if type(example) is kind)
