"""Reads call reports: as strictly as their contract does, in a third of the time.

What gateways write looks the same for all of their reports. A report that looks just so is read by its types;
any other one, be it newer, older or none, is left to the contract, which knows what may be read otherwise and
says what is wrong. So whatever is read here has to be read the same there.
"""

from __future__ import annotations

import re
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Final
from uuid import UUID

import msgspec

from synaxis_common.contracts.base import LONGEST_IDENTIFIER, LONGEST_TEXT
from synaxis_common.contracts.catalog import Prices
from synaxis_common.contracts.leases import LeaseDraw
from synaxis_common.contracts.routing import Operation
from synaxis_common.contracts.usage import AttemptOutcome, AttemptReport, CallReport, RequestOutcome

_Tokens = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
_Count = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]

_MOMENT: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{6})?Z")
_USD: Final = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,40})?")

KNOWN_PRICES: Final = 20_000
"""Prices that are remembered by how they were written: there are some for each provider model."""


class Usage(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """As `TokenUsage`."""

    input: _Tokens = 0
    output: _Tokens = 0
    cache_read: _Tokens = 0
    cache_write: _Tokens = 0
    reasoning: _Tokens = 0
    input_audio: _Tokens = 0
    output_audio: _Tokens = 0


class Priced:
    """Prices that were written in one way, and how the ledger keeps them."""

    __slots__ = ("kept", "prices")

    def __init__(self, prices: Prices) -> None:
        self.prices = prices
        self.kept = msgspec.Raw(prices.model_dump_json(exclude_defaults=True).encode())


_NO_PRICES: Final = Priced(Prices())


class _Facts(msgspec.Struct, frozen=True):
    """Of an `AttemptReport`, all but its prices."""

    provider_id: str
    provider_model_id: str
    outcome: AttemptOutcome
    latency_s: float
    http_status: int | None = None
    time_to_first_token_s: float | None = None
    retry_after_s: float | None = None
    usage: Usage | None = None
    usage_estimated: bool = False
    error: str | None = None


class Attempt(_Facts, frozen=True, omit_defaults=True):
    """As `AttemptReport`; encoded it is what the ledger keeps, which leaves out what says nothing."""

    priced: Priced | None = msgspec.field(default=None, name="prices")
    """None: nothing is known."""

    @property
    def prices(self) -> Prices:
        """The prices that the attempt was planned with."""
        return (self.priced or _NO_PRICES).prices


class Draw(msgspec.Struct, frozen=True):
    """As `LeaseDraw`."""

    lease_id: UUID
    permits: int
    tokens: int
    usd: Decimal


class Report(msgspec.Struct, frozen=True):
    """As `CallReport`."""

    request_id: UUID
    lease_id: UUID | None
    draws: tuple[Draw, ...]
    gateway_id: str | None
    tenant_id: str
    key_id: str
    global_model_id: str
    model_asked: str
    operation: Operation
    stream: bool
    started_at: datetime
    outcome: RequestOutcome
    http_status: int
    latency_s: float
    time_to_first_token_s: float | None
    attempts: tuple[Attempt, ...]


AnyAttempt = AttemptReport | Attempt
AnyReport = CallReport | Report


class _Draw(msgspec.Struct, forbid_unknown_fields=True):
    lease_id: UUID
    permits: _Count = 1
    tokens: _Tokens = 0
    usd: str = "0"


class _Attempt(_Facts, frozen=True, forbid_unknown_fields=True):
    prices: msgspec.Raw = msgspec.Raw(b"{}")


class _Report(msgspec.Struct, forbid_unknown_fields=True):
    request_id: UUID
    tenant_id: str
    key_id: str
    global_model_id: str
    model_asked: str
    started_at: str
    outcome: RequestOutcome
    http_status: int
    latency_s: float
    lease_id: UUID | None = None
    draws: tuple[_Draw, ...] = ()
    gateway_id: str | None = None
    operation: Operation = "chat"
    stream: bool = False
    time_to_first_token_s: float | None = None
    attempts: tuple[_Attempt, ...] = ()


class _Unusual(Exception):
    """It may be fine; the contract has to say."""


_decode: Final = msgspec.json.Decoder(_Report).decode
_encode_attempts: Final = msgspec.json.Encoder(enc_hook=lambda priced: priced.kept).encode


class Reading:
    """Reads reports, and remembers the prices in them."""

    def __init__(self) -> None:
        self._priced: dict[bytes, Priced | None] = {}

    def report(self, data: bytes) -> Report:
        """The report that `data` is. Raises pydantic.ValidationError for what is none."""
        try:
            return self._usual(_decode(data))
        except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, _Unusual):
            return of_contract(CallReport.model_validate_json(data))

    def _usual(self, said: _Report) -> Report:
        if _MOMENT.fullmatch(said.started_at) is None:
            raise _Unusual
        return Report(
            said.request_id,
            said.lease_id,
            tuple([Draw(one.lease_id, one.permits, one.tokens, _usd(one.usd)) for one in said.draws]),
            None if said.gateway_id is None else _identifier(said.gateway_id),
            _identifier(said.tenant_id),
            _identifier(said.key_id),
            _identifier(said.global_model_id),
            _text(said.model_asked),
            said.operation,
            said.stream,
            datetime.fromisoformat(said.started_at),
            said.outcome,
            said.http_status,
            said.latency_s,
            said.time_to_first_token_s,
            tuple([self._attempt(one) for one in said.attempts]),
        )

    def _attempt(self, said: _Attempt) -> Attempt:
        return Attempt(
            _identifier(said.provider_id),
            _identifier(said.provider_model_id),
            said.outcome,
            said.latency_s,
            said.http_status,
            said.time_to_first_token_s,
            said.retry_after_s,
            said.usage,
            said.usage_estimated,
            None if said.error is None else _text(said.error),
            self._prices(bytes(said.prices)),
        )

    def _prices(self, written: bytes) -> Priced | None:
        try:
            return self._priced[written]
        except KeyError:
            prices = Prices.model_validate_json(written)  # its error is a ValueError
            if len(self._priced) >= KNOWN_PRICES:
                self._priced.clear()
            found = self._priced[written] = _priced(prices)
            return found


def of_contract(report: CallReport) -> Report:
    """`report` as it is read from its bytes."""
    return Report(
        request_id=report.request_id,
        lease_id=report.lease_id,
        draws=tuple(map(_draw, report.draws)),
        gateway_id=report.gateway_id,
        tenant_id=report.tenant_id,
        key_id=report.key_id,
        global_model_id=report.global_model_id,
        model_asked=report.model_asked,
        operation=report.operation,
        stream=report.stream,
        started_at=report.started_at,
        outcome=report.outcome,
        http_status=report.http_status,
        latency_s=report.latency_s,
        time_to_first_token_s=report.time_to_first_token_s,
        attempts=tuple(map(_read_attempt, report.attempts)),
    )


def kept_attempts(report: Report) -> msgspec.Raw:
    """The attempts as the ledger keeps them: JSON without what says nothing."""
    return msgspec.Raw(_encode_attempts(report.attempts))


def _priced(prices: Prices) -> Priced | None:
    return None if prices == _NO_PRICES.prices else Priced(prices)


def _draw(draw: LeaseDraw) -> Draw:
    return Draw(draw.lease_id, draw.permits, draw.tokens, draw.usd)


def _read_attempt(attempt: AttemptReport) -> Attempt:
    usage = attempt.usage
    return Attempt(
        provider_id=attempt.provider_id,
        provider_model_id=attempt.provider_model_id,
        outcome=attempt.outcome,
        latency_s=attempt.latency_s,
        http_status=attempt.http_status,
        time_to_first_token_s=attempt.time_to_first_token_s,
        retry_after_s=attempt.retry_after_s,
        usage=None if usage is None else Usage(**usage.model_dump()),
        usage_estimated=attempt.usage_estimated,
        priced=_priced(attempt.prices),
        error=attempt.error,
    )


def _identifier(text: str) -> str:
    """Plain ids only; what else may be one the contract says."""
    if not (
        0 < len(text) <= LONGEST_IDENTIFIER
        and text.isascii()
        and text.isprintable()
        and text[0] != " "
        and text[-1] != " "
    ):
        raise _Unusual
    return text


def _text(text: str) -> str:
    if len(text) > LONGEST_TEXT or "\x00" in text or not text.isascii():
        raise _Unusual
    return text


def _usd(written: str) -> Decimal:
    if _USD.fullmatch(written) is None:
        raise _Unusual
    return Decimal(written)
