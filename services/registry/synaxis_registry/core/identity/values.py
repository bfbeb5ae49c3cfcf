"""What the identity resolver takes and gives."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Rule(StrEnum):
    """What decided."""

    PIN = "pin"  # an operator said so
    SAME_ID = "same-id"  # the id is a known model's id or alias
    SAME_MODEL = "same-model"  # the same words, versions and sizes, whatever else the id carries
    DATED = "dated"  # a date was dropped, added or replaced by the newest one
    FULLER_NAME = "fuller-name"  # the provider's name for it is a known model's, and says more than the id
    SPELLING = "spelling"  # the provider's prefix, or version digits written without a separator
    VARIANT = "variant"  # the same model served in another way, with evidence that agrees
    PARTIAL = "partial"  # the id leaves out, or adds, a size or the like, with evidence that agrees
    FACTS = "facts"  # only what is said about it agrees, and all of it does
    NEW = "new"  # nobody known: a model of its own
    CONTRADICTED = "contradicted"  # the id is a known model's, but what is said of it is another's


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is said about a model. Everything is optional; limits are in tokens."""

    name: str | None = None
    family: str | None = None
    vendor: str | None = None
    release_date: str | None = None
    """`YYYY-MM-DD`, `YYYY-MM` or `YYYY`."""
    context_window: int | None = None
    max_output: int | None = None
    input_modalities: frozenset[str] = frozenset()
    output_modalities: frozenset[str] = frozenset()
    open_weights: bool | None = None
    reasoning: bool | None = None


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A global model."""

    id: str
    """A lower-case slug; the vendor prefixes it only where two vendors collide."""
    vendor: str | None = None
    source_id: str | None = None
    """Its key in `models.json`, such as `zhipuai/glm-5.2`."""
    facts: ModelFacts = ModelFacts()
    aliases: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Offering:
    """A provider's model, to be recognised."""

    provider_id: str
    provider_model_id: str
    facts: ModelFacts = ModelFacts()


@dataclass(frozen=True, slots=True)
class Attributes:
    """What an id carries that is not the model."""

    quantization: str | None = None
    variants: tuple[str, ...] = ()
    """How it is served: `free`, `tee`, `turbo` …"""
    region: str | None = None
    vendor_spelling: str | None = None
    date: str | None = None
    is_latest: bool = False


@dataclass(frozen=True, slots=True)
class RunnerUp:
    """A model that was considered, and why it was not chosen."""

    global_model_id: str
    score: float
    """0 to 1, comparable within one resolution only."""
    reason: str


@dataclass(frozen=True, slots=True)
class Resolution:
    """Which global model an offering is, and why."""

    global_model_id: str
    rule: Rule
    confidence: float
    """0 to 1; the review list shows the lowest first."""
    is_new: bool = False
    suggested: KnownModel | None = None
    """The global model to create, when it is new."""
    attributes: Attributes = Attributes()
    evidence: tuple[str, ...] = ()
    """Sentences for people."""
    runners_up: tuple[RunnerUp, ...] = ()
