"""A client of the admin API."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import aiohttp

TIMEOUT_S = 15.0


class AdminError(Exception):
    """The admin API said no."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer with its JSON."""

    status: int
    body: Any


class AdminClient:
    """Speaks to `/admin/v1` of a gateway."""

    def __init__(self, url: str, admin_key: str) -> None:
        self._url, self._admin_key = url, admin_key
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The body of the answer. Raises AdminError, and aiohttp.ClientError or TimeoutError."""
        answer = await self.http(method, f"/admin/v1{path}", body, self._admin_key)
        if answer.status >= 400:
            raise AdminError(answer.status, _message(answer.body))
        return answer.body

    async def http(self, method: str, path: str, body: Any = None, key: str | None = None) -> Answer:
        """Any request to the gateway, whatever it answers."""
        if self._session is None:
            raise RuntimeError("use it as an async context manager")
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        async with self._session.request(method, self._url + path, json=body, headers=headers) as response:
            try:
                return Answer(response.status, await response.json(content_type=None))
            except ValueError:
                return Answer(response.status, None)

    async def is_up(self, url: str) -> bool:
        """Whether another server answers 200. Raises aiohttp.ClientError when it does not listen."""
        if self._session is None:
            raise RuntimeError("use it as an async context manager")
        async with self._session.get(url) as response:
            return response.status == 200

    async def all(self, path: str) -> list[Any]:
        """Every row of a list, page after page."""
        rows: list[Any] = []
        cursor: str | None = None
        while True:
            separator = "&" if "?" in path else "?"
            more = "" if cursor is None else f"&cursor={quote(cursor)}"
            page = await self.ask("GET", f"{path}{separator}limit=1000{more}")
            rows += page["data"]
            cursor = page["next_cursor"]
            if cursor is None:
                return rows


def _message(body: Any) -> str:
    try:
        return str(body["error"]["message"])
    except (TypeError, KeyError):
        return "no reason given"
