"""Token counts as providers report them, made safe: they are other people's numbers, and cost money.

**Estimates.** Where a provider says nothing that can be used (no usage, a stream that was cut, a client that
left, an attempt given up that may be billed) the attempt is settled by `estimate` and marked as estimated:
the input as routing estimated it, the output at a token for 4 bytes (`BYTES_PER_TOKEN`) of what had arrived.
What the provider made after the connection had ended nobody knows; the estimate leaves it out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

import msgspec

from synaxis_common.contracts.routing import Needs
from synaxis_common.contracts.usage import TokenUsage
from synaxis_gateway.wire.openai_request import BYTES_PER_TOKEN

MAX_REPORTED_TOKENS = 20_000_000
"""No model has a context window near this (the largest is 10 million); a larger count is an error."""

SPEECH_BYTES_PER_TOKEN: Final = 3_200
"""Of base64 in a spoken answer: OpenAI streams 16 bits at 24 kHz and counts 20 tokens a second."""


class Multiples(Protocol):
    """How many answers a request asks for: what is in `Needs`, or what was measured of it."""

    @property
    def n(self) -> int:
        """Answers to each prompt."""
        ...

    @property
    def prompts(self) -> int:
        """Texts that are answered each by itself."""
        ...


_ONE_OF_EACH: Final = Needs()


class UsageReading(msgspec.Struct, frozen=True, gc=False):
    """Token counts, named as in `TokenUsage`, and whether any of them is ours rather than the provider's."""

    input: int
    output: int
    cache_read: int = 0
    cache_write: int = 0
    reasoning: int = 0
    input_audio: int = 0
    output_audio: int = 0
    estimated: bool = False

    @property
    def usage(self) -> TokenUsage:
        """The counts as they are reported; made, and so checked, each time."""
        return TokenUsage(
            input=self.input,
            output=self.output,
            cache_read=self.cache_read,
            cache_write=self.cache_write,
            reasoning=self.reasoning,
            input_audio=self.input_audio,
            output_audio=self.output_audio,
        )


def estimate(input_tokens: int, content_bytes: int) -> UsageReading:
    """What an answer probably used, where its provider does not say. `content_bytes`: see `bytes_said`."""
    output = -(-content_bytes // BYTES_PER_TOKEN)
    return UsageReading(input_tokens, output, estimated=True)


def bytes_said(message: Mapping[str, Any]) -> int:
    """Bytes of everything in a message, delta or choice that a model had to write, and is billed for.

    Text, refusals, the names and arguments of tool calls, and reasoning (once, though some say it in two
    fields). Speech counts as the text that makes as many tokens.
    """
    found = sum(size(message.get(name)) for name in ("content", "text", "refusal"))
    found += max(size(message.get(name)) for name in ("reasoning_content", "reasoning", "reasoning_details"))
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        found += _size_of_call(call.get("function", call) if isinstance(call, dict) else call)
    found += _size_of_call(message.get("function_call"))
    audio = message.get("audio")
    if isinstance(audio, dict):
        speech = size(audio.get("data")) * BYTES_PER_TOKEN // SPEECH_BYTES_PER_TOKEN
        found += speech + size(audio.get("transcript"))
    return found


def _size_of_call(function: Any) -> int:
    if not isinstance(function, dict):
        return size(function)
    return size(function.get("name")) + size(function.get("arguments"))


def size(value: Any) -> int:
    """Bytes of a text, or of what a value is in JSON."""
    if not value:
        return 0
    return len(value.encode()) if isinstance(value, str) else len(msgspec.json.encode(value))


_CACHE_READ: Final = ("cached_tokens", "prompt_cache_hit_tokens", "cache_read_input_tokens")
"""OpenAI and most others (Moonshot outside of the details too), DeepSeek, Anthropic behind an adapter."""
_CACHE_WRITE: Final = ("cache_write_tokens", "cache_creation_input_tokens", "cache_creation_tokens")
"""OpenRouter, Anthropic behind an adapter and Alibaba, LiteLLM."""


def read(usage: Any, context_window: int | None, needs: Multiples = _ONE_OF_EACH) -> UsageReading | None:
    """What OpenAI's `usage` object says; None where it says nothing that can be used.

    Counts below zero or beyond what `needs` leaves room for are cut to it, and the reading is marked as
    estimated: the input at a context window for each prompt, the output at one for each answer.

    A part is taken to be beside its whole, not in it, where the total says so or where it is the larger one:
    xAI counts reasoning beside the completion, and so does Perplexity, whose total leaves it out.
    """
    if not isinstance(usage, dict):
        return None
    window = context_window or MAX_REPORTED_TOKENS
    found = _plain(usage, window if window < MAX_REPORTED_TOKENS else MAX_REPORTED_TOKENS)
    if found is not None:
        return found
    input_bound = min(window * needs.prompts, MAX_REPORTED_TOKENS)
    output_bound = min(window * needs.prompts * needs.n, MAX_REPORTED_TOKENS)
    return closely(usage, input_bound, output_bound)


def closely(usage: dict[str, Any], input_bound: int, output_bound: int) -> UsageReading | None:
    """`read` for whatever shape there is. The bounds are the most tokens of each that there can be."""
    counts = _Counts()
    of_prompt = _details(usage, "prompt_tokens_details")
    of_completion = _details(usage, "completion_tokens_details")
    total = counts.take(usage.get("total_tokens"), input_bound + 2 * output_bound)
    completion = counts.take(usage.get("completion_tokens"), output_bound)
    prompt = counts.take(usage.get("prompt_tokens"), input_bound)
    if prompt is None and total is not None:
        prompt = min(max(0, total - (completion or 0)), input_bound)  # Voyage says nothing but the total
    if prompt is None:
        return None
    if completion is None:
        completion = 0 if total is None else min(max(0, total - prompt), output_bound)
    reasoning = counts.most(output_bound, ("reasoning_tokens",), of_completion, usage)
    if reasoning > completion or (reasoning and total == prompt + completion + reasoning):
        completion += reasoning
    cache_read = counts.most(input_bound, _CACHE_READ, of_prompt, usage)
    cache_write = counts.most(input_bound, _CACHE_WRITE, of_prompt, usage)
    cached = cache_read + cache_write
    if cached and total == prompt + cached + completion:
        prompt = counts.within(prompt + cached, input_bound)  # Anthropic counts them beside the input
    cache_read = min(cache_read, prompt)
    cache_write = min(cache_write, prompt - cache_read)
    input_audio = counts.most(input_bound, ("audio_tokens",), of_prompt)
    output_audio = counts.most(output_bound, ("audio_tokens",), of_completion)
    return UsageReading(
        input=prompt,
        output=completion,
        cache_read=cache_read,
        cache_write=cache_write,
        reasoning=reasoning,
        input_audio=min(input_audio, prompt - cache_read - cache_write),
        output_audio=min(output_audio, completion - reasoning),
        estimated=counts.corrected,
    )


_ELSEWHERE: Final = frozenset((*_CACHE_READ, *_CACHE_WRITE, "reasoning_tokens"))
"""Names that only some say outside of the details."""
_PLAIN_PROMPT: Final = frozenset({"cached_tokens", "audio_tokens", "text_tokens", "image_tokens"})


def _plain(usage: dict[str, Any], bound: int) -> UsageReading | None:
    """OpenAI's own shape, within the room of a single answer and with parts that fit; None: look closer."""
    prompt = usage.get("prompt_tokens")
    completion = usage.get("completion_tokens", 0)  # embeddings say none
    total = usage.get("total_tokens")
    if prompt.__class__ is not int or completion.__class__ is not int or total.__class__ is not int:
        return None
    if total != prompt + completion or not (0 <= prompt <= bound and 0 <= completion <= bound):
        return None
    if not _ELSEWHERE.isdisjoint(usage):
        return None
    of_prompt, of_completion = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
    if of_prompt is None and of_completion is None:
        return UsageReading(prompt, completion)
    cache_read = input_audio = reasoning = output_audio = 0
    if of_prompt.__class__ is dict:
        if not _PLAIN_PROMPT.issuperset(of_prompt):
            return None
        cache_read, input_audio = of_prompt.get("cached_tokens", 0), of_prompt.get("audio_tokens", 0)
        if cache_read.__class__ is not int or input_audio.__class__ is not int:
            return None
    if of_completion.__class__ is dict:
        reasoning = of_completion.get("reasoning_tokens", 0)
        output_audio = of_completion.get("audio_tokens", 0)
        if reasoning.__class__ is not int or output_audio.__class__ is not int:
            return None
    if cache_read < 0 or input_audio < 0 or reasoning < 0 or output_audio < 0:
        return None
    if cache_read + input_audio > prompt or reasoning + output_audio > completion:
        return None
    return UsageReading(prompt, completion, cache_read, 0, reasoning, input_audio, output_audio)


def _details(usage: dict[str, Any], name: str) -> dict[str, Any]:
    details = usage.get(name)
    return details if isinstance(details, dict) else {}


class _Counts:
    """Takes counts within a bound and remembers whether one had to be corrected."""

    def __init__(self) -> None:
        self.corrected = False

    def take(self, value: Any, bound: int) -> int | None:
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
            self.corrected = True
            return None
        if not 0 <= value <= bound:
            self.corrected = True
            return 0 if value < 0 else bound
        return int(value)

    def most(self, bound: int, names: tuple[str, ...], *places: dict[str, Any]) -> int:
        """The largest of what is said under `names` in any of the `places`."""
        said = (self.take(place.get(name), bound) for place in places for name in names)
        return max((count for count in said if count is not None), default=0)

    def within(self, count: int, bound: int) -> int:
        self.corrected |= count > bound
        return min(count, bound)
