"""A report is read as its contract reads it, whatever it looks like."""

from __future__ import annotations

import copy
import json
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from synaxis_common.contracts.usage import AttemptReport, CallReport
from synaxis_registry.core import reading
from synaxis_registry.core.reading import Reading, kept_attempts, of_contract

USUAL: dict[str, Any] = {
    "request_id": "01a22056-a5d3-771b-8c56-53e8077fc153",
    "lease_id": "01a22056-a5d5-71aa-8aa7-09c2780f9153",
    "draws": [
        {"lease_id": "01a22056-a5d5-71aa-8aa7-09c3d4ba8874", "permits": 1, "tokens": 600, "usd": "0.0012"}
    ],
    "gateway_id": "gateway-1",
    "tenant_id": "acme",
    "key_id": "k-1",
    "global_model_id": "talker-2-mini",
    "model_asked": "Talker 2 mini",
    "operation": "chat",
    "stream": True,
    "started_at": "2026-11-28T04:07:59.188998Z",
    "outcome": "ok",
    "http_status": 200,
    "latency_s": 0.1,
    "time_to_first_token_s": None,
    "attempts": [
        {
            "provider_id": "p0",
            "provider_model_id": "vendor/talker",
            "outcome": "ok",
            "http_status": 200,
            "latency_s": 0.1,
            "time_to_first_token_s": 0.05,
            "retry_after_s": None,
            "usage": {"input": 512, "output": 128, "cache_read": 0},
            "usage_estimated": False,
            "prices": {
                "input": "0.10000000000000000000000000000000001",
                "output": "0.02",
                "cache_read": None,
                "tiers": [{"over_tokens": 200000, "input": "1E-9"}],
            },
            "error": None,
        }
    ],
}

ODD: st.SearchStrategy[Any] = st.sampled_from(
    [
        *(
            None,
            True,
            False,
            0,
            1,
            -1,
            200,
            200.0,
            2.5,
            2**31,
            2**53,
            2**70,
            1e300,
            "",
            " ",
            "x",
            " x",
            "x ",
            "1",
        ),
        *(
            "x y",
            "x\ny",
            "x\x00",
            "ä",
            "\u2028x",
            "x\u00a0",
            "x" * 300,
            "x" * 301,
            "x" * 20_001,
            "0.5",
            "1e-7",
        ),
        *(
            "-1",
            "1e12",
            "999999999999.9",
            "1000000000000",
            "0012.50",
            "NaN",
            "Infinity",
            ".5",
            "5.",
            "+5",
            " 5",
        ),
        *("2026-11-28T04:07:59Z", "2026-11-28T04:07:59.188998+02:00", "2026-11-28 04:07:59Z", "2026-11-28"),
        *("2026-11-28T04:07:59.1889987Z", "2026-13-28T04:07:59Z", "2026-11-28T24:00:00Z", 1_795_000_000),
        *(
            "2026-11-28T04:07:59",
            "{01a22056-a5d3-771b-8c56-53e8077fc153}",
            "01a22056a5d3771b8c5653e8077fc153",
        ),
        *(
            "ok",
            "timeout",
            "OK",
            "embeddings",
            [],
            {},
            [{}],
            [None],
            {"input": "1"},
            {"input": 1},
            {"input": 5.0},
        ),
        *({"input": -1}, {"input": "0.1", "tiers": None}, {"tiers": []}, {"unknown": "1"}, {"input": 0.1}),
    ]
)
LEFT_OUT = object()


def paths(value: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [before] if before else []
    if isinstance(value, dict):
        for name in value:
            found += paths(value[name], (*before, name))
        found.append((*before, "new_field"))
    elif isinstance(value, list):
        for place in range(len(value)):
            found += paths(value[place], (*before, place))
    return found


def with_changes(changes: list[tuple[tuple[Any, ...], Any]]) -> Any:
    changed = json.loads(json.dumps(USUAL))
    for path, value in changes:
        around = changed
        try:
            for step in path[:-1]:
                around = around[step]
            if value is LEFT_OUT:
                del around[path[-1]]
            else:
                around[path[-1]] = copy.deepcopy(value)  # it may be put into itself later
        except (KeyError, IndexError, TypeError):
            continue  # another change has taken its place away
    return changed


def read_by_contract(data: bytes) -> Any:
    try:
        return of_contract(CallReport.model_validate_json(data))
    except ValidationError as error:
        return error.errors(include_url=False, include_input=False, include_context=False)


def read(data: bytes, reader: Reading | None = None) -> Any:
    try:
        return (reader or Reading()).report(data)
    except ValidationError as error:
        return error.errors(include_url=False, include_input=False, include_context=False)


def comparable(found: Any) -> Any:
    """Prices are compared as prices, and with the ledger's words for them."""
    if not isinstance(found, reading.Report):
        return found
    fields = {name: getattr(found, name) for name in found.__struct_fields__ if name != "attempts"}
    attempts = [
        (one.prices, {name: getattr(one, name) for name in one.__struct_fields__ if name != "priced"})
        for one in found.attempts
    ]
    return (
        repr(fields),
        repr(attempts),
        [draw.usd.as_tuple() for draw in found.draws],
        bytes(kept_attempts(found)),
    )


@settings(max_examples=600)
@given(st.lists(st.tuples(st.sampled_from(paths(USUAL)), ODD | st.just(LEFT_OUT)), max_size=3))
def test_whatever_a_report_looks_like_it_is_read_as_its_contract_reads_it(
    changes: list[tuple[tuple[Any, ...], Any]],
) -> None:
    data = json.dumps(with_changes(changes), ensure_ascii=False).encode()
    assert comparable(read(data)) == comparable(read_by_contract(data))


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"null", b"[]", b"{", b'{"request_id": 1}', b"\xff", b'"x"'),
        json.dumps(USUAL).replace('"acme"', '"\\ud800"').encode(),
        json.dumps(USUAL).replace('"Talker 2 mini"', '"\\ud83d\\ude00"').encode(),
        json.dumps(USUAL).replace('"acme"', '"\\u0000"').encode(),
        json.dumps({**USUAL, "note": "x"}).replace('"x"', '"\\ud800"').encode(),
        json.dumps(USUAL).replace('"acme"', '"a"').encode().replace(b'"a"', b'"\xff"'),
        json.dumps(USUAL).replace('"stream": true', '"stream": false, "stream": true').encode(),
        json.dumps(USUAL).replace('"latency_s": 0.1', '"latency_s": NaN').encode(),
        json.dumps(USUAL).replace('"latency_s": 0.1', '"latency_s": 1e999').encode(),
        json.dumps(USUAL).replace('"http_status": 200', f'"http_status": {"9" * 5_000}').encode(),
        json.dumps(USUAL).replace('"input": "0.1', '"input": "0.2", "input": "0.1').encode(),
        json.dumps(USUAL).replace('"over_tokens": 200000', '"over_tokens": -1').encode(),
        b"[" * 10_000,
        json.dumps(USUAL).encode() + b" x",
    ],
)
def test_what_is_no_report_is_refused_for_the_same_reasons(data: bytes) -> None:
    assert comparable(read(data)) == comparable(read_by_contract(data))


def test_the_ledger_keeps_attempts_as_the_contract_writes_them() -> None:
    data = json.dumps(USUAL).encode()
    attempts = CallReport.model_validate_json(data).attempts
    wanted = TypeAdapter(tuple[AttemptReport, ...]).dump_json(attempts, exclude_defaults=True)
    assert json.loads(bytes(kept_attempts(Reading().report(data)))) == json.loads(wanted)


def test_money_is_read_to_the_last_digit() -> None:
    found = Reading().report(json.dumps(USUAL).encode())
    assert found.attempts[0].prices.input == Decimal("0.10000000000000000000000000000000001")
    assert found.attempts[0].prices.tiers[0].input == Decimal("1E-9")
    assert str(found.draws[0].usd) == "0.0012"
    assert found.request_id == UUID(USUAL["request_id"])


def test_the_usual_report_is_not_left_to_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "CallReport", None)
    assert Reading().report(json.dumps(USUAL).encode()).tenant_id == "acme"
    written = CallReport.model_validate_json(json.dumps(USUAL)).to_bytes()
    assert Reading().report(written).tenant_id == "acme"


def test_prices_are_remembered_by_how_they_were_written_and_only_so_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading, "KNOWN_PRICES", 3)
    reader = Reading()
    for number in range(10):
        changed = with_changes([(("attempts", 0, "prices", "input"), f"0.{number}")])
        data = json.dumps(changed).encode()
        for _ in range(2):
            assert comparable(read(data, reader)) == comparable(read_by_contract(data))
    assert len(reader._priced) <= 3
