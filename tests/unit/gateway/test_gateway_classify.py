"""What a provider's answer means: the table of the design."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from synaxis_common.contracts.usage import AttemptOutcome as Outcome
from synaxis_gateway.dispatch import classify, retry_after
from synaxis_gateway.dispatch.classify import Follows
from synaxis_gateway.upstream.errors import NoConnection, Reset, Unreadable, UpstreamError
from synaxis_gateway.wire.openai_answer import EmbeddedError

NOW = datetime(2026, 11, 23, 8, 0, 0, tzinfo=UTC)

STATUSES: list[tuple[int, bytes, Outcome, Follows]] = [
    (408, b"", Outcome.TIMEOUT, Follows.NEXT),
    (409, b"", Outcome.SERVER_ERROR, Follows.NEXT),
    (425, b"", Outcome.SERVER_ERROR, Follows.NEXT),
    (429, b"", Outcome.RATE_LIMITED, Follows.NEXT),
    (429, b'{"error":{"code":"insufficient_quota"}}', Outcome.UNAUTHORIZED, Follows.NEXT),
    (402, b"", Outcome.UNAUTHORIZED, Follows.NEXT),
    (400, b"You have reached your spend limit", Outcome.UNAUTHORIZED, Follows.NEXT),
    (500, b"", Outcome.SERVER_ERROR, Follows.NEXT),
    (502, b"", Outcome.SERVER_ERROR, Follows.NEXT),
    (503, b"", Outcome.SERVER_ERROR, Follows.NEXT),
    (504, b"", Outcome.SERVER_ERROR, Follows.NEXT),
    (522, b"", Outcome.SERVER_ERROR, Follows.NEXT),
    (529, b'{"type":"overloaded_error"}', Outcome.SERVER_ERROR, Follows.NEXT),
    (401, b"", Outcome.UNAUTHORIZED, Follows.NEXT),
    (403, b"", Outcome.UNAUTHORIZED, Follows.NEXT),
    (403, b"unsupported_country_region_territory", Outcome.UNAUTHORIZED, Follows.NEXT),
    (403, b"Your input was flagged by moderation", Outcome.REQUEST_ERROR, Follows.ANSWER),
    (404, b"", Outcome.NOT_FOUND, Follows.NEXT),
    (410, b"", Outcome.NOT_FOUND, Follows.NEXT),
    (400, b'{"error":{"code":"content_filter"}}', Outcome.REQUEST_ERROR, Follows.ANSWER),
    (400, b"temperature too high", Outcome.REQUEST_ERROR, Follows.ANSWER),
    (413, b"", Outcome.REQUEST_ERROR, Follows.ANSWER),
    (422, b"", Outcome.REQUEST_ERROR, Follows.ANSWER),
    (400, b'{"code":"context_length_exceeded"}', Outcome.REQUEST_ERROR, Follows.NEXT_IF_LARGER),
    (
        400,
        b"This model's maximum context length is 8192 tokens",
        Outcome.REQUEST_ERROR,
        Follows.NEXT_IF_LARGER,
    ),
    (400, b"prompt is too long: 300000 tokens", Outcome.REQUEST_ERROR, Follows.NEXT_IF_LARGER),
    (400, b"The input token count (9) exceeds the maximum", Outcome.REQUEST_ERROR, Follows.NEXT_IF_LARGER),
    (413, b"Please reduce the length of the messages", Outcome.REQUEST_ERROR, Follows.NEXT_IF_LARGER),
    (301, b"", Outcome.MALFORMED, Follows.NEXT),
    (307, b"", Outcome.MALFORMED, Follows.NEXT),
    (204, b"", Outcome.MALFORMED, Follows.NEXT),
    (418, b"", Outcome.MALFORMED, Follows.NEXT),
]


@pytest.mark.parametrize(("code", "body", "outcome", "follows"), STATUSES)
def test_a_status_means_what_the_table_says(
    code: int, body: bytes, outcome: Outcome, follows: Follows
) -> None:
    verdict = classify.status(code, {}, body, NOW)
    assert (verdict.outcome, verdict.follows) == (outcome, follows)
    assert body.decode() == "" or body.decode() not in verdict.reason, "a reason is in our words"


@pytest.mark.parametrize(
    ("error", "outcome", "reached", "billed"),
    [
        (NoConnection("cannot be reached"), Outcome.CONNECT_ERROR, False, False),
        (Reset("closed"), Outcome.CONNECT_ERROR, True, False),
        (Unreadable("broke off"), Outcome.MALFORMED, True, True),
        (TimeoutError(), Outcome.TIMEOUT, True, True),
    ],
)
def test_no_answer_leads_to_the_next_candidate(
    error: UpstreamError | TimeoutError, outcome: Outcome, reached: bool, billed: bool
) -> None:
    verdict = classify.failure(error)
    assert (verdict.outcome, verdict.follows) == (outcome, Follows.NEXT)
    assert (verdict.reached, verdict.may_be_billed) == (reached, billed)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (EmbeddedError(429, ""), Outcome.RATE_LIMITED),
        (EmbeddedError(401, ""), Outcome.UNAUTHORIZED),
        (EmbeddedError(404, ""), Outcome.NOT_FOUND),
        (EmbeddedError(503, ""), Outcome.SERVER_ERROR),
        (EmbeddedError(400, "bad"), Outcome.MALFORMED),
        (EmbeddedError(None, "insufficient_quota"), Outcome.UNAUTHORIZED),
        (EmbeddedError(None, "boom"), Outcome.MALFORMED),
    ],
)
def test_an_error_inside_of_a_200_always_leads_to_the_next_candidate(
    error: EmbeddedError, outcome: Outcome
) -> None:
    verdict = classify.embedded(error, {}, NOW)
    assert (verdict.outcome, verdict.follows) == (outcome, Follows.NEXT)


WAITS: list[tuple[dict[str, str], float | None]] = [
    ({}, None),
    ({"retry-after": "7"}, 7),
    ({"retry-after": "0"}, 0),
    ({"retry-after": "1.5"}, 1.5),
    ({"retry-after": "-1"}, None),
    ({"retry-after": "Mon, 23 Nov 2026 08:00:30 GMT"}, 30),
    ({"retry-after": "Mon, 23 Nov 2026 07:00:00 GMT"}, 0),
    ({"retry-after": "soon"}, None),
    ({"retry-after": "nan"}, None),
    ({"retry-after": "6m0s"}, 360),
    ({"retry-after": "99999999"}, 600),
    ({"retry-after": "٣"}, None),
    ({"retry-after-ms": "2500", "retry-after": "9"}, 2.5),
    ({"x-ms-retry-after-ms": "100"}, 0.1),
    ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m30s"}, 90),
    ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "120ms"}, 0.12),
    ({"x-ratelimit-remaining-requests": "5", "x-ratelimit-reset-requests": "1m"}, None),
    ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(NOW.timestamp()) + 20)}, 20),
    ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": str((int(NOW.timestamp()) + 20) * 1000)}, 20),
]


@pytest.mark.parametrize(("headers", "seconds"), WAITS)
def test_a_wait_is_understood_however_it_is_said(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after.read(headers, NOW) == (None if seconds is None else pytest.approx(seconds))
