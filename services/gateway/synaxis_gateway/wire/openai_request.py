"""A request in OpenAI's format: what routing needs of it, and the body that goes on to a provider."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import msgspec
from pydantic import ValidationError

from synaxis_common.contracts.routing import Needs, Preferences
from synaxis_gateway.wire.json_object import JsonObject, NotAnObject

Endpoint = Literal["chat", "completions", "embeddings"]

BYTES_PER_TOKEN = 4
"""The usual rule of thumb for English text; an estimate. Money is reserved for a token a byte, which is
`pricing.INPUT_BOUND_FACTOR` times as many: so every byte that a model may read is counted, and rounded up."""
TOKENS_PER_MESSAGE = 4
"""Role and separators, as OpenAI's cookbook counts them, rounded up."""
TOKENS_PER_IMAGE = 1_000
"""Between OpenAI's 765 for 1024 × 1024 pixels and Anthropic's 1,600 at most."""
TOKENS_PER_FILE = 3_000
"""A short PDF or half a minute of audio; what a file really holds only the provider finds out."""

MAX_CHOICES = 128
"""OpenAI's own bound of `n`."""
MAX_PROMPTS = 10_000
"""In one request; OpenAI embeds 2,048 at once."""

MAX_NAME = 300
MAX_MESSAGES = 10_000
MAX_TOKENS = 2**31
MAX_PREFERENCES_BYTES = 64 * 1024
"""Preferences and parameter names travel to the registry in one message of the bus."""
MAX_PARAMETERS = 200
MAX_PARAMETER_NAME = 100

OURS = frozenset({"models", "provider"})
"""Fields that are about routing and mean nothing to a provider."""
_SUBJECT: dict[Endpoint, str] = {"chat": "messages", "completions": "prompt", "embeddings": "input"}
_PLAIN = frozenset({"model", *_SUBJECT.values()})
_NO_PARAMETERS = _PLAIN | {"stream", "stream_options", "user", "metadata"} | OURS
_NO_INPUT = _NO_PARAMETERS | {
    "audio",
    "encoding_format",
    "logit_bias",
    "modalities",
    "prediction",
    "prompt_cache_key",
    "reasoning_effort",
    "safety_identifier",
    "service_tier",
    "stop",
    "verbosity",
}
"""Fields that are no part of what a model reads. Of any other one that is not a number, every byte may be."""
_KIND_OF_PART = {
    "image_url": "image",
    "image": "image",
    "input_image": "image",
    "input_audio": "audio",
    "audio_url": "audio",
    "file": "file",
    "input_file": "file",
    "video_url": "video",
    "input_video": "video",
    "video": "video",
}
_TEXT = ("text", "input_text", "output_text")
_OF_TEXT = (str, list, dict)
_NO_NAMES: frozenset[str] = frozenset()
_PARTS_OF_MOST = 2
"""Of a message: role and content."""


class BadRequest(Exception):
    """The client's mistake: what is wrong, and in which field."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message, self.param = message, param


class Measures(NamedTuple):
    """What was measured of a request: the fields of `Needs`, in a form that costs next to nothing to make, to
    compare and to hash. A request that is served by a plan at hand needs nothing else."""

    operation: Endpoint
    tools: bool = False
    vision: bool = False
    audio: bool = False
    pdf: bool = False
    structured_output: bool = False
    stream: bool = False
    n: int = 1
    prompts: int = 1
    images: int = 0
    audio_parts: int = 0
    files: int = 0
    input_tokens: int = 0
    max_output_tokens: int | None = None
    parameters: frozenset[str] = frozenset()

    def needs(self) -> Needs:
        """The same as a message, for the registry and for what is priced."""
        return Needs(**self._asdict())


class OpenAIRequest(msgspec.Struct, eq=False):
    """A checked request."""

    endpoint: Endpoint
    model: str
    measures: Measures
    preferences: Preferences | None
    """None: it has no wishes, as most."""
    usage_asked: bool
    """Whether the client itself wants the usage chunk at the end of a stream."""
    body: JsonObject

    @property
    def stream(self) -> bool:
        """Whether the answer is wanted piece by piece."""
        return self.measures.stream

    def upstream_body(self, provider_model_id: str) -> bytes:
        """What a provider is sent: its own name of the model, our fields out, the rest untouched."""
        replaced = {"model": msgspec.json.encode(provider_model_id)}
        if self.stream and self.endpoint != "embeddings" and not self.usage_asked:
            options = dict(self.body.values.get("stream_options") or {})
            replaced["stream_options"] = msgspec.json.encode(options | {"include_usage": True})
        return self.body.to_bytes(without=OURS, **replaced)


def parse(body: bytes, endpoint: Endpoint) -> OpenAIRequest:
    """Check a request body. Raises BadRequest for what no provider could answer."""
    try:
        document = JsonObject.parse(body)
    except NotAnObject as error:
        raise BadRequest(str(error)) from error
    fields = document.values
    model = fields.get("model")
    if model is None:
        raise BadRequest("Say which model: the field 'model' is missing.", "model")
    if not isinstance(model, str) or len(model) > MAX_NAME or "\x00" in model or not (name := model.strip()):
        raise BadRequest(f"'model' must be a string of 1 to {MAX_NAME} characters.", "model")
    subject = _SUBJECT[endpoint]
    if fields.get(subject) is None:
        raise BadRequest(f"The field '{subject}' is missing.", subject)
    wishes = _wishes(document) if fields.keys() - _PLAIN else _NO_WISHES
    seen = _look(fields[subject], subject)
    files = seen.files + seen.videos
    measures = Measures(
        endpoint,
        wishes.tools,
        seen.images > 0,
        seen.audio > 0,
        seen.files > 0,
        wishes.structured_output,
        wishes.stream,
        wishes.n,
        seen.prompts,
        seen.images,
        seen.audio,
        files,
        -(-(seen.text_bytes + wishes.text_bytes) // BYTES_PER_TOKEN)
        + seen.messages * TOKENS_PER_MESSAGE
        + seen.images * TOKENS_PER_IMAGE
        + (seen.audio + files) * TOKENS_PER_FILE,
        wishes.max_output_tokens,
        wishes.parameters,
    )
    return OpenAIRequest(endpoint, name, measures, wishes.preferences, wishes.usage_asked, document)


class _Wishes(NamedTuple):
    """What a request says besides model and input."""

    stream: bool = False
    usage_asked: bool = False
    tools: bool = False
    structured_output: bool = False
    max_output_tokens: int | None = None
    n: int = 1
    text_bytes: int = 0
    """Of fields that a model reads."""
    parameters: frozenset[str] = frozenset()
    preferences: Preferences | None = None


_NO_WISHES = _Wishes()


def _wishes(document: JsonObject) -> _Wishes:
    fields = document.values
    stream = _optional(fields, "stream", bool, "a boolean") or False
    options = _optional(fields, "stream_options", dict, "an object") or {}
    tools = _optional(fields, "tools", list, "a list")
    functions = _optional(fields, "functions", list, "a list")
    response_format = _optional(fields, "response_format", dict, "an object") or {}
    text_bytes = 0
    for name, value in fields.items():
        if name not in _NO_INPUT and isinstance(value, _OF_TEXT):
            text_bytes += len(document.raw(name))
    return _Wishes(
        stream,
        options.get("include_usage") is True,
        bool(tools or functions),
        response_format.get("type") == "json_schema",
        _longest_answer(fields),
        max(_count(fields, "n", MAX_CHOICES) or 1, _count(fields, "best_of", MAX_CHOICES) or 1),
        text_bytes,
        _parameters(fields),
        _preferences(document),
    )


def _optional(fields: dict[str, Any], name: str, kind: type, said: str) -> Any:
    value = fields.get(name)
    if value is not None and not isinstance(value, kind):
        raise BadRequest(f"'{name}' must be {said}.", name)
    return value


def _count(fields: dict[str, Any], name: str, most: int = MAX_TOKENS - 1) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        bounds = "from 1 on" if most >= MAX_TOKENS - 1 else f"from 1 to {most}"
        raise BadRequest(f"'{name}' must be a whole number {bounds}.", name)
    return value


def _longest_answer(fields: dict[str, Any]) -> int | None:
    """The bound of an answer. With both names in use it is the larger one: a provider may know only that."""
    newer, older = _count(fields, "max_completion_tokens"), _count(fields, "max_tokens")
    return max(newer or 0, older or 0) or None


class _Seen(msgspec.Struct):
    """What the input of a request consists of."""

    text_bytes: int = 0
    prompts: int = 1
    messages: int = 0
    images: int = 0
    audio: int = 0
    files: int = 0
    videos: int = 0
    """Priced like files, but whoever reads PDFs need not see films."""


def _look(subject: Any, name: str) -> _Seen:
    seen = _Seen()
    if name == "messages":
        if not isinstance(subject, list) or not subject:
            raise BadRequest("'messages' must be a list of at least one message.", name)
        if len(subject) > MAX_MESSAGES:
            raise BadRequest(f"'messages' must not be more than {MAX_MESSAGES}.", name)
        text_bytes = 0
        for position, message in enumerate(subject):
            if type(message) is dict and len(message) == _PARTS_OF_MOST and "role" in message:
                text = message.get("content")
                if type(text) is str:
                    text_bytes += bytes_of(text)
                    continue
            if not isinstance(message, dict):
                raise BadRequest(f"'messages[{position}]' must be an object.", f"messages[{position}]")
            _look_at_message(message, position, seen)
        seen.text_bytes += text_bytes
        seen.messages = len(subject)
    elif isinstance(subject, str):
        seen.text_bytes = bytes_of(subject)
    elif isinstance(subject, list) and subject:
        _look_at_prompts(subject, name, seen)
    else:
        raise BadRequest(f"'{name}' must be a string or a list that is not empty.", name)
    return seen


def _look_at_prompts(prompts: list[Any], name: str, seen: _Seen) -> None:
    # A list of numbers is one text that the client has turned into tokens already.
    if all(isinstance(entry, int | float) for entry in prompts):
        seen.text_bytes += BYTES_PER_TOKEN * len(prompts)
        return
    if len(prompts) > MAX_PROMPTS:
        raise BadRequest(f"'{name}' must not hold more than {MAX_PROMPTS} texts.", name)
    seen.prompts = len(prompts)
    for entry in prompts:
        if isinstance(entry, str):
            seen.text_bytes += bytes_of(entry)
        elif isinstance(entry, list):
            seen.text_bytes += BYTES_PER_TOKEN * len(entry)
        elif isinstance(entry, dict):
            _look_at_part(entry, seen)
        else:
            seen.text_bytes += BYTES_PER_TOKEN


def _look_at_message(message: dict[str, Any], position: int, seen: _Seen) -> None:
    where = f"messages[{position}].content"
    content = message.get("content")
    if isinstance(content, list):
        for part in content:
            if not isinstance(part, dict):
                raise BadRequest(f"The parts of '{where}' must be objects.", where)
            _look_at_part(part, seen)
    elif isinstance(content, str):
        seen.text_bytes += bytes_of(content)
    elif content is not None:
        raise BadRequest(f"'{where}' must be a string, a list or null.", where)
    for name, value in message.items():
        if name in ("role", "content"):
            continue
        if name == "audio" and isinstance(value, dict):
            seen.audio += 1  # an answer spoken earlier, of which only the id comes back
        elif name == "images" and isinstance(value, list):
            seen.images += len(value)
        elif value:
            seen.text_bytes += _size(value)


def _look_at_part(part: dict[str, Any], seen: _Seen) -> None:
    kind = part.get("type")
    if kind is None:  # as embedders have it: {"image": …}
        kind = next((name for name in part if name in _KIND_OF_PART), "text")
    match _KIND_OF_PART.get(kind) if isinstance(kind, str) else None:
        case "image":
            seen.images += 1
        case "audio":
            seen.audio += 1
        case "file":
            seen.files += 1
        case "video":
            seen.videos += 1
        case _ if kind in _TEXT and isinstance(part.get("text"), str):
            seen.text_bytes += bytes_of(part["text"])
        case _:
            seen.text_bytes += _size(part)


def bytes_of(text: str) -> int:
    """How long `text` is in UTF-8; for ASCII, which most of it is, without writing it anew."""
    return len(text) if text.isascii() else len(text.encode())


def _size(value: Any) -> int:
    return bytes_of(value) if isinstance(value, str) else len(msgspec.json.encode(value))


def _parameters(fields: dict[str, Any]) -> frozenset[str]:
    """Names of the optional fields that were set."""
    names = [name for name, value in fields.items() if value is not None and name not in _NO_PARAMETERS]
    if not names:
        return _NO_NAMES
    if len(names) > MAX_PARAMETERS:
        raise BadRequest(f"The request has more than {MAX_PARAMETERS} fields.")
    return frozenset(name for name in names if len(name) <= MAX_PARAMETER_NAME)


def _preferences(document: JsonObject) -> Preferences | None:
    fields = document.values
    if OURS.isdisjoint(fields):
        return None
    for name in OURS:
        if len(document.raw(name)) > MAX_PREFERENCES_BYTES:
            raise BadRequest(f"'{name}' is larger than {MAX_PREFERENCES_BYTES} bytes.", name)
    provider = _optional(fields, "provider", dict, "an object") or {}
    models = _optional(fields, "models", list, "a list") or []
    wishes = {name: value for name, value in provider.items() if value is not None} | {"models": models}
    try:
        return Preferences.model_validate(wishes)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        path = ".".join(str(part) for part in first["loc"])
        param = path if path.startswith("models") else f"provider.{path}"
        raise BadRequest(f"'{param}': {first['msg']}.", param) from error
