"""Token counts as providers report them, made safe: they are other people's numbers, and cost money."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from synaxis_common.contracts.usage import TokenUsage
from synaxis_gateway.wire.openai_request import BYTES_PER_TOKEN

MAX_REPORTED_TOKENS = 20_000_000
"""No model has a context window near this (the largest is 10 million); a larger count is an error."""


@dataclass(frozen=True, slots=True)
class UsageReading:
    """Token counts, and whether any of them is ours rather than the provider's."""

    usage: TokenUsage
    estimated: bool


def estimate(input_tokens: int, content_bytes: int) -> UsageReading:
    """What an answer probably used, where its provider does not say."""
    output = -(-content_bytes // BYTES_PER_TOKEN)
    return UsageReading(TokenUsage(input=input_tokens, output=output), estimated=True)


def read(usage: Any, context_window: int | None) -> UsageReading | None:
    """What OpenAI's `usage` object says; None where it says nothing that can be used.

    Counts below zero or beyond the context window are cut to it, and the reading marked as estimated.
    """
    if not isinstance(usage, dict):
        return None
    bound = min(context_window or MAX_REPORTED_TOKENS, MAX_REPORTED_TOKENS)
    counts = _Counts(bound)
    prompt = counts.take(usage.get("prompt_tokens"))
    if prompt is None:
        return None
    completion = counts.take(usage.get("completion_tokens")) or 0
    of_prompt = _details(usage, "prompt_tokens_details")
    of_completion = _details(usage, "completion_tokens_details")
    reasoning = counts.take(of_completion.get("reasoning_tokens")) or 0
    total = counts.take(usage.get("total_tokens"))
    if reasoning and total == prompt + completion + reasoning:
        completion += reasoning  # some count reasoning beside the completion, not as part of it
    cached = of_prompt.get("cached_tokens", usage.get("prompt_cache_hit_tokens"))
    cache_read = min(counts.take(cached) or 0, prompt)
    cache_write = min(counts.take(of_prompt.get("cache_write_tokens")) or 0, prompt - cache_read)
    reasoning = min(reasoning, completion)
    return UsageReading(
        TokenUsage(
            input=prompt,
            output=completion,
            cache_read=cache_read,
            cache_write=cache_write,
            reasoning=reasoning,
            input_audio=min(
                counts.take(of_prompt.get("audio_tokens")) or 0, prompt - cache_read - cache_write
            ),
            output_audio=min(counts.take(of_completion.get("audio_tokens")) or 0, completion - reasoning),
        ),
        estimated=counts.corrected,
    )


def _details(usage: dict[str, Any], name: str) -> dict[str, Any]:
    details = usage.get(name)
    return details if isinstance(details, dict) else {}


class _Counts:
    """Takes counts within a bound and remembers whether one had to be corrected."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self.corrected = False

    def take(self, value: Any) -> int | None:
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
            self.corrected = True
            return None
        if not 0 <= value <= self._bound:
            self.corrected = True
            return 0 if value < 0 else self._bound
        return int(value)
