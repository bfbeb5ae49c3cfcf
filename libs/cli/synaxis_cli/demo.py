"""Two demo providers, so that Synaxis answers before it has been given a provider's key.

OpenAI-compatible servers on loopback that stream, list their model with prices, and can be made to fail:
`POST /demo/fail {"mode": "off" | "500" | "hang" | "cut"}`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import time
import uuid
from dataclasses import dataclass
from typing import Any

import uvloop
from aiohttp import web

MODEL = "demo-chat-1"
MODES = ("off", "500", "hang", "cut")
HANG_S = 3600.0
ECHO_CHARACTERS = 200
"""How much of what was said to it an answer repeats."""


@dataclass(frozen=True, slots=True)
class Flavour:
    """What makes one demo provider differ from the other. Prices: USD per token, as OpenRouter lists them."""

    name: str
    prompt_price: str
    completion_price: str
    delay_s: float
    """Between two words."""


SWIFT = Flavour("demo-swift", "0.0000004", "0.0000012", 0.02)
THRIFTY = Flavour("demo-thrifty", "0.0000001", "0.0000003", 0.06)
FLAVOURS = {flavour.name: flavour for flavour in (SWIFT, THRIFTY)}


class DemoProvider:
    """One demo provider."""

    def __init__(self, flavour: Flavour) -> None:
        self._flavour = flavour
        self._mode = "off"

    def application(self) -> web.Application:
        """Its HTTP server."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/v1/models", self._models),
                web.post("/v1/chat/completions", self._chat),
                web.post("/demo/fail", self._fail),
            ]
        )
        return app

    async def _models(self, _request: web.Request) -> web.Response:
        entry = {
            "id": MODEL,
            "object": "model",
            "owned_by": self._flavour.name,
            "name": "Synaxis demo, not a language model",
            "context_length": 8_192,
            "pricing": {"prompt": self._flavour.prompt_price, "completion": self._flavour.completion_price},
            "architecture": {"input_modalities": ["text"], "output_modalities": ["text"]},
        }
        return web.json_response({"object": "list", "data": [entry]})

    async def _fail(self, request: web.Request) -> web.Response:
        mode = (await _body(request)).get("mode")
        if mode not in MODES:
            return _error(400, f"mode must be one of {', '.join(MODES)}")
        self._mode = mode
        return web.json_response({"provider": self._flavour.name, "mode": mode})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        asked = await _body(request)
        messages = asked.get("messages")
        if asked.get("model") != MODEL:
            return _error(404, f"this demo serves {MODEL} only")
        if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
            return _error(400, "messages must be a list of messages")
        if self._mode == "500":
            return _error(500, "this demo was told to fail")
        if self._mode == "hang":
            await asyncio.sleep(HANG_S)
        said = [_text(message) for message in messages]
        words = self._words(said[-1] if said else "")
        prompt_tokens = sum(len(text.split()) for text in said)
        usage = {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": len(words),
            "total_tokens": prompt_tokens + len(words),
        }
        if asked.get("stream"):
            return await self._stream(request, words, usage, asked.get("stream_options"))
        await asyncio.sleep(self._flavour.delay_s * 3)
        message = {"role": "assistant", "content": "".join(words)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        answer = {**_head("chat.completion"), "choices": [choice], "usage": usage}
        if self._mode == "cut":
            return await self._half(request, json.dumps(answer).encode())
        return web.json_response(answer)

    def _words(self, said: str) -> list[str]:
        text = (
            f"This is {self._flavour.name}, a demo provider that ships with Synaxis and no language model. "
            f"You said: {said[:ECHO_CHARACTERS]}"
        )
        return [word if position == 0 else f" {word}" for position, word in enumerate(text.split())]

    async def _half(self, request: web.Request, body: bytes) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.content_length = len(body)
        await response.prepare(request)
        await response.write(body[: len(body) // 2])
        _hang_up(request)
        return response

    async def _stream(
        self, request: web.Request, words: list[str], usage: dict[str, int], options: object
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        head = _head("chat.completion.chunk")

        async def send(delta: dict[str, str], finish: str | None = None) -> None:
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            await response.write(_event({**head, "choices": [choice]}))

        await send({"role": "assistant", "content": ""})
        for position, word in enumerate(words):
            if self._mode == "cut" and position == len(words) // 2:
                _hang_up(request)
                return response
            await asyncio.sleep(self._flavour.delay_s)
            await send({"content": word})
        await send({}, "stop")
        if isinstance(options, dict) and options.get("include_usage"):
            await response.write(_event({**head, "choices": [], "usage": usage}))
        await response.write(b"data: [DONE]\n\n")
        return response


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        body = await request.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise web.HTTPBadRequest(
            text='{"error": {"message": "the body must be a JSON object"}}', content_type="application/json"
        )
    return body


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message, "type": "demo"}}, status=status)


def _text(message: dict[str, Any]) -> str:
    """What a message says, whether as a string or in parts."""
    content = message.get("content")
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _event(value: dict[str, object]) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def _head(kind: str) -> dict[str, object]:
    return {"id": f"demo-{uuid.uuid4()}", "object": kind, "created": int(time.time()), "model": MODEL}


def _hang_up(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.close()


def main() -> None:
    """Serve one demo provider on 127.0.0.1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(FLAVOURS))
    parser.add_argument("port", type=int)
    arguments = parser.parse_args()

    async def serve() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        app = DemoProvider(FLAVOURS[arguments.name]).application()
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", arguments.port).start()
        try:
            await stop.wait()
        finally:
            await runner.cleanup()

    uvloop.run(serve())


if __name__ == "__main__":
    main()
