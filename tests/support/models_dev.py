"""A models.dev of our own on loopback: serves documents with entity tags, and misbehaves on command."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "models-dev"
"""The real documents, where they lie beside the checkout."""


def small_world(base_urls: dict[str, str] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """`api.json` and `models.json` of three models at three providers, with base URLs of the caller's."""
    urls = base_urls or {}
    chat = {"id": "acme/talker-2-mini", "name": "Talker 2 Mini", "release_date": "2026-03-01"}
    common: dict[str, Any] = {
        "family": "talker",
        "last_updated": "2026-03-01",
        "attachment": False,
        "reasoning": False,
        "temperature": True,
        "tool_call": True,
        "open_weights": True,
        "limit": {"context": 128_000, "output": 8_192},
        "modalities": {"input": ["text"], "output": ["text"]},
    }

    def provider(provider_id: str, model_id: str, cost: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": provider_id,
            "name": provider_id.title(),
            "env": [f"{provider_id.upper()}_API_KEY"],
            "npm": "@ai-sdk/openai-compatible",
            "api": urls.get(provider_id, f"https://api.{provider_id}.example/v1"),
            "doc": f"https://{provider_id}.example/docs",
            "models": {model_id: {**chat, **common, "id": model_id, "cost": cost}},
        }

    api = {
        "alpha": provider("alpha", "acme/talker-2-mini", {"input": 0.1, "output": 0.4}),
        "beta": provider("beta", "talker-2-mini", {"input": 0.15, "output": 0.6, "cache_read": 0.075}),
        "gamma": provider("gamma", "acme/Talker-2-Mini", {"input": 0.3, "output": 1.234567}),
    }
    return api, {"acme/talker-2-mini": {**chat, **common}}


class ModelsDevServer:
    """Serves `/api.json` and `/models.json`. `mode` is `ok`, `500`, `truncated`, `html` or `hang`."""

    def __init__(self, api: bytes, models: bytes) -> None:
        self.documents = {"/api.json": api, "/models.json": models}
        self.mode = "ok"
        self.requests: list[tuple[str, int]] = []
        self._stopping = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, format: str, *arguments: object) -> None:
                """Say nothing: the tests look at `requests`."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @classmethod
    def of_small_world(cls, base_urls: dict[str, str] | None = None) -> Self:
        """A server of `small_world`."""
        api, models = small_world(base_urls)
        return cls(json.dumps(api).encode(), json.dumps(models).encode())

    @classmethod
    def of_shared(cls) -> Self:
        """A server of the real documents. Raises FileNotFoundError where they are not."""
        return cls((SHARED / "api.json").read_bytes(), (SHARED / "models.json").read_bytes())

    @property
    def url(self) -> str:
        """What SYNAXIS_MODELS_DEV_URL is set to."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/api.json"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer one request as `mode` says."""
        document = self.documents.get(handler.path)
        if self.mode == "hang":
            self._stopping.wait()
            return
        if document is None or self.mode == "500":
            self._send(handler, 404 if document is None else 500, b"no")
            return
        etag = f'"{hashlib.sha256(document).hexdigest()[:16]}"'
        if self.mode == "ok" and handler.headers.get("If-None-Match") == etag:
            self._send(handler, 304, b"", etag)
        elif self.mode == "html":
            self._send(handler, 200, b"<html>down for maintenance</html>")
        else:
            body = document if self.mode == "ok" else document[: len(document) // 2]
            self._send(handler, 200, body, etag if self.mode == "ok" else None)

    def _send(
        self, handler: BaseHTTPRequestHandler, status: int, body: bytes, etag: str | None = None
    ) -> None:
        self.requests.append((handler.path, status))
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        handler.send_header("Content-Type", "application/json")
        if etag is not None:
            handler.send_header("ETag", etag)
        handler.end_headers()
        handler.wfile.write(body)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._server.shutdown()
        self._server.server_close()
