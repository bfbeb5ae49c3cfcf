"""Which provider ids are the same model: a pure resolver with its rules, evidence and explanations."""

from synaxis_registry.core.identity.aliases import AliasIndex, Ambiguous, Found, Missing, find
from synaxis_registry.core.identity.catalog import cluster, facts_from_entry, global_models_from_models_json
from synaxis_registry.core.identity.resolver import Resolver
from synaxis_registry.core.identity.values import (
    Attributes,
    KnownModel,
    ModelFacts,
    Offering,
    Resolution,
    Rule,
    RunnerUp,
)

__all__ = [
    "AliasIndex",
    "Ambiguous",
    "Attributes",
    "Found",
    "KnownModel",
    "Missing",
    "ModelFacts",
    "Offering",
    "Resolution",
    "Resolver",
    "Rule",
    "RunnerUp",
    "cluster",
    "facts_from_entry",
    "find",
    "global_models_from_models_json",
]
