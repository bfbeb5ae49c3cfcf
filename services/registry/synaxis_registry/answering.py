"""What happens around every answer: failures are logged, and no answer is none rather than an empty one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from faststream import BaseMiddleware, PublishCommand, StreamMessage
from prometheus_client import Counter
from pydantic import ValidationError

from synaxis_common.answers import Handler
from synaxis_common.contracts.base import Message
from synaxis_common.logging import get_logger

log = get_logger(__name__)

M = TypeVar("M", bound=Message)

FAILURES = Counter(
    "synaxis_answers_failed_total", "Questions that were not answered because of an error", ["kind"]
)


def failed(subject: str, error: Exception) -> None:
    """A question was not answered because of `error`, which is being handled."""
    if isinstance(error, ValidationError):
        FAILURES.labels("invalid").inc()
        problems = error.errors(include_url=False, include_input=False, include_context=False)
        log.warning("question_not_understood", subject=subject, problems=str(problems[:3]))
    else:
        FAILURES.labels("failed").inc()
        log.exception("question_not_answered", subject=subject)


def by_bytes(kind: type[M], handler: Callable[[M], Awaitable[Message | None]]) -> Handler:
    """`handler` for whoever hands it a question as bytes and wants bytes back."""

    async def written(reply: Awaitable[Message | None]) -> bytes | None:
        found = await reply
        return None if found is None else found.to_bytes()

    return lambda data: written(handler(kind.model_validate_json(data)))


class Answering(BaseMiddleware[PublishCommand, Any]):
    """FastStream tells nobody when a handler fails, and sends an empty message when it returns None."""

    async def consume_scope(
        self, call_next: Callable[[StreamMessage[Any]], Awaitable[Any]], msg: StreamMessage[Any]
    ) -> Any:
        """Handle a question. Whoever asked one that fails gets no answer, and asks again or gives up."""
        subject = getattr(msg.raw_message, "subject", "")
        try:
            return await call_next(msg)
        except Exception as error:
            failed(subject, error)
            raise

    async def publish_scope(
        self, call_next: Callable[[PublishCommand], Awaitable[Any]], cmd: PublishCommand
    ) -> Any:
        """Send an answer, if there is one."""
        if cmd.body is None:
            return None
        return await call_next(cmd)
