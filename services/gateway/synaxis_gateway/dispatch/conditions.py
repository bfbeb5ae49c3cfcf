"""What a provider's error is about: codes first, words only where no code decides.

The rows were collected from what OpenAI, Azure, Anthropic, Gemini, Mistral, DeepSeek, Groq, Together,
Fireworks, NVIDIA, Hugging Face, OpenRouter, Moonshot, vLLM and llama.cpp document or send.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Final

from synaxis_gateway.wire.error_said import ErrorSaid


class Condition(Enum):
    """What is the matter. The values are names for reports and metrics."""

    REQUEST = "request"
    """The request is wrong, for anybody."""
    CONTENT = "content"
    """The provider does not answer such things."""
    CONTEXT = "context"
    """More tokens than this model takes here."""
    UNSUPPORTED = "unsupported"
    """A parameter or modality that this model does not have here; another candidate may."""
    GENERATION = "generation"
    """The model could not keep to the form that was asked for; another one may."""
    OVER_LIMIT = "over_limit"
    """This one request is larger than our limit a minute at this provider; smaller ones pass."""
    KEY = "key"
    """Our key, or the account behind it, is not accepted."""
    CREDIT = "credit"
    """Our account has run out of money."""
    CREDIT_FOR_THIS = "credit_for_this"
    """What is left in our account does not cover this request's worst case."""
    REGION = "region"
    """The provider does not serve the place that we call from."""
    MODEL = "model"
    """The provider does not have this model, or not for us."""
    PATH = "path"
    """The provider does not have this operation: its base URL is wrong, or it never had it."""
    RATE_LIMIT = "rate_limit"
    OVERLOAD = "overload"
    """Too many requests of everybody's, or the model is being loaded."""
    TRANSIENT = "transient"
    FAILURE = "failure"
    """The candidate failed."""
    UNREACHABLE = "unreachable"
    """Whoever answered is in front of the provider and cannot reach it."""
    FRONT_DOOR = "front_door"
    """A page for people: whoever answered, it was not the API."""
    REDIRECT = "redirect"
    UNKNOWN = "unknown"


_CODES: Final[Mapping[Condition, str]] = {
    Condition.CONTEXT: """context_length_exceeded context_window_exceeded model_context_window_exceeded
        exceed_context_size_error input_too_long prompt_too_long""",
    Condition.CONTENT: """content_filter content_policy_violation responsibleaipolicyviolation invalid_prompt
        data_inspection_failed datainspectionfailed content_moderation moderation_blocked""",
    Condition.UNSUPPORTED: """unsupported_parameter unsupported_value unknown_parameter extra_forbidden
        operationnotsupported unsupported_image unsupported_media_type""",
    Condition.GENERATION: "tool_use_failed json_validate_failed output_parse_failed",
    Condition.KEY: """invalid_api_key incorrect_api_key api_key_invalid api_key_expired authentication_error
        invalid_authentication invalid_authentication_error incorrect_api_key_error unauthenticated
        account_deactivated account_suspended organization_restricted access_terminated invalid_organization
        api_key_service_blocked service_disabled invalid_token key_expired token_expired""",
    Condition.CREDIT: """insufficient_quota billing_hard_limit_reached billing_not_active billing_error
        credit_limit credit_balance_exhausted credit_balance_too_low enforced_spend_limit_reached
        spend_limit_exceeded insufficient_balance insufficient_credits insufficient_funds payment_required
        exceeded_current_quota_error arrearage""",
    Condition.REGION: "unsupported_country_region_territory unsupported_location",
    Condition.MODEL: """model_not_found model_not_available model_not_supported model_not_exist invalid_model
        unknown_model deploymentnotfound model_decommissioned model_deprecated
        model_permission_blocked_org model_permission_blocked_project""",
    Condition.RATE_LIMIT: """rate_limit_exceeded rate_limit_error rate_limit_reached_error rate_limited
        resource_exhausted too_many_requests model_rate_limit dynamic_request_limited dynamic_token_limited
        throttling throttlingexception ratelimitreached limit_requests limit_burst_rate""",
    Condition.OVERLOAD: """overloaded_error overloaded engine_overloaded engine_overloaded_error
        server_overloaded model_overloaded model_loading slow_down capacity_exceeded nocapacity
        service_tier_capacity_exceeded unavailable""",
}
_BY_CODE: Final[Mapping[str, Condition]] = {
    code: condition for condition, codes in _CODES.items() for code in codes.split()
}

_VAGUE_CODES: Final = """invalid_request_error invalid_request unknown_error bad_request badrequest
    badrequesterror error invalid_argument failed_precondition permission_denied permission_error forbidden
    requests tokens server_error internal_server_error api_error"""
_VAGUE: Final = frozenset(_VAGUE_CODES.split())
"""Codes that say nothing which the status does not say. With any other, words about our account are not
believed: they may be the client's own, repeated."""

_CREDIT_WORDS: Final = re.compile(
    r"insufficient[_ ](?:quota|credits?|balance|funds?)|credit[_ ]balance|spend(?:ing)?[_ ]limit"
    r"|specified api usage limits|payment required|billing_hard_limit|monthly included credits"
    r"|credits? (?:have |has )?expired|credit limit exceeded|key limit exceeded|out of credits"
    r"|account is not active|past invoices"
)
_CREDIT_FOR_THIS_WORDS: Final = re.compile(r"can only afford|fewer max_tokens")
_KEY_WORDS: Final = re.compile(
    r"(?:incorrect|invalid) api[_ ]key|api[_ ]key (?:is |not )?(?:not )?(?:valid|expired|invalid)"
)
_REGION_WORDS: Final = re.compile(
    r"location is not supported|region,? (?:or|and) territory|unsupported_country"
    r"|not available in your (?:region|country)"
)
_CONTENT_WORDS: Final = re.compile(
    r"moderation|content[_ ](?:policy|filter)|flagged|content management policy|usage polic|safety system"
)
_CONTEXT_WORDS: Final = re.compile(
    r"context[_ ]length|context[_ ]window|context[_ ]size|(?:prompt|input|request) is too long"
    r"|input token count|maximum (?:prompt|input) length|too many (?:input )?tokens"
    r"|reduce the length of the (?:messages|prompt|input)|must have less than \d+ tokens"
    r"|tokens \+ +must be"
)
_UNSUPPORTED_WORDS: Final = re.compile(
    r"unsupported (?:parameter|value|content type)|not supported (?:with|by|for) (?:this|the) model"
    r"|unrecognized request argument|extra inputs are not permitted|does(?: not|n't) support"
    r"|only supported by certain models|not a chat model|that support |is unsupported"
    r"|requires --enable-auto-tool-choice|not a multimodal model"
)
_MODEL_WORDS: Final = re.compile(
    r"\bmodels?\b.{0,80}(?:not exist|not found|not available|deprecated|decommissioned|not supported)"
    r"|end of life"
    r"|not a valid model|invalid model|unknown model|no endpoints found|unable to access model"
    r"|access to (?:the )?model|gated (?:repo|model)|function .{0,80}not found",
    re.DOTALL,
)
_PATH_WORDS: Final = re.compile(
    r"invalid url|unrecognized request url|page not found|resource not found|no route|cannot post"
    r"|path not found"
)
_OVERLOAD_WORDS: Final = re.compile(
    r"overloaded|(?:at|over|no|insufficient) capacity|(?:currently|still|is) loading|not ready yet"
    r"|capacity exceeded|queue is full"
)
_OVER_LIMIT_WORDS: Final = re.compile(r"request too large")
_DEGRADED_WORDS: Final = re.compile(r"degraded function")

_ABOUT_REQUEST: Final = frozenset({400, 413, 415, 422})
_UNREACHABLE: Final = frozenset({521, 522, 523, 525, 526, 530})
"""Cloudflare: the origin is down, unreachable, or its TLS fails."""
_TRANSIENT: Final = frozenset({408, 409, 423, 425})
_BY_STATUS: Final[Mapping[int, Condition]] = {
    401: Condition.KEY,
    402: Condition.CREDIT,
    403: Condition.KEY,
    404: Condition.MODEL,
    405: Condition.PATH,
    410: Condition.MODEL,
    415: Condition.UNSUPPORTED,
    429: Condition.RATE_LIMIT,
    451: Condition.REGION,
    498: Condition.OVERLOAD,  # Groq: the flex tier is full
    499: Condition.FAILURE,
    529: Condition.OVERLOAD,  # Anthropic
    **dict.fromkeys(_ABOUT_REQUEST - {415}, Condition.REQUEST),
    **dict.fromkeys(_TRANSIENT, Condition.TRANSIENT),
    **dict.fromkeys(_UNREACHABLE, Condition.UNREACHABLE),
}

_Rows = Iterable[tuple[re.Pattern[str], Condition]]
_ABOUT_MODEL: Final[_Rows] = (
    (_UNSUPPORTED_WORDS, Condition.UNSUPPORTED),
    (_MODEL_WORDS, Condition.MODEL),
)
_WORDS: Final[Mapping[int, _Rows]] = {
    402: ((_CREDIT_FOR_THIS_WORDS, Condition.CREDIT_FOR_THIS),),
    403: (
        (_CREDIT_WORDS, Condition.CREDIT),
        (_REGION_WORDS, Condition.REGION),
        (_CONTENT_WORDS, Condition.CONTENT),
        (_MODEL_WORDS, Condition.MODEL),
    ),
    404: (
        (_UNSUPPORTED_WORDS, Condition.UNSUPPORTED),
        (_PATH_WORDS, Condition.PATH),
    ),
    412: ((_CREDIT_WORDS, Condition.CREDIT),),  # Fireworks: an account that is suspended
    429: (
        (_CREDIT_WORDS, Condition.CREDIT),
        (_OVER_LIMIT_WORDS, Condition.OVER_LIMIT),
        (_OVERLOAD_WORDS, Condition.OVERLOAD),
    ),
}
_ACCOUNT_WORDS: Final[_Rows] = (
    (_CREDIT_WORDS, Condition.CREDIT),
    (_KEY_WORDS, Condition.KEY),
    (_REGION_WORDS, Condition.REGION),
)
_REQUEST_WORDS: Final[_Rows] = (
    (_CONTEXT_WORDS, Condition.CONTEXT),
    (_CONTENT_WORDS, Condition.CONTENT),
    *_ABOUT_MODEL,
    (_DEGRADED_WORDS, Condition.FAILURE),  # NVIDIA says 400 for it
)
_NO_STATUS: Final[_Rows] = (
    *_ACCOUNT_WORDS,
    (_CONTEXT_WORDS, Condition.CONTEXT),
    (_CONTENT_WORDS, Condition.CONTENT),
    (_OVERLOAD_WORDS, Condition.OVERLOAD),
    *_ABOUT_MODEL,
)
_OF_OTHERS: Final[_Rows] = ((_CONTEXT_WORDS, Condition.CONTEXT), (_UNSUPPORTED_WORDS, Condition.UNSUPPORTED))


def find(status: int | None, said: ErrorSaid) -> tuple[Condition, bool]:
    """What is the matter, and whether that is certain: words on a request's own error may be the client's."""
    by_code = next((_BY_CODE[code] for code in said.codes if code in _BY_CODE), None)
    if by_code is not None:
        return _with_status(by_code, status, said), True
    if said.is_page and status is not None and status < 500:
        return _PAGES.get(status, Condition.FRONT_DOOR), True
    if status is None:
        return _by_words(_NO_STATUS, said.text) or Condition.UNKNOWN, False
    if status in _ABOUT_REQUEST:
        if all(code in _VAGUE for code in said.codes):
            about_account = _by_words(_ACCOUNT_WORDS, said.text)
            if about_account is not None:
                return about_account, False
        words = _by_words(_REQUEST_WORDS, said.text) or _by_words(_OF_OTHERS, said.quoted_text)
        return words or _BY_STATUS[status], True
    if status == 404 and said.text.strip(" .") == "not found" and not said.codes:
        return Condition.PATH, True  # FastAPI's own answer: {"detail": "Not Found"}
    words = _by_words(_WORDS.get(status, ()), said.text)
    if words is not None:
        return words, True
    if status in _BY_STATUS:
        return _BY_STATUS[status], True
    if 500 <= status <= 599:
        return _by_words(((_OVERLOAD_WORDS, Condition.OVERLOAD),), said.text) or Condition.FAILURE, True
    return (Condition.REDIRECT if 300 <= status <= 399 else Condition.UNKNOWN), True


_PAGES: Final[Mapping[int, Condition]] = {
    401: Condition.KEY,
    402: Condition.CREDIT,
    404: Condition.PATH,
    405: Condition.PATH,
    429: Condition.RATE_LIMIT,
    **dict.fromkeys(range(300, 400), Condition.REDIRECT),
}


def _with_status(condition: Condition, status: int | None, said: ErrorSaid) -> Condition:
    """A code's meaning where the status narrows it."""
    if condition is Condition.RATE_LIMIT and (status == 413 or _OVER_LIMIT_WORDS.search(said.text)):
        return Condition.OVER_LIMIT
    if condition is Condition.CREDIT and _CREDIT_FOR_THIS_WORDS.search(said.text):
        return Condition.CREDIT_FOR_THIS
    if condition is Condition.MODEL and _UNSUPPORTED_WORDS.search(said.text):
        return Condition.UNSUPPORTED
    return condition


def _by_words(rows: _Rows, text: str) -> Condition | None:
    if not text:
        return None
    return next((condition for pattern, condition in rows if pattern.search(text)), None)
