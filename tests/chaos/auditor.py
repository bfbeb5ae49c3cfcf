"""The providers, in one process of their own, that write down every request as they would bill it.

The journal has a line of JSON when a request comes and another when it is over, so that what was billed is
known to the token, whatever happens to the gateways.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

from aiohttp import web
from tests.chaos.world import MANNERS, MODELS, PRICES, PROVIDER_KEYS, Manners

BYTES_PER_TOKEN = 4
WORD = " abcdefg"
TOKENS_PER_WORD = len(WORD) // BYTES_PER_TOKEN
MARKER = "chaos "
"""How the load begins what its users say; what follows says whose request it is."""


@dataclass
class Billed:
    """One request as its provider sees it."""

    serial: int
    request_id: str
    provider: str
    model: str
    tenant: str
    key: int
    stream: bool
    came: float
    """Monotonic seconds, the same clock for all processes of the machine."""
    came_at: float
    """Unix time."""
    ended: float | None = None
    status: int = 0
    prompt: int = 0
    completion: int = 0
    """What is billed; nothing where both are 0."""
    usage_said: bool = False
    is_complete: bool = False
    """The whole answer was handed to the network."""
    key_was_right: bool = True

    @property
    def is_billed(self) -> bool:
        """Whether anything is."""
        return self.prompt + self.completion > 0

    @property
    def tokens(self) -> int:
        """All that is billed."""
        return self.prompt + self.completion

    @property
    def cost(self) -> Decimal:
        """What is billed, in USD."""
        return PRICES[self.provider, self.model].cost(self.prompt, self.completion)


def read_journal(path: Path) -> list[Billed]:
    """What a journal says; a request that never ended as it was when it came."""
    found: dict[int, Billed] = {}
    for line in path.read_text().splitlines():
        one = Billed(**json.loads(line))
        found[one.serial] = one
    return list(found.values())


class Auditor:
    """Answers for all providers."""

    def __init__(self, journal: IO[str], seed: int) -> None:
        self._journal = journal
        self._random = random.Random(seed)
        self._serials = itertools.count()

    def app(self) -> web.Application:
        """What is served."""
        app = web.Application()
        app.router.add_get("/{provider}/v1/models", self._list)
        app.router.add_post("/{provider}/v1/chat/completions", self._take)
        return app

    async def _list(self, request: web.Request) -> web.Response:
        data = [{"id": model, "object": "model", "owned_by": "chaos"} for model in MODELS]
        return web.json_response({"object": "list", "data": data})

    async def _take(self, request: web.Request) -> web.StreamResponse:
        came, came_at = time.monotonic(), time.time()
        asked = json.loads(await request.read())
        provider = request.match_info["provider"]
        said = asked["messages"][-1]["content"]
        marker = json.loads(said.removeprefix(MARKER).split("\n", 1)[0])
        billed = Billed(
            serial=next(self._serials),
            request_id=request.headers.get("x-request-id", ""),
            provider=provider,
            model=asked["model"],
            tenant=marker["tenant"],
            key=marker["key"],
            stream=bool(asked.get("stream")),
            came=came,
            came_at=came_at,
            key_was_right=request.headers.get("authorization") == f"Bearer {PROVIDER_KEYS[provider][1]}",
        )
        self._note(billed)
        try:
            return await self._answer(request, billed, asked, said, marker)
        finally:
            billed.ended = time.monotonic()
            self._note(billed)

    def _note(self, billed: Billed) -> None:
        self._journal.write(json.dumps(asdict(billed)) + "\n")
        self._journal.flush()

    async def _answer(
        self,
        request: web.Request,
        billed: Billed,
        asked: Mapping[str, Any],
        said: str,
        marker: Mapping[str, Any],
    ) -> web.StreamResponse:
        manners, dice = MANNERS[billed.provider], self._random
        await asyncio.sleep(dice.uniform(0.01, 0.08))
        early = self._refuse(request, billed, manners)
        if early is not None:
            return early
        words = dice.randint(1, max(1, int(asked["max_tokens"]) // TOKENS_PER_WORD))
        pause_s = dice.uniform(1.0, 3.0) / words if dice.random() < manners.slow else 0.004
        billed.usage_said = dice.random() >= manners.keeps_usage
        prompt = max(1, len(said.encode()) // BYTES_PER_TOKEN)
        if billed.usage_said and not marker["strict"]:
            prompt = dice.randint(1, 3 * prompt)
        if not billed.stream:
            # Who asks for a whole answer pays for it, whether it waits for it or not.
            billed.prompt, billed.completion = prompt, self._completion(words, billed, marker)
            billed.status = 200
            await asyncio.sleep(words * pause_s)
            response = web.json_response(self._whole(billed, words))
            await response.prepare(request)
            await response.write_eof()
            billed.is_complete = True
            return response
        return await self._stream(request, billed, prompt, words, pause_s, marker)

    def _refuse(self, request: web.Request, billed: Billed, manners: Manners) -> web.StreamResponse | None:
        lot = self._random.random()
        for share, status in ((manners.fails, 500), (manners.refuses, 429)):
            if lot < share:
                billed.status = status
                error = {"error": {"message": "chaos", "code": status}}
                return web.json_response(error, status=status, headers={"retry-after": "1"})
            lot -= share
        if lot < manners.drops:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        return None

    async def _stream(
        self,
        request: web.Request,
        billed: Billed,
        prompt: int,
        words: int,
        pause_s: float,
        marker: Mapping[str, Any],
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        billed.status = 200
        billed.prompt = prompt
        will_cut = self._random.random() < MANNERS[billed.provider].cuts
        cut_after = self._random.randint(1, words) if will_cut else None
        for number in range(words):
            await response.write(_event(_chunk(billed, {"content": WORD})))
            billed.completion = self._completion(number + 1, billed, marker)
            if number + 1 == cut_after:
                assert request.transport is not None
                request.transport.abort()
                billed.usage_said = False
                return response
            await asyncio.sleep(pause_s)
        await response.write(_event(_chunk(billed, {}, "stop")))
        if billed.usage_said:
            await response.write(_event({**_chunk(billed, None), "usage": _usage(billed)}))
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        billed.is_complete = True
        return response

    def _completion(self, words: int, billed: Billed, marker: Mapping[str, Any]) -> int:
        tokens = words * TOKENS_PER_WORD
        return tokens * 3 if marker["lie"] and billed.usage_said else tokens

    def _whole(self, billed: Billed, words: int) -> dict[str, Any]:
        message = {"role": "assistant", "content": WORD * words}
        answer = {
            "id": "chatcmpl-chaos",
            "object": "chat.completion",
            "created": 1,
            "model": billed.model,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        }
        return {**answer, "usage": _usage(billed)} if billed.usage_said else answer


def _usage(billed: Billed) -> dict[str, int]:
    return {
        "prompt_tokens": billed.prompt,
        "completion_tokens": billed.completion,
        "total_tokens": billed.tokens,
    }


def _chunk(billed: Billed, delta: dict[str, Any] | None, finish: str | None = None) -> dict[str, Any]:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return {
        "id": "chatcmpl-chaos",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": billed.model,
        "choices": choices,
    }


def _event(data: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


async def _serve(journal: Path, seed: int) -> None:
    with journal.open("a") as output:
        runner = web.AppRunner(
            Auditor(output, seed).app(), access_log=None, handler_cancellation=True, shutdown_timeout=0.1
        )
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
        print(json.dumps({"port": runner.addresses[0][1]}), flush=True)
        await asyncio.Event().wait()


def main() -> None:
    """Serve until killed; the first line on standard output says where."""
    parser = argparse.ArgumentParser(description="The providers of a chaos run")
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    asyncio.run(_serve(arguments.journal, arguments.seed))


if __name__ == "__main__":
    main()
