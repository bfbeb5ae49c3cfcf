"""What a request costs: exact, in USD, from prices per million tokens.

**Tiers.** A tier counts for the whole request: once its input is longer than a tier's threshold, every token
of it, input and output, costs that tier's rates, not only those beyond the threshold. Providers bill so
(Anthropic, Google, OpenAI, xAI: "prompts longer than …"), and the package `genai-prices` computes so. What a
tier does not name stays as in the base prices. The threshold itself still belongs to the lower tier, as in
"over 200,000 tokens".

**Bounds.** `worst_case_cost` is what is reserved of a budget, so no bill may pass it: each of its bounds is a
constant here, with its source. It relies on what others do in two points: a provider refuses an input beyond
the context window that is listed for it, and obeys `max_tokens` or its own listed limit.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Context, Decimal
from typing import Final, Protocol

from synaxis_common.contracts.catalog import Prices, Rates
from synaxis_common.contracts.routing import Needs
from synaxis_common.contracts.usage import TokenUsage

EXPECTED_OUTPUT_TOKENS: Final = 500
"""How long an answer is taken to be when ranking. `max_output_tokens` is a bound that few answers reach, so
it only makes the expectation smaller. Source: our choice, the length of a one-page answer."""

INPUT_BOUND_FACTOR: Final = 4
"""A gateway estimates a token for 4 bytes of text, rounded up, and byte-level encodings never make more than
one token of a byte: this many times the estimate is an upper bound of the true number."""

PROMPT_OVERHEAD_TOKENS: Final = 256
"""At most what a provider puts around a prompt besides the separators of its messages: start tokens and a
default system prompt (gpt-oss' template writes about 70 tokens, Llama's and Qwen's 20 to 30)."""

TOOLS_OVERHEAD_TOKENS: Final = 1_024
"""At most what a provider adds because there are tools, besides their own text. Anthropic lists up to 530
tokens, by model; twice that, for those that it does not list."""

IMAGE_BOUND_TOKENS: Final = 65_536
"""At most what an image counts for. OpenAI's gpt-4o-mini is the most lavish: 2,833 and 5,667 for each of at
most 8 tiles, 48,169 together; others stay below 17,000 (Qwen-VL: 16,384; Claude: 4,784; Gemini: 2,240)."""

FILE_BOUND_TOKENS: Final = 1_094_400
"""At most what a file or a recording counts for where no context window bounds it: only the provider finds
out what it holds. 9.5 hours of audio, the longest that Gemini takes, at 32 tokens a second."""

OUTPUT_BOUND_TOKENS: Final = 131_072
"""The longest answer reserved for where neither the request nor the endpoint bounds it."""

_EXACT: Final = Context(prec=120)
"""Digits enough that no sum or product of token counts (16 digits) and prices is ever rounded."""

_PER_MTOK: Final = -6
_ZERO: Final = Decimal(0)


def rates_for(prices: Prices, input_tokens: int) -> Rates:
    """The rates in force for a request with `input_tokens` of context: the highest tier that it exceeds.

    They count for the whole request, see above. What a tier does not name stays as in the base prices.
    """
    found: Rates = prices
    for tier in prices.tiers:
        if input_tokens > tier.over_tokens:
            found = tier
    return found


Part = tuple[str, str, Decimal]
"""A kind of token's rate, the rate to use where it has none of its own, and how many tokens."""


class Used(Protocol):
    """What of a `TokenUsage` has a price."""

    @property
    def input(self) -> int: ...
    @property
    def output(self) -> int: ...
    @property
    def cache_read(self) -> int: ...
    @property
    def cache_write(self) -> int: ...
    @property
    def reasoning(self) -> int: ...
    @property
    def input_audio(self) -> int: ...
    @property
    def output_audio(self) -> int: ...


def parts_of(usage: Used) -> tuple[Part, ...]:
    """`usage` taken apart into what is priced separately; to be reused when many prices are compared."""
    special_input = usage.cache_read + usage.cache_write + usage.input_audio
    special_output = usage.reasoning + usage.output_audio
    return tuple(
        (name, fallback, Decimal(tokens))
        for name, fallback, tokens in (
            ("input", "input", max(0, usage.input - special_input)),
            ("cache_read", "input", usage.cache_read),
            ("cache_write", "input", usage.cache_write),
            ("input_audio", "input", usage.input_audio),
            ("output", "output", max(0, usage.output - special_output)),
            ("reasoning", "output", usage.reasoning),
            ("output_audio", "output", usage.output_audio),
        )
        if tokens
    )


def cost_of_parts(prices: Prices, parts: tuple[Part, ...], input_tokens: int) -> Decimal | None:
    """As `cost`, for a usage that has been taken apart; `input_tokens` chooses the tier."""
    rates = rates_for(prices, input_tokens) if prices.tiers else prices
    per_mtok = _ZERO
    for name, fallback, tokens in parts:
        rate = getattr(rates, name)
        if rate is None and (rates is not prices or fallback is not name):
            rate = _other_rate(prices, rates, name, fallback)
        if rate is None:
            return None
        per_mtok = _EXACT.fma(rate, tokens, per_mtok)
    amount = _EXACT.scaleb(per_mtok, _PER_MTOK)
    return amount if prices.per_request is None else _EXACT.add(amount, prices.per_request)


def _other_rate(prices: Prices, rates: Rates, name: str, fallback: str) -> Decimal | None:
    """What counts where a tier or a kind of token has no rate of its own."""
    for group, wanted in ((prices, name), (rates, fallback), (prices, fallback)):
        rate: Decimal | None = getattr(group, wanted)
        if rate is not None:
            return rate
    return None


def cost(prices: Prices, usage: Used) -> Decimal | None:
    """What one request with `usage` costs in USD, to the last digit. None: a price it needs is unknown.

    Cached, audio and reasoning tokens are parts of the totals and fall back on the plain price where they
    have none of their own. The tier is chosen by all input tokens and counts for every token.
    """
    return cost_of_parts(prices, parts_of(usage), usage.input)


def total(costs: Iterable[Decimal]) -> Decimal:
    """The exact sum of `costs`."""
    found = _ZERO
    for amount in costs:
        found = _EXACT.add(found, amount)
    return found


def _answers(needs: Needs) -> int:
    """How many answers the request asks for: some to each prompt."""
    return 0 if needs.operation == "embeddings" else needs.n * needs.prompts


def expected_output_tokens(needs: Needs) -> int:
    """How long the answers are taken to be, together."""
    longest = EXPECTED_OUTPUT_TOKENS if needs.max_output_tokens is None else needs.max_output_tokens
    return min(longest, EXPECTED_OUTPUT_TOKENS) * _answers(needs)


def expected_usage(needs: Needs, *, cached_tokens: int = 0) -> TokenUsage:
    """What a request is taken to use, `cached_tokens` of its input being in the provider's cache."""
    return TokenUsage(
        input=needs.input_tokens,
        output=expected_output_tokens(needs),
        cache_read=min(cached_tokens, needs.input_tokens),
    )


def expected_cost(prices: Prices, needs: Needs, *, cached_tokens: int = 0) -> Decimal | None:
    """The expected cost of a request in USD; None where a price it needs is unknown."""
    return cost(prices, expected_usage(needs, cached_tokens=cached_tokens))


def booked_tokens(needs: Needs) -> int:
    """What a request counts for against a limit on tokens a minute, before its true number is known.

    The estimate of its input, and for each answer what the request itself allows it, else the expectation.
    """
    if needs.max_output_tokens is None:
        return needs.input_tokens + expected_output_tokens(needs)
    return needs.input_tokens + needs.max_output_tokens * _answers(needs)


def input_bound(needs: Needs, context_window: int | None) -> int:
    """The most input tokens that a provider may bill for the request.

    Every byte of text a token, every image and file at its bound, and what a provider puts around them. Each
    prompt has the context window to itself, and a provider takes none that does not fit.
    """
    files = max(needs.audio_parts, needs.audio) + max(needs.files, needs.pdf)
    found = (
        needs.input_tokens * INPUT_BOUND_FACTOR
        + PROMPT_OVERHEAD_TOKENS * needs.prompts
        + TOOLS_OVERHEAD_TOKENS * needs.tools
        + IMAGE_BOUND_TOKENS * max(needs.images, needs.vision)
        + FILE_BOUND_TOKENS * files
    )
    if context_window is None:
        return found
    return max(needs.input_tokens, min(found, context_window * needs.prompts))


def output_bound(needs: Needs, context_window: int | None, max_output: int | None) -> int:
    """The most output tokens that a provider may bill for the request, reasoning and speech included."""
    bounds = [bound for bound in (needs.max_output_tokens, max_output, context_window) if bound is not None]
    return min(bounds, default=OUTPUT_BOUND_TOKENS) * _answers(needs)


_INPUT_KINDS: Final = ("input", "cache_read", "cache_write")
_OUTPUT_KINDS: Final = ("output", "reasoning", "output_audio")


def _dearest(rates: Iterable[Rates], names: tuple[str, ...]) -> Decimal:
    return max(
        (rate for group in rates for name in names if (rate := getattr(group, name)) is not None),
        default=_ZERO,
    )


def worst_case_cost(
    prices: Prices, needs: Needs, *, context_window: int | None, max_output: int | None
) -> Decimal | None:
    """The most that one attempt may cost in USD: what is reserved of a budget. None: no telling.

    Every input token that may be billed (`input_bound`) at the dearest input price of any tier within reach,
    be it read from a cache, written to one or neither; every output token (`output_bound`) at the dearest
    output price; the fee of a request. A recording's price counts where there may be one: in a file too.
    """
    input_tokens = input_bound(needs, context_window)
    output_tokens = output_bound(needs, context_window, max_output)
    if prices.input is None or (output_tokens and prices.output is None):
        return None
    reachable = (prices, *(tier for tier in prices.tiers if input_tokens > tier.over_tokens))
    may_be_heard = needs.audio or needs.pdf or needs.audio_parts or needs.files
    input_kinds = (*_INPUT_KINDS, "input_audio") if may_be_heard else _INPUT_KINDS
    per_mtok = _EXACT.multiply(_dearest(reachable, input_kinds), Decimal(input_tokens))
    per_mtok = _EXACT.fma(_dearest(reachable, _OUTPUT_KINDS), Decimal(output_tokens), per_mtok)
    amount = _EXACT.scaleb(per_mtok, _PER_MTOK)
    return amount if prices.per_request is None else _EXACT.add(amount, prices.per_request)
