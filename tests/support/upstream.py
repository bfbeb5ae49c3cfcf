"""A provider that speaks OpenAI's format over real HTTP, and misbehaves on command.

In a test: `async with FakeProvider(models=["m"]) as provider: provider.behaviour = Behaviour(status=503)`.
By hand: `python -m tests.support.upstream --port 9001 --model m`, then
`curl -X PUT localhost:9001/control -d '{"status": 503}'` and `curl localhost:9001/control`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import ssl
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any, Self

from aiohttp import web

DEFAULT_USAGE: Mapping[str, Any] = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
SAID_BETWEEN = 0.05
"""Seconds between the comments of a provider that keeps a connection alive without saying anything."""


@dataclass(frozen=True)
class Behaviour:
    """How a provider treats a request. The default is to answer it."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str | None = None
    """Sent instead of an answer, whatever it is."""
    content_type: str | None = None
    hang: bool = False
    """Never sends a byte."""
    drop: bool = False
    """Closes the connection without a byte."""
    delay_s: float = 0.0
    """Before the first byte."""
    words: Sequence[str] = ("Hello", " from", " the", " provider")
    """The answer, a chunk a word when streamed."""
    chunk_delay_s: float = 0.0
    role_chunk: bool = True
    cut_after: int | None = None
    """Streams: closes the connection after so many words."""
    clean_cut_after: int | None = None
    """Streams: ends the body properly after so many words, with neither finish reason nor `[DONE]`."""
    stall_after: int | None = None
    """Streams: says nothing more after so many words."""
    comments_while_stalled: bool = False
    error_after: int | None = None
    """Streams: an error event after so many words; 0 is before any content."""
    error: Mapping[str, Any] = field(default_factory=lambda: {"message": "boom", "code": 500})
    garbage_after: int | None = None
    """Streams: an event that is not JSON after so many words."""
    finish: bool = True
    """Streams: says a finish reason."""
    done: bool = True
    """Streams: says `[DONE]`."""
    hold_open: bool = False
    """Streams: after the finish reason says nothing more and does not close."""
    usage: Any = field(default_factory=lambda: dict(DEFAULT_USAGE))
    """None: does not say."""
    tool_call: bool = False


@dataclass
class Received:
    """A request as the provider got it."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    client_left: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the connection was closed before the answer was complete."""

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


class FakeProvider:
    """A server on 127.0.0.1. `behaviour` is what it does; `next_behaviours` are used up first."""

    def __init__(
        self,
        name: str = "fake",
        models: Sequence[str | Mapping[str, Any]] = ("test-model",),
        *,
        api_key: str | None = None,
        port: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.name = name
        self.models: list[str | Mapping[str, Any]] = list(models)
        self.behaviour = Behaviour()
        self.models_behaviour = Behaviour()
        self.next_behaviours: deque[Behaviour] = deque()
        self.received: list[Received] = []
        self.api_key = api_key
        self.port = port
        self.tls = tls
        self._arrived = asyncio.Condition()
        self._runner: web.AppRunner | None = None

    @property
    def base_url(self) -> str:
        """What a provider's entry says: the root of its OpenAI-compatible API."""
        # Certificates are for names.
        return f"http://127.0.0.1:{self.port}/v1" if self.tls is None else f"https://localhost:{self.port}/v1"

    @property
    def calls(self) -> list[Received]:
        """The requests other than those for the model list."""
        return [each for each in self.received if each.method == "POST"]

    async def start(self) -> None:
        """Listen; after a `stop`, on the same port again."""
        app = web.Application(client_max_size=256 * 1024 * 1024)
        app.router.add_get("/v1/models", self._list)
        app.router.add_put("/control", self._set_control)
        app.router.add_get("/control", self._get_control)
        app.router.add_post("/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self.tls).start()
        self.port = int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Be gone: connections are refused."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def wait_for_call(self, number: int = 1, timeout: float = 25.0) -> Received:
        """The `number`-th POST, waiting for it."""
        async with asyncio.timeout(timeout), self._arrived:
            await self._arrived.wait_for(lambda: len(self.calls) >= number)
        return self.calls[number - 1]

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _note(self, request: web.Request) -> Received:
        received = Received(request.method, request.path, dict(request.headers), await request.read())
        async with self._arrived:
            self.received.append(received)
            self._arrived.notify_all()
        return received

    async def _list(self, request: web.Request) -> web.StreamResponse:
        received = await self._note(request)
        early = await self._misbehave(request, received, self.models_behaviour)
        if early is not None:
            return early
        data = [
            {"id": entry, "object": "model", "owned_by": self.name} if isinstance(entry, str) else dict(entry)
            for entry in self.models
        ]
        return web.json_response({"object": "list", "data": data})

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        received = await self._note(request)
        behaviour = self.next_behaviours.popleft() if self.next_behaviours else self.behaviour
        try:
            early = await self._misbehave(request, received, behaviour)
            if early is not None:
                return early
            asked = json.loads(received.body)
            if request.path.endswith("/embeddings"):
                return web.json_response(
                    {
                        "object": "list",
                        "model": asked.get("model"),
                        "data": [{"object": "embedding", "index": 0, "embedding": [0.25, -0.5]}],
                        "usage": {"prompt_tokens": 3, "total_tokens": 3},
                    }
                )
            if asked.get("stream"):
                return await self._stream(request, behaviour, asked)
            return self._whole(behaviour, asked)
        except (asyncio.CancelledError, ConnectionError):
            received.client_left.set()
            raise

    async def _misbehave(
        self, request: web.Request, received: Received, behaviour: Behaviour
    ) -> web.StreamResponse | None:
        if behaviour.delay_s:
            await asyncio.sleep(behaviour.delay_s)
        if behaviour.hang:
            try:
                await asyncio.Event().wait()
            finally:
                received.client_left.set()
        if behaviour.drop:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if self.api_key is not None and request.headers.get("Authorization") != f"Bearer {self.api_key}":
            return web.json_response({"error": {"message": "bad key", "code": "invalid_api_key"}}, status=401)
        if behaviour.body is None and behaviour.status == 200:
            return None
        body = behaviour.body
        if body is None:
            body = json.dumps({"error": {"message": f"status {behaviour.status}", "code": behaviour.status}})
        return web.Response(
            status=behaviour.status,
            body=body.encode(),
            headers={"Content-Type": behaviour.content_type or "application/json", **behaviour.headers},
        )

    def _whole(self, behaviour: Behaviour, asked: Mapping[str, Any]) -> web.Response:
        text = "".join(behaviour.words)
        answer: dict[str, Any] = {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": asked.get("model"),
            "provider": self.name,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text},
                    "text": text,
                    "finish_reason": "stop",
                }
            ],
        }
        if behaviour.usage is not None:
            answer["usage"] = behaviour.usage
        headers = {"Set-Cookie": "session=1", "Server": "fake", "x-ratelimit-remaining-requests": "3"}
        # Spaces that no serialiser makes: whoever writes the JSON anew is found out.
        return web.Response(
            body=json.dumps(answer, indent=3).encode(), content_type="application/json", headers=headers
        )

    async def _stream(
        self, request: web.Request, behaviour: Behaviour, asked: Mapping[str, Any]
    ) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"Content-Type": behaviour.content_type or "text/event-stream", **behaviour.headers}
        )
        await response.prepare(request)
        if behaviour.role_chunk:
            await response.write(self._chunk(asked, {"role": "assistant", "content": ""}))
        for position, word in enumerate([*behaviour.words, None]):
            if behaviour.cut_after == position:
                assert request.transport is not None
                request.transport.abort()
                return response
            if behaviour.clean_cut_after == position:
                return response
            if behaviour.stall_after == position:
                while True:
                    await asyncio.sleep(SAID_BETWEEN)
                    if behaviour.comments_while_stalled:
                        await response.write(b": still here\n\n")
            if behaviour.error_after == position:
                await response.write(_event({"error": dict(behaviour.error)}))
                return response
            if behaviour.garbage_after == position:
                await response.write(b"data: {not json\n\n")
                return response
            if word is not None:
                delta: dict[str, Any] = {"content": word}
                if behaviour.tool_call:
                    call = {"index": 0, "id": "call-1", "function": {"name": "f", "arguments": word}}
                    delta = {"tool_calls": [call]}
                await response.write(self._chunk(asked, delta))
                if behaviour.chunk_delay_s:
                    await asyncio.sleep(behaviour.chunk_delay_s)
        if behaviour.finish:
            await response.write(self._chunk(asked, {}, finish_reason="stop"))
        if behaviour.hold_open:
            await asyncio.Event().wait()
        options = asked.get("stream_options") or {}
        if behaviour.usage is not None and options.get("include_usage"):
            await response.write(
                _event({**_FRAME, "model": asked.get("model"), "choices": [], "usage": behaviour.usage})
            )
        if behaviour.done:
            await response.write(b"data: [DONE]\n\n")
        return response

    def _chunk(
        self, asked: Mapping[str, Any], delta: Mapping[str, Any], finish_reason: str | None = None
    ) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        if "content" in delta:
            choice["text"] = delta["content"]
        return _event({**_FRAME, "model": asked.get("model"), "choices": [choice]})

    async def _set_control(self, request: web.Request) -> web.Response:
        wanted = await request.json()
        if "models" in wanted:
            self.models = list(wanted.pop("models"))
        self.behaviour = Behaviour(**wanted)
        return web.json_response(asdict(self.behaviour))

    async def _get_control(self, _request: web.Request) -> web.Response:
        return web.json_response(
            {
                "behaviour": asdict(self.behaviour),
                "received": [
                    {
                        "method": each.method,
                        "path": each.path,
                        "headers": dict(each.headers),
                        "body": each.body.decode(errors="replace"),
                        "client_left": each.client_left.is_set(),
                    }
                    for each in self.received
                ],
            }
        )


_FRAME: Mapping[str, Any] = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1}


def _event(data: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


async def _serve_by_hand(arguments: argparse.Namespace) -> None:
    provider = FakeProvider(
        arguments.name, arguments.model or ["test-model"], api_key=arguments.api_key, port=arguments.port
    )
    async with provider:
        print(json.dumps({"base_url": provider.base_url}), flush=True)
        await asyncio.Event().wait()


def main() -> None:
    """Run one by hand; the first line on standard output says where it is."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--name", default="fake")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--model", action="append")
    parser.add_argument("--api-key")
    asyncio.run(_serve_by_hand(parser.parse_args()))


if __name__ == "__main__":
    main()
