"""What a request came to: the gateway's report, from which the registry keeps the ledger."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Final
from uuid import UUID

from synaxis_common.contracts.base import Identifier, Message, Moment, Text
from synaxis_common.contracts.catalog import Prices, Tokens
from synaxis_common.contracts.leases import LeaseDraw
from synaxis_common.contracts.routing import Operation

BATCH_REPORTS: Final = 128
"""Reports in one message at most."""
BATCH_BYTES: Final = 256 * 1024
"""Of one message at most, unless a single report is larger; NATS takes 1 MiB."""


class TokenUsage(Message):
    """Tokens by kind. `input` and `output` are totals; the others are parts of them.

    `cache_read`, `cache_write` and `input_audio` are parts of `input`; `reasoning` and `output_audio`
    are parts of `output`.
    """

    input: Tokens = 0
    output: Tokens = 0
    cache_read: Tokens = 0
    cache_write: Tokens = 0
    reasoning: Tokens = 0
    input_audio: Tokens = 0
    output_audio: Tokens = 0


class AttemptOutcome(StrEnum):
    """How one attempt at one candidate ended."""

    OK = "ok"
    CONNECT_ERROR = "connect_error"
    TIMEOUT = "timeout"
    RATE_LIMITED = "rate_limited"
    SERVER_ERROR = "server_error"
    MALFORMED = "malformed"
    """An empty answer, HTML, a 200 with an error inside."""
    UNAUTHORIZED = "unauthorized"
    NOT_FOUND = "not_found"
    REQUEST_ERROR = "request_error"
    """The request's own fault: 400, 413, 422."""
    STREAM_CUT = "stream_cut"
    """Content had been sent when it ended without its proper end."""
    CLIENT_GONE = "client_gone"
    NO_KEY = "no_key"
    """The variable that should hold the provider's key is not set in this gateway."""
    ABANDONED = "abandoned"
    """The gateway gave it up (deadline, shutdown)."""


class RequestOutcome(StrEnum):
    """How the request ended, as its client saw it."""

    OK = "ok"
    CLIENT_ERROR = "client_error"
    UPSTREAM_ERROR = "upstream_error"
    STREAM_CUT = "stream_cut"
    CLIENT_GONE = "client_gone"


class AttemptReport(Message):
    """One attempt."""

    provider_id: Identifier
    provider_model_id: Identifier
    outcome: AttemptOutcome
    http_status: int | None = None
    latency_s: float
    """From sending the request to the end of the answer or the failure."""
    time_to_first_token_s: float | None = None
    retry_after_s: float | None = None
    usage: TokenUsage | None = None
    """What this attempt used; None: it was not billed."""
    usage_estimated: bool = False
    prices: Prices = Prices()
    """The prices it was planned with, kept with the row."""
    error: Text | None = None
    """Scrubbed of anything that looks like a key, and cut."""


class CallReport(Message):
    """One request from beginning to end."""

    request_id: UUID
    lease_id: UUID | None = None
    """The lease it was admitted from; None: its tenant has no limits."""
    draws: tuple[LeaseDraw, ...] = ()
    """What it took out of leases: the first one admitted it, the others paid for further attempts."""
    gateway_id: Identifier | None = None
    tenant_id: Identifier
    key_id: Identifier
    global_model_id: Identifier
    model_asked: Text
    operation: Operation = "chat"
    stream: bool = False
    started_at: Moment
    outcome: RequestOutcome
    http_status: int
    latency_s: float
    time_to_first_token_s: float | None = None
    attempts: tuple[AttemptReport, ...] = ()


def join_reports(reports: Iterable[bytes]) -> bytes:
    """Several reports as one message, a line each: JSON has no line breaks of its own."""
    return b"\n".join(reports)


def split_reports(message: bytes) -> list[bytes]:
    """The reports of a message. What is empty stays one report, which is none and is told to be."""
    return [line for line in message.split(b"\n") if line] or [message]
