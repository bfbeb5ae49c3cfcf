"""Messages are checked at the border and survive the way over the bus unchanged."""

from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from synaxis_common.contracts.admin import ADMIN_ROUTES, admin_proof, is_admin_proof
from synaxis_common.contracts.catalog import Prices, PriceTier
from synaxis_common.contracts.observation import ObservedModel, PollOutcome, ProviderObservation
from synaxis_common.contracts.routing import RouteReply, RouteRequest

PRICES = st.one_of(
    st.none(), st.decimals(min_value=0, max_value=10**9, allow_nan=False, allow_infinity=False)
)


@given(PRICES, PRICES, PRICES)
def test_prices_cross_the_bus_to_the_last_digit(
    price_in: Decimal, price_out: Decimal, price_tier: Decimal
) -> None:
    prices = Prices(
        input=price_in, output=price_out, tiers=(PriceTier(over_tokens=200_000, input=price_tier),)
    )
    back = Prices.model_validate_json(prices.to_bytes())
    assert back == prices
    if price_in is not None:
        assert back.input is not None
        assert back.input.as_tuple().digits == price_in.as_tuple().digits


@pytest.mark.parametrize("price", ["NaN", "Infinity", "-1", "1e12", "x"])
def test_a_price_that_is_none_is_refused(price: str) -> None:
    with pytest.raises(ValidationError):
        Prices.model_validate({"input": price})


@pytest.mark.parametrize("name", ["", " x", "x ", "a\x00b", "\ud800", "x" * 301])
def test_an_id_that_cannot_be_stored_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        ObservedModel(provider_model_id=name)


def test_a_field_of_a_newer_sender_does_no_harm() -> None:
    observation = ProviderObservation(
        poll_id=UUID(int=1),
        provider_id="p",
        observed_at=datetime(2026, 1, 1, tzinfo=UTC),
        outcome=PollOutcome.OK,
    )
    newer = observation.model_dump(mode="json") | {"added_in_v1_later": 1}
    assert ProviderObservation.model_validate(newer) == observation


def test_a_naive_time_is_refused() -> None:
    with pytest.raises(ValidationError):
        ProviderObservation.model_validate(
            {
                "poll_id": str(UUID(int=1)),
                "provider_id": "p",
                "observed_at": "2026-01-01T00:00:00",
                "outcome": "ok",
            }
        )


def test_a_reply_says_itself_whether_it_is_a_plan() -> None:
    request_id = str(UUID(int=7))
    reply = RouteReply.model_validate(
        {"answer": {"kind": "refusal", "request_id": request_id, "code": "model_not_found", "message": "no"}}
    )
    assert reply.answer.kind == "refusal"
    assert RouteRequest(request_id=UUID(int=7), key_hash="h", model="m").needs.operation == "chat"


def test_a_proof_holds_for_its_verb_payload_and_time_only() -> None:
    proof = admin_proof("key", "provider.put", b"{}", 1_000)
    assert is_admin_proof(proof, "key", "provider.put", b"{}", 1_010.0)
    assert not is_admin_proof(proof, "other", "provider.put", b"{}", 1_010.0)
    assert not is_admin_proof(proof, "key", "provider.delete", b"{}", 1_010.0)
    assert not is_admin_proof(proof, "key", "provider.put", b"[]", 1_010.0)
    assert not is_admin_proof(proof, "key", "provider.put", b"{}", 1_031.0)
    assert not is_admin_proof("garbage", "key", "provider.put", b"{}", 1_010.0)
    assert not is_admin_proof("", "key", "provider.put", b"{}", 1_010.0)
    with pytest.raises(ValueError, match="empty"):
        admin_proof("", "provider.put", b"{}", 1)


def test_every_admin_verb_has_one_method_and_path() -> None:
    assert len({(route.method, route.path) for route in ADMIN_ROUTES}) == len(ADMIN_ROUTES)
    assert len({route.verb for route in ADMIN_ROUTES}) == len(ADMIN_ROUTES)
