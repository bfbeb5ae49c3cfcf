"""A request in OpenAI's format: what routing needs of it, and the body that goes on to a provider."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from pydantic import ValidationError

from synaxis_common.contracts.routing import Needs, Preferences
from synaxis_gateway.wire.json_object import JsonObject, NotAnObject

Endpoint = Literal["chat", "completions", "embeddings"]

BYTES_PER_TOKEN = 4
"""The usual rule of thumb for English text; an estimate, not a bound."""
TOKENS_PER_MESSAGE = 4
"""Role and separators, as OpenAI's cookbook counts them, rounded up."""
TOKENS_PER_IMAGE = 1_000
"""Between OpenAI's 765 for 1024 × 1024 pixels and Anthropic's 1,600 at most."""
TOKENS_PER_FILE = 3_000
"""A short PDF or half a minute of audio; what a file really holds only the provider finds out."""

MAX_NAME = 300
MAX_MESSAGES = 10_000
MAX_TOKENS = 2**31
MAX_PREFERENCES_BYTES = 64 * 1024
"""Preferences and parameter names travel to the registry in one message of the bus."""
MAX_PARAMETERS = 200
MAX_PARAMETER_NAME = 100

OURS = frozenset({"models", "provider"})
"""Fields that are about routing and mean nothing to a provider."""
_NO_PARAMETERS = (
    frozenset({"model", "messages", "prompt", "input", "stream", "stream_options", "user", "metadata"}) | OURS
)
_SUBJECT: dict[Endpoint, str] = {"chat": "messages", "completions": "prompt", "embeddings": "input"}
_KIND_OF_PART = {
    "image_url": "vision",
    "image": "vision",
    "input_image": "vision",
    "input_audio": "audio",
    "file": "pdf",
    "input_file": "pdf",
}


class BadRequest(Exception):
    """The client's mistake: what is wrong, and in which field."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message, self.param = message, param


@dataclass(frozen=True, slots=True)
class OpenAIRequest:
    """A checked request."""

    endpoint: Endpoint
    model: str
    stream: bool
    needs: Needs
    preferences: Preferences
    usage_asked: bool
    """Whether the client itself wants the usage chunk at the end of a stream."""
    body: JsonObject

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
    if not isinstance(model, str) or not model.strip() or len(model) > MAX_NAME or "\x00" in model:
        raise BadRequest(f"'model' must be a string of 1 to {MAX_NAME} characters.", "model")
    stream = _optional(fields, "stream", bool, "a boolean") or False
    options = _optional(fields, "stream_options", dict, "an object") or {}
    subject = _SUBJECT[endpoint]
    if fields.get(subject) is None:
        raise BadRequest(f"The field '{subject}' is missing.", subject)
    seen = _look(fields[subject], subject)
    tools = _optional(fields, "tools", list, "a list")
    functions = _optional(fields, "functions", list, "a list")
    response_format = _optional(fields, "response_format", dict, "an object") or {}
    _count(fields, "n")
    text_tokens = seen.text_bytes + sum(len(document.raw(name)) for name in ("tools", "functions"))
    needs = Needs(
        operation=endpoint,
        tools=bool(tools or functions),
        vision=seen.images > 0,
        audio=seen.audio > 0,
        pdf=seen.files > 0,
        structured_output=response_format.get("type") == "json_schema",
        stream=stream,
        input_tokens=text_tokens // BYTES_PER_TOKEN
        + seen.messages * TOKENS_PER_MESSAGE
        + seen.images * TOKENS_PER_IMAGE
        + (seen.audio + seen.files) * TOKENS_PER_FILE,
        max_output_tokens=_count(fields, "max_completion_tokens") or _count(fields, "max_tokens"),
        parameters=_parameters(fields),
    )
    return OpenAIRequest(
        endpoint=endpoint,
        model=model.strip(),
        stream=stream,
        needs=needs,
        preferences=_preferences(document),
        usage_asked=options.get("include_usage") is True,
        body=document,
    )


def _optional(fields: dict[str, Any], name: str, kind: type, said: str) -> Any:
    value = fields.get(name)
    if value is not None and not isinstance(value, kind):
        raise BadRequest(f"'{name}' must be {said}.", name)
    return value


def _count(fields: dict[str, Any], name: str) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < MAX_TOKENS:
        raise BadRequest(f"'{name}' must be a whole number from 1 on.", name)
    return value


@dataclass(slots=True)
class _Seen:
    """What the input of a request consists of."""

    text_bytes: int = 0
    messages: int = 0
    images: int = 0
    audio: int = 0
    files: int = 0


def _look(subject: Any, name: str) -> _Seen:
    seen = _Seen()
    if name == "messages":
        if not isinstance(subject, list) or not subject:
            raise BadRequest("'messages' must be a list of at least one message.", name)
        if len(subject) > MAX_MESSAGES:
            raise BadRequest(f"'messages' must not be more than {MAX_MESSAGES}.", name)
        for position, message in enumerate(subject):
            if not isinstance(message, dict):
                raise BadRequest(f"'messages[{position}]' must be an object.", f"messages[{position}]")
            _look_at_message(message, position, seen)
    elif isinstance(subject, str):
        seen.text_bytes = len(subject.encode())
    elif isinstance(subject, list) and subject:
        for entry in subject:
            # A list of numbers is text that the client has turned into tokens already.
            if isinstance(entry, str):
                seen.text_bytes += len(entry.encode())
            else:
                seen.text_bytes += BYTES_PER_TOKEN * (len(entry) if isinstance(entry, list) else 1)
    else:
        raise BadRequest(f"'{name}' must be a string or a list that is not empty.", name)
    return seen


def _look_at_message(message: dict[str, Any], position: int, seen: _Seen) -> None:
    seen.messages += 1
    content = message.get("content")
    if isinstance(content, str):
        seen.text_bytes += len(content.encode())
    elif isinstance(content, list):
        for part in content:
            if not isinstance(part, dict):
                where = f"messages[{position}].content"
                raise BadRequest(f"The parts of '{where}' must be objects.", where)
            match _KIND_OF_PART.get(part.get("type")):  # type: ignore[arg-type]  # None finds nothing
                case "vision":
                    seen.images += 1
                case "audio":
                    seen.audio += 1
                case "pdf":
                    seen.files += 1
                case _ if isinstance(part.get("text"), str):
                    seen.text_bytes += len(part["text"].encode())
    elif content is not None:
        where = f"messages[{position}].content"
        raise BadRequest(f"'{where}' must be a string, a list or null.", where)
    for call in message.get("tool_calls") or ():
        function = call.get("function") if isinstance(call, dict) else None
        arguments = function.get("arguments") if isinstance(function, dict) else None
        if isinstance(arguments, str):
            seen.text_bytes += len(arguments.encode())


def _parameters(fields: dict[str, Any]) -> frozenset[str]:
    """Names of the optional fields that were set."""
    names = [name for name, value in fields.items() if value is not None and name not in _NO_PARAMETERS]
    if len(names) > MAX_PARAMETERS:
        raise BadRequest(f"The request has more than {MAX_PARAMETERS} fields.")
    return frozenset(name for name in names if len(name) <= MAX_PARAMETER_NAME)


def _preferences(document: JsonObject) -> Preferences:
    fields = document.values
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
