"""Words that ids are made of, and that say something other than which model it is.

The vendor spellings are the only table of names; everything else is a kind of word.
"""

from __future__ import annotations

from collections.abc import Iterator

VENDORS = {
    "ai21": "ai21-labs ai21labs",
    "alibaba": "qwen qwenlm alibaba-nlp tongyi",
    "allenai": "",
    "amazon": "",
    "anthropic": "",
    "arcee": "arcee-ai arcee_ai",
    "baidu": "",
    "bfl": "black-forest-labs",
    "bytedance": "bytedance-seed",
    "cohere": "coherelabs cohereforai",
    "deepreinforce": "",
    "deepseek": "deepseek-ai",
    "google": "",
    "ibm": "ibm-granite",
    "inception": "",
    "inclusionai": "",
    "kwaipilot": "kuaishou",
    "liquid": "liquidai",
    "meituan": "",
    "meta": "meta-llama facebook",
    "microsoft": "",
    "minimax": "minimaxai",
    "mistral": "mistralai mistral-ai",
    "moonshotai": "moonshot kimi",
    "nousresearch": "",
    "nvidia": "",
    "openai": "",
    "perplexity": "perplexity-ai",
    "poolside": "",
    "sakana": "",
    "sarvam": "sarvamai",
    "stepfun": "stepfun-ai",
    "tencent": "",
    "upstage": "",
    "voyage": "voyageai",
    "writer": "",
    "xai": "x-ai xai-org",
    "xiaomi": "xiaomimimo",
    "zhipuai": "zai z-ai zai-org thudm zhipu",
}
"""A vendor, as `models.json` spells it, and its other spellings in ids."""


def _spellings() -> Iterator[tuple[str, str]]:
    for vendor, others in VENDORS.items():
        for spelling in (vendor, *others.split()):
            yield spelling, vendor


VENDOR_OF = dict(_spellings())

BRANDS = frozenset({"deepseek", "minimax", "mistral", "qwen", "kimi", "sarvam", "voyage", "tongyi"})
"""Vendors whose name begins their models' names too: at the start of an id it stays part of the model."""

PATH_ONLY = frozenset({"meta-llama", "ibm-granite", "bytedance-seed"})
"""Spellings that end in a family's name: a vendor before a slash, otherwise a vendor and a family."""

REGIONS = frozenset({"us", "eu", "au", "jp", "apac", "global", "us-gov", "ca", "sa", "uk", "in"})

ALWAYS_SERVING = frozenset({"free", "tee", "maas", "nitro", "floor", "exacto", "default", "tput", "hf"})
"""Never part of a model's name: price, enclave, hosting, throughput."""

SERVING = frozenset(
    {
        *("fast", "turbo", "lightning", "highspeed", "high-throughput", "throughput", "flex", "short"),
        *("original", "cheaper", "beta", "instant", "versatile", "dynamic", "cs", "el", "fw", "custom"),
    }
)
"""A way of serving for one model, a name's part for another (`gpt-4-turbo`): what is known decides."""

OPEN_ONLY = frozenset({"turbo", "instant", "versatile", "lightning", "highspeed"})
"""Where the weights are closed, these words name a tier; where they are open, a way of serving."""

TIERS = frozenset({"fast", "short", "beta", "flex"})
"""What a closed model's maker may sell as a model of its own."""

PLANS = frozenset(
    {"coding", "azure", "alicloud", "duo", "chat", "hosted", "workers", "deep", "cerebras", "groq"}
)
"""Words that gateways put before a model's name for a plan or the host behind them."""

SYNONYMS = {"it": "instruct", "think": "thinking", "nothink": "nothinking", "chat-completion": "chat"}
"""Different words for the same part of a model."""

SIZE_CLASSES = frozenset({"nano", "tiny", "mini", "small", "medium", "large"})
"""Words that already say a model's size: beside one, a number of parameters is no other sister's."""
