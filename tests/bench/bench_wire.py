"""What the parts of an answer cost by themselves: an event of a stream, a whole answer, its usage."""

from __future__ import annotations

import asyncio
import json
import timeit
from collections.abc import Callable
from typing import Any

from synaxis_common.clock import SystemClock
from synaxis_common.contracts.routing import Candidate, Needs
from synaxis_gateway.dispatch.call import Attempt
from synaxis_gateway.dispatch.destination import Destination
from synaxis_gateway.dispatch.stream import UpstreamStream
from synaxis_gateway.wire import openai_answer, openai_request, usage

ROUNDS = 2_000
EVENTS = 20_000
ASK = b'{"model": "m", "stream": true, "messages": [{"role": "user", "content": "Hello?"}]}'
USAGE = {
    "prompt_tokens": 2006,
    "completion_tokens": 300,
    "total_tokens": 2306,
    "prompt_tokens_details": {"cached_tokens": 1920, "audio_tokens": 0},
    "completion_tokens_details": {
        "reasoning_tokens": 192,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    },
}
FRAME = {
    "id": "chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG",
    "created": 1_741_570_283,
    "model": "gpt-4o-2024-08-06",
}


class Arrived:
    """An answer whose bytes are all there, in the pieces given."""

    at_eof = True

    def __init__(self, pieces: list[bytes]) -> None:
        self.headers: dict[str, str] = {}
        self._pieces = iter(pieces)

    async def read_some(self, timeout: float | None = None) -> bytes:
        """The next piece."""
        return next(self._pieces, b"")


def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
    """A chunk as OpenAI sends it."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return _event({**FRAME, "object": "chat.completion.chunk", "choices": [choice], "usage": None})


def _event(fields: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"


def _us(measured: Callable[[], object], rounds: int = ROUNDS) -> float:
    return round(min(timeit.repeat(measured, number=rounds, repeat=3)) / rounds * 1e6, 2)


async def stream_us(event: bytes, events: int, at_once: int) -> float:
    """Microseconds that each event of such a stream takes, `at_once` of them in a read."""
    candidate = Candidate(
        provider_id="p",
        provider_model_id="m",
        global_model_id="m",
        base_url="https://x.example",
        kind="openai",
    )
    best = float("inf")
    for _ in range(3 if events >= EVENTS else ROUNDS):
        pieces = [chunk({"role": "assistant", "content": ""})]
        pieces += [event * at_once] * (events // at_once)
        pieces += [chunk({}, "stop"), _event({"choices": [], "usage": USAGE}), b"data: [DONE]\n\n"]
        attempt = Attempt(Destination(candidate, {}), openai_request.parse(ASK, "chat"), 0.0)
        answer: Any = Arrived(pieces)
        stream = UpstreamStream(answer, attempt, SystemClock(), Needs(), drop_usage=True)
        begun = timeit.default_timer()
        if await stream.wait_for_content() is not None:
            raise TypeError("no content")
        while await stream.next_piece():
            pass
        best = min(best, timeit.default_timer() - begun)
    return round(best / events * 1e6, 2)


async def measure() -> dict[str, Any]:
    """Microseconds by what is done."""
    text = chunk({"content": " hello"})
    message: dict[str, Any] = {"role": "assistant", "content": "x" * 120, "refusal": None, "annotations": []}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    answer = json.dumps({**FRAME, "object": "chat.completion", "choices": [choice], "usage": USAGE}).encode()
    vectors = [{"object": "embedding", "index": n, "embedding": [0.0123456789] * 1536} for n in range(100)]
    embeddings = json.dumps({"object": "list", "data": vectors, "usage": {"total_tokens": 8}}).encode()
    return {
        "event_us": await stream_us(text, EVENTS, 1),
        "event_of_20_in_a_read_us": await stream_us(text, EVENTS, 20),
        "event_with_crlf_us": await stream_us(text.replace(b"\n", b"\r\n"), EVENTS, 1),
        "event_not_ascii_us": await stream_us(chunk({"content": "你好"}), EVENTS, 1),
        "event_of_a_tool_call_us": await stream_us(
            chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"a'}}]}), EVENTS, 1
        ),
        "event_of_reasoning_us": await stream_us(
            chunk({"reasoning": "so", "reasoning_details": [{"text": "so"}]}), EVENTS, 1
        ),
        "event_read_closely_us": await stream_us(chunk({"content": [{"text": "so"}]}), EVENTS, 1),
        "stream_of_one_event_us": await stream_us(text, 1, 1),
        "answer_us": _us(lambda: openai_answer.read(answer, "chat")),
        "embeddings_of_100_us": _us(lambda: openai_answer.read(embeddings, "embeddings"), 5),
        "usage_us": _us(lambda: usage.read(USAGE, 128_000)),
        "estimate_us": _us(lambda: usage.estimate(100, 2_000)),
    }


if __name__ == "__main__":
    for name, figure in asyncio.run(measure()).items():
        print(f"{name:28} {figure}")
