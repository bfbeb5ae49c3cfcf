"""An upstream that costs as little as it can, so that a benchmark measures what is in front of it.

`python -m tests.bench.upstream --port 9001` answers every POST at once with a completion of 600 bytes. A
prompt that holds `wish(chunks, gap_ms)` in its first bytes gets a stream: so many chunks of 200 bytes, each
after a gap, or all at once without one. In a stream with gaps every chunk says when it was written.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import time
from typing import cast

import httptools
import uvloop
from tests.bench.pinning import be_prompt
from tests.bench.wheel import Wheel

from synaxis_gateway.http.listener import Listener

MODEL = "bench-model"
ANSWER_BYTES = 600
CHUNK_BYTES = 200
STAMP = b"written@"
"""Before the monotonic nanoseconds at which a chunk was written."""
STAMP_DIGITS = 19
_HEAD_OF_A_BODY = 2048
_WISH = re.compile(rb"<chunks=(\d+) gap_ms=(\d+)>")


def wish(chunks: int, gap_ms: int) -> str:
    """What a prompt says to get a stream."""
    return f"<chunks={chunks} gap_ms={gap_ms}>"


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
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"


def content_event() -> bytes:
    """An event of `CHUNK_BYTES` with content, and a place for when it was written."""
    content = STAMP.decode() + "0" * STAMP_DIGITS
    missing = CHUNK_BYTES - len(event({"content": content}))
    return event({"content": content + "x" * missing})


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _with_length(data: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
        len(data),
        data,
    )


WHOLE = _with_length(completion())
LIST = _with_length(json.dumps({"object": "list", "data": [{"id": MODEL, "object": "model"}]}).encode())
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n" + _chunked(
    event({"role": "assistant", "content": ""})
)
CONTENT = _chunked(content_event())
_BEFORE, _, _REST = CONTENT.partition(STAMP)
_STAMPED = _BEFORE.replace(b"%", b"%%") + STAMP + b"%019d" + _REST[STAMP_DIGITS:].replace(b"%", b"%%")
TAIL = (
    _chunked(event({}, "stop"))
    + _chunked(event({}, None, {"prompt_tokens": 150, "completion_tokens": 60, "total_tokens": 210}))
    + _chunked(b"data: [DONE]\n\n")
    + b"0\r\n\r\n"
)


class Stream:
    """One answer that is written bit by bit."""

    def __init__(self, transport: asyncio.Transport, chunks: int) -> None:
        self._transport = transport
        self._left = chunks
        transport.write(HEAD)
        self.step()

    def step(self) -> bool:
        """Write a chunk; answers whether there are more."""
        if self._transport.is_closing():
            return False
        self._left -= 1
        chunk = _STAMPED % time.monotonic_ns()
        self._transport.write(chunk if self._left else chunk + TAIL)
        return bool(self._left)


class Connection(asyncio.Protocol):
    """One connection; a request is answered when its body is complete."""

    def __init__(self, wheel: Wheel) -> None:
        self._wheel = wheel
        self._parser = httptools.HttpRequestParser(self)
        self._body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by descent

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        if len(self._body) < _HEAD_OF_A_BODY:
            self._body += body[:_HEAD_OF_A_BODY]

    def on_message_complete(self) -> None:
        body, self._body = self._body, b""
        if self._parser.get_method() == b"GET":
            self._transport.write(LIST)
        elif (found := _WISH.search(body)) is None:
            self._transport.write(WHOLE)
        else:
            chunks, gap_ms = int(found[1]), int(found[2])
            if gap_ms:
                self._wheel.add(gap_ms, Stream(self._transport, chunks).step)
            else:
                self._transport.write(HEAD + CONTENT * chunks + TAIL)


async def serve(port: int) -> None:
    """Serve until cancelled; says its port on standard output."""
    wheel = Wheel()
    listener = Listener(lambda: Connection(wheel), lambda: 0)
    await listener.start("127.0.0.1", port, reuse_port=False)
    print(listener.port, flush=True)
    await asyncio.Event().wait()


def main() -> None:
    """Run it by hand or from the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    said = parser.parse_args()
    be_prompt()
    uvloop.run(serve(said.port))


if __name__ == "__main__":
    main()
