"""An upstream that costs as little as it can, so that a benchmark measures what is in front of it.

`python -m tests.bench.upstream --port 9001`: answers every POST at once with a completion of 600 bytes, or a
stream of `--chunks` chunks of 200 bytes. With `--gap` a stream has an event every `--gap` seconds and no end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Callable
from typing import cast

import httptools
import uvloop

MODEL = "bench-model"
ANSWER_BYTES = 600
CHUNK_BYTES = 200


def completion() -> bytes:
    """An answer of `ANSWER_BYTES`."""
    answer = {
        "id": "chatcmpl-bench",
        "object": "chat.completion",
        "created": 1,
        "model": MODEL,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": ""}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 150, "completion_tokens": 60, "total_tokens": 210},
    }
    missing = ANSWER_BYTES - len(json.dumps(answer))
    answer["choices"][0]["message"]["content"] = "x" * missing  # type: ignore[index]
    return json.dumps(answer).encode()


def event(delta: dict[str, str], finish: str | None = None, usage: dict[str, int] | None = None) -> bytes:
    """One event of a stream."""
    chunk = {
        "id": "chatcmpl-bench",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": MODEL,
        "choices": [] if usage else [{"index": 0, "delta": delta, "finish_reason": finish}],
    }
    if usage:
        chunk["usage"] = usage
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def content_event() -> bytes:
    """An event of `CHUNK_BYTES` with content."""
    missing = CHUNK_BYTES - len(event({"content": ""}))
    return event({"content": "x" * missing})


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


WHOLE = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(completion())
    + completion()
)
LISTED = json.dumps({"object": "list", "data": [{"id": MODEL, "object": "model"}]}).encode()
LIST = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(LISTED) + LISTED
)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n" + _chunked(
    event({"role": "assistant", "content": ""})
)
CONTENT = _chunked(content_event())
TAIL = (
    _chunked(event({}, "stop"))
    + _chunked(event({}, None, {"prompt_tokens": 150, "completion_tokens": 60, "total_tokens": 210}))
    + _chunked(b"data: [DONE]\n\n")
    + b"0\r\n\r\n"
)


STAMPED = content_event().partition(b"x" * 24)
"""An event around 24 bytes that hold the time, so that its reader knows how late it is."""


class Wheel:
    """Paced streams: each gets an event every `gap_s`, spread evenly, all of them by one timer."""

    def __init__(self, gap_s: float) -> None:
        self._slots: list[set[asyncio.Transport]] = [set() for _ in range(max(round(gap_s * 1000), 1))]
        self._next = 0

    def add(self, transport: asyncio.Transport) -> None:
        """A stream begins."""
        min(self._slots, key=len).add(transport)

    def remove(self, transport: asyncio.Transport) -> None:
        """It has ended."""
        for slot in self._slots:
            slot.discard(transport)

    async def turn(self) -> None:
        """Send events, a slot a millisecond, for ever; what is late is caught up with."""
        begun, turned = time.monotonic(), 0
        while True:
            while turned < (time.monotonic() - begun) * 1000:
                slot = self._slots[turned % len(self._slots)]
                turned += 1
                event = _chunked(STAMPED[0] + b"@%022d " % time.monotonic_ns() + STAMPED[2])
                for transport in slot:
                    transport.write(event)
            await asyncio.sleep(0.0005)


class Connection(asyncio.Protocol):
    """One connection; a request is answered when its body is complete."""

    def __init__(self, chunks: int, wheel: Wheel | None) -> None:
        self._chunks, self._wheel = chunks, wheel
        self._parser = httptools.HttpRequestParser(self)
        self._body: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by descent

    def connection_lost(self, exc: Exception | None) -> None:
        if self._wheel is not None:
            self._wheel.remove(self._transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        body, self._body = b"".join(self._body), []
        if self._parser.get_method() == b"GET":
            self._transport.write(LIST)
        elif b'"stream":true' in body or b'"stream": true' in body:
            if self._wheel is not None:
                self._transport.write(HEAD + CONTENT)
                self._wheel.add(self._transport)
            else:
                self._transport.write(HEAD + CONTENT * self._chunks + TAIL)
        else:
            self._transport.write(WHOLE)


async def serve(port: int, chunks: int, gap_s: float) -> None:
    """Serve until cancelled; says its port on standard output."""
    wheel = Wheel(gap_s) if gap_s else None
    make: Callable[[], Connection] = lambda: Connection(chunks, wheel)  # noqa: E731 - a factory
    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", port, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await (server.serve_forever() if wheel is None else wheel.turn())


def main() -> None:
    """Run it by hand or from the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--chunks", type=int, default=100)
    parser.add_argument("--gap", type=float, default=0.0)
    said = parser.parse_args()
    uvloop.run(serve(said.port, said.chunks, said.gap))


if __name__ == "__main__":
    main()
