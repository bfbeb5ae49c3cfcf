"""What keeps failover in bounds, who may call what, and when the gateway does not start."""

from __future__ import annotations

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from pydantic import SecretStr, ValidationError

from synaxis_common.bus import Bus
from synaxis_common.clock import SystemClock
from synaxis_common.contracts.routing import Candidate, RateLimitView
from synaxis_common.health import Health
from synaxis_gateway.admission.admission import Admission
from synaxis_gateway.admission.provider_limits import ProviderLimits
from synaxis_gateway.admission.returns import Returns
from synaxis_gateway.dispatch.attempt import Attempts
from synaxis_gateway.dispatch.cooldown import Cooldowns
from synaxis_gateway.dispatch.cover import Cover
from synaxis_gateway.dispatch.failover import Failover
from synaxis_gateway.dispatch.reports import Reports
from synaxis_gateway.dispatch.retry_budget import CAP, CONCURRENT_FLOOR, RetryBudget
from synaxis_gateway.http import errors, routes
from synaxis_gateway.http.admin import AdminHandlers
from synaxis_gateway.http.auth import TenantKeys
from synaxis_gateway.http.errors import ApiError
from synaxis_gateway.http.journal import Journal
from synaxis_gateway.http.middleware import authorize
from synaxis_gateway.http.models import ModelsHandlers
from synaxis_gateway.http.openai import OpenAIHandlers
from synaxis_gateway.http.routes import POLICIES, Policy
from synaxis_gateway.http.server import build_app
from synaxis_gateway.routing import Registry
from synaxis_gateway.settings import GatewaySettings
from synaxis_gateway.upstream import headers
from synaxis_gateway.upstream.client import UpstreamClient
from synaxis_gateway.wire import header_lines

PUBLIC = {"/healthz", "/readyz", "/metrics", "/openapi.json"}


def settings() -> GatewaySettings:
    return GatewaySettings(admin_key=SecretStr("a"), key_pepper=SecretStr("p"))


async def app() -> web.Application:
    bus = Bus(settings(), "test")
    clock = SystemClock()
    registry = Registry(bus, clock, 1.0)
    client = UpstreamClient(max_answer_bytes=1)
    await client.close()
    returns = Returns(bus, clock)
    admission = Admission(registry, clock, returns, "g", plan_hard_age_s=300)
    cover = Cover(admission, ProviderLimits(registry, clock, returns, "g"))
    failover = Failover(Attempts(client, {}), RetryBudget(), Cooldowns(), cover)
    own = [
        *OpenAIHandlers(settings(), clock, admission, failover, Reports(bus, clock, 1, None), "g").routes(),
        *ModelsHandlers(registry).routes(),
        *AdminHandlers(settings(), bus, clock).routes(),
    ]
    return build_app(settings(), clock, Health(), own, TenantKeys("pepper"), Journal(clock))


def candidate(name: str, **changes: object) -> Candidate:
    fields = {
        "provider_id": name,
        "provider_model_id": "m",
        "global_model_id": "m",
        "base_url": "https://x.example/v1",
        "kind": "openai",
    }
    return Candidate.model_validate(fields | changes)


async def test_every_route_says_who_may_call_it() -> None:
    built = await app()
    assert len(built.router.routes()) > 30
    for route in built.router.routes():
        path = route.resource.canonical if route.resource is not None else ""
        policy = built[POLICIES].get(route)
        assert policy is not None, f"{route.method} {path} has no policy and is denied"
        expected = (
            Policy.PUBLIC if path in PUBLIC else Policy.ADMIN if path.startswith("/admin/") else Policy.TENANT
        )
        assert policy is expected, f"{route.method} {path}"


async def test_a_route_without_a_policy_is_denied() -> None:
    built = web.Application()
    built[POLICIES] = {}

    async def handler(_request: web.Request) -> web.StreamResponse:
        raise AssertionError("must not be called")

    built.router.add_get("/forgotten", handler)
    request = make_mocked_request("GET", "/forgotten", app=built)
    matched = await built.router.resolve(request)
    matched.add_app(built)
    request._match_info = matched
    assert routes.policy_of(request) is None
    with pytest.raises(ApiError) as caught:
        await authorize(TenantKeys("p"), "a")(request, handler)
    assert caught.value.status == 403


@pytest.mark.parametrize("missing", ["admin_key", "key_pepper"])
@pytest.mark.parametrize("value", ["", "  "])
def test_without_its_secrets_the_gateway_does_not_start(missing: str, value: str) -> None:
    given = {"admin_key": "canary", "key_pepper": "canary", missing: value}
    with pytest.raises(ValidationError) as caught:
        GatewaySettings.model_validate(given)
    assert missing in str(caught.value)
    assert "canary" not in str(caught.value)


def test_extra_attempts_are_a_fifth_of_the_first_ones_once_what_was_saved_is_spent() -> None:
    budget = RetryBudget()
    for _ in range(CONCURRENT_FLOOR):
        assert budget.begin_extra("m")
    saved = 0
    while budget.begin_extra("m"):
        saved += 1
    assert saved + CONCURRENT_FLOOR == CAP + CONCURRENT_FLOOR - CONCURRENT_FLOOR
    granted = 0
    for _ in range(100):
        budget.first_attempt("m")
        granted += budget.begin_extra("m")
    assert granted in (19, 20)
    assert budget.begin_extra("another model")


def test_a_few_extra_attempts_at_once_are_always_allowed() -> None:
    budget = RetryBudget()
    for _ in range(50):
        assert budget.begin_extra("m")
        budget.end_extra("m")


def test_a_plan_cannot_touch_the_key_or_the_frame_of_a_request() -> None:
    own = {
        "Authorization": "x",
        "HOST": "evil",
        "Transfer-Encoding": "chunked",
        "Accept-encoding": "gzip",
        "HTTP-Referer": "r",
    }
    sent = headers.build(candidate("a", headers=own), "key", stream=True)
    assert sent["authorization"] == "Bearer key"
    assert sent["accept-encoding"] == "identity"
    assert sent["http-referer"] == "r"
    assert not {"host", "transfer-encoding"} & {name.lower() for name in sent}
    assert len({name.lower() for name in sent}) == len(sent)


def test_limits_are_said_under_openais_names_and_only_where_there_are_any() -> None:
    assert errors.rate_limit_lines(RateLimitView()) == ""
    found = errors.rate_limit_lines(RateLimitView(limit_tokens=5, remaining_tokens=-3, reset_tokens_s=60))
    assert header_lines.split(found) == {
        "x-ratelimit-limit-tokens": "5",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "60s",
    }
