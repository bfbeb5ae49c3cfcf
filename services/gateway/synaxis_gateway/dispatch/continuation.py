"""Going on with an answer that broke off, at another candidate: for clients that ask for it.

The next candidate is given the answer so far as the assistant's own last message. Most providers would
answer that as a new turn, and repeat or contradict what the client already has; so only those are asked that
are known to go on from it. Pure: `request` says how, `joined_stream` how the two streams become one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import msgspec

from synaxis_common.contracts.routing import Candidate
from synaxis_common.contracts.usage import TokenUsage
from synaxis_gateway.wire.joined_stream import Joined, Transcript
from synaxis_gateway.wire.json_object import JsonObject
from synaxis_gateway.wire.openai_request import BYTES_PER_TOKEN, OpenAIRequest

CONTINUE_HEADER: Final = "x-synaxis-continue"
"""`true`: a stream that breaks off goes on from another provider where that is possible."""
LEAST_REPEATED: Final = 16
"""Characters: a shorter text could be repeated by chance, and then nobody knows what is new."""

_UNSUITABLE: Final[Mapping[str, str]] = {
    "logprobs": "log probabilities cannot be joined",
    "top_logprobs": "log probabilities cannot be joined",
    "audio": "speech cannot be joined",
    "reasoning": "reasoning would begin anew",
    "reasoning_effort": "reasoning would begin anew",
    "thinking": "reasoning would begin anew",
    "prediction": "a prediction is of the whole answer",
}
"""Fields of a request, if set to anything, and why its answer cannot be continued."""
_LIMITS: Final = ("max_tokens", "max_completion_tokens")


@dataclass(frozen=True, slots=True)
class Way:
    """How a provider is told to go on from the last message."""

    in_message: Mapping[str, Any] = field(default_factory=dict)
    in_body: Mapping[str, Any] = field(default_factory=dict)
    path: str | None = None
    """Of the base URL, where only another one can do it."""
    may_repeat: bool = False
    """Its answer may begin with the text that it was given."""
    takes_end_spaces: bool = True
    """Whether the text may end in white space."""


_DEEPSEEK: Final = Way(in_message={"prefix": True}, path="/beta")
"""api-docs.deepseek.com, "Chat Prefix Completion (Beta)"."""
_MISTRAL: Final = Way(in_message={"prefix": True}, may_repeat=True)
"""docs.mistral.ai: `prefix` of an assistant message; the answer then starts with it."""
_VLLM: Final = Way(in_body={"continue_final_message": True, "add_generation_prompt": False})
"""docs.vllm.ai, "extra parameters" of the chat API."""
_CLAUDE: Final = Way(takes_end_spaces=False)
"""Anthropic's prefill: a final assistant message is gone on from, and must not end in white space. Claude 4.6
and later refuse it, and so does any of them while it thinks."""
_CLAUDES: Final = re.compile(
    r"anthropic/claude-(?:3(?:\.\d)?-[a-z]+|(?:opus|sonnet|haiku)-4(?:\.[0-5])?)(?::beta)?"
)


@dataclass(frozen=True, slots=True)
class Continuation:
    """What the next candidate is asked, and how its stream is joined to what was sent."""

    ask: OpenAIRequest
    candidate: Candidate
    may_repeat: bool
    held_back: str

    def joined(self, transcript: Transcript, providers: tuple[str, ...], used: TokenUsage) -> Joined:
        """The rewriter of its stream. `providers` are all that took part, this one last."""
        return Joined(transcript, providers, used, held_back=self.held_back, may_repeat=self.may_repeat)


def objection(ask: OpenAIRequest) -> str | None:
    """Why an answer to this request cannot be continued; None: it can."""
    fields = ask.body.values
    if ask.endpoint != "chat" or not ask.stream:
        return "only streamed chat completions are continued"
    if ask.measures.n > 1:
        return "it has several choices"
    for name, why in _UNSUITABLE.items():
        if fields.get(name):
            return why
    response_format = fields.get("response_format")
    if isinstance(response_format, dict) and response_format.get("type") not in (None, "text"):
        return "structured output is made under a grammar, from its beginning"
    last = fields["messages"][-1]
    if not isinstance(last, dict) or last.get("role") == "assistant":
        return "the client itself began the answer"
    return None


def way(candidate: Candidate) -> Way | None:
    """How `candidate` goes on from a partial answer; None: it is not known to."""
    if candidate.kind != "openai":
        return None
    provider, model = candidate.provider_id, candidate.provider_model_id
    if provider == "deepseek":
        return None if "reasoner" in model else _DEEPSEEK
    if provider == "mistral":
        return None if model.startswith("magistral") else _MISTRAL
    if provider == "openrouter":
        return _CLAUDE if _CLAUDES.fullmatch(model) else None
    if provider == "vllm" or provider.startswith("vllm-"):
        return _VLLM
    return None


def request(ask: OpenAIRequest, transcript: Transcript, candidate: Candidate) -> Continuation | None:
    """What `candidate` is asked so that it goes on where the answer to `ask` broke off; None: it cannot.

    `ask` is the client's own request, also after an earlier continuation.
    """
    how = way(candidate)
    if how is None or transcript.objection is not None or objection(ask) is not None:
        return None
    text = transcript.text
    given = text if how.takes_end_spaces else text.rstrip()
    if not given or (how.may_repeat and len(text) < LEAST_REPEATED):
        return None
    tokens = -(-len(text.encode()) // BYTES_PER_TOKEN)
    changed: dict[str, Any] = dict(how.in_body)
    for name in _LIMITS:
        limit = ask.body.values.get(name)
        if isinstance(limit, int):
            if limit - tokens < 1:
                return None
            changed[name] = limit - tokens
    body = _with(ask.body, {"role": "assistant", "content": given, **how.in_message}, changed)
    measures = ask.measures._replace(input_tokens=ask.measures.input_tokens + tokens)
    return Continuation(
        ask=msgspec.structs.replace(ask, body=body, measures=measures),
        candidate=candidate if how.path is None else _at_path(candidate, how.path),
        may_repeat=how.may_repeat,
        held_back=text[len(given) :],
    )


def _with(body: JsonObject, message: dict[str, Any], changed: dict[str, Any]) -> JsonObject:
    """`body` with one more message; all others stay the bytes that they were."""
    encoded = msgspec.json.encode(message)
    messages = body.raw("messages").rstrip().removesuffix(b"]") + b"," + encoded + b"]"
    raw = {name: body.raw(name) for name in body.values} | {"messages": messages}
    raw |= {name: msgspec.json.encode(value) for name, value in changed.items()}
    values = body.values | {"messages": [*body.values["messages"], message]} | changed
    return JsonObject(values, raw)


def _at_path(candidate: Candidate, path: str) -> Candidate:
    """The same host, and so the same key: only the path is another."""
    url = urlsplit(candidate.base_url)
    return candidate.model_copy(update={"base_url": urlunsplit((url.scheme, url.netloc, path, "", ""))})
