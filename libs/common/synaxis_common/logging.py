"""Structured logs: one JSON object a line on standard error, without secrets."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from contextvars import ContextVar
from typing import Any

import structlog

_SECRETS = re.compile(
    r"""(?ix)
    \b(?:sk|pk|rk|gsk|xai|hf|nvapi|AIza|r8|ghp|gho|glpat|csk|fw|pplx|tgp|eyJ)[-_]?[A-Za-z0-9_\-.]{12,}
    | \bBearer\s+\S+
    | \bauthorization["']?\s*[=:]\s*["']?Basic\s+[^\s"',&}]+
    | (?<=://)[^\s/@:]+:[^\s/@]+(?=@)
    | \b(?:api[-_]?key|token|secret|password|authorization)["']?\s*[=:]\s*["']?(?:Bearer\s+)?[^\s"',&}]+
    """
)
REDACTED = "[redacted]"

REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)
"""Of the request that is being answered; every record of the log that is written meanwhile names it."""

NOISY_LOGGERS = (
    "aiohttp.server",
    "aiohttp.access",
    "aiohttp.client",
    "nats",
    "nats.aio.client",
    "faststream",
)
"""Libraries that may write what they were sent; aiohttp.server logs a malformed header line whole."""


def scrub(text: str, limit: int = 500) -> str:
    """`text` without anything that looks like a key, cut to `limit` characters."""
    return _SECRETS.sub(REDACTED, text[: limit * 2])[:limit]


def _scrub_event(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = scrub(value, 4000 if name == "exception" else 1000)
    return event


def _add_request_id(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    request_id = REQUEST_ID.get()
    if request_id is not None:
        event["request_id"] = request_id
    return event


class _MessageOnly(logging.Filter):
    """Lets a library's record pass without its traceback and arguments beyond the scrubbed message."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if record.exc_info and record.exc_info[0] is not None:
            message = f"{message}: {record.exc_info[0].__name__}"
        record.msg, record.args, record.exc_info, record.exc_text = scrub(message, 300), (), None, None
        return True


def configure_logging(service: str, level: str) -> None:
    """Send structlog's and the libraries' records through one JSON renderer, named by service."""

    def add_service(
        _logger: object, _method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        event["service"] = service
        return event

    shared: list[structlog.typing.Processor] = [
        _add_request_id,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_service,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.processors.format_exc_info,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.processors.format_exc_info],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _scrub_event,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in NOISY_LOGGERS:
        library = logging.getLogger(name)
        library.setLevel("WARNING")
        library.handlers.clear()
        library.propagate = True
        library.filters[:] = [_MessageOnly()]


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """The logger of a module."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger
