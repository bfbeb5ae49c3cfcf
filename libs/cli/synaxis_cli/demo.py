"""Two demo providers, so that Synaxis answers before it has been given a provider's key.

OpenAI-compatible servers on loopback that stream, list their model with prices, and can be made to fail:
`POST /demo/fail {"mode": "off" | "500" | "hang" | "cut"}`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
import uuid
from dataclasses import dataclass

import uvloop
from aiohttp import web

MODEL = "demo-chat-1"
MODES = ("off", "500", "hang", "cut")


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
        mode = (await request.json()).get("mode")
        if mode not in MODES:
            return web.json_response({"error": {"message": f"mode must be one of {MODES}"}}, status=400)
        self._mode = mode
        return web.json_response({"provider": self._flavour.name, "mode": mode})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        if self._mode == "500":
            return web.json_response({"error": {"message": "this demo was told to fail"}}, status=500)
        if self._mode == "hang":
            await asyncio.sleep(3600)
        words = self._words(asked)
        prompt_tokens = sum(len(str(message.get("content", "")).split()) for message in asked["messages"])
        usage = {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": len(words),
            "total_tokens": prompt_tokens + len(words),
        }
        if asked.get("stream"):
            return await self._stream(request, words, usage, asked.get("stream_options") or {})
        await asyncio.sleep(self._flavour.delay_s * 3)
        message = {"role": "assistant", "content": "".join(words)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return web.json_response({**_head("chat.completion"), "choices": [choice], "usage": usage})

    def _words(self, asked: dict[str, object]) -> list[str]:
        messages = asked.get("messages")
        last = messages[-1].get("content", "") if isinstance(messages, list) and messages else ""
        text = (
            f"This is {self._flavour.name}, a demo provider that ships with Synaxis and no language model. "
            f"You said: {str(last)[:200]}"
        )
        return [word if position == 0 else f" {word}" for position, word in enumerate(text.split())]

    async def _stream(
        self, request: web.Request, words: list[str], usage: dict[str, int], options: dict[str, object]
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        head = _head("chat.completion.chunk")

        async def send(delta: dict[str, str], finish: str | None = None) -> None:
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            await response.write(b"data: " + json.dumps({**head, "choices": [choice]}).encode() + b"\n\n")

        await send({"role": "assistant", "content": ""})
        for position, word in enumerate(words):
            if self._mode == "cut" and position == len(words) // 2:
                response.force_close()
                return response
            await asyncio.sleep(self._flavour.delay_s)
            await send({"content": word})
        await send({}, "stop")
        if options.get("include_usage"):
            await response.write(
                b"data: " + json.dumps({**head, "choices": [], "usage": usage}).encode() + b"\n\n"
            )
        await response.write(b"data: [DONE]\n\n")
        return response


def _head(kind: str) -> dict[str, object]:
    return {"id": f"demo-{uuid.uuid4()}", "object": kind, "created": int(time.time()), "model": MODEL}


def main() -> None:
    """Serve one demo provider on 127.0.0.1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(FLAVOURS))
    parser.add_argument("port", type=int)
    arguments = parser.parse_args()

    async def serve() -> None:
        runner = web.AppRunner(
            DemoProvider(FLAVOURS[arguments.name]).application(), access_log=None, handle_signals=True
        )
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", arguments.port).start()
        try:
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    try:
        uvloop.run(serve())
    except (KeyboardInterrupt, web.GracefulExit):
        return


if __name__ == "__main__":
    main()
