"""Takes an id or a name apart: words, versions, sizes, date, and what is not the model."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from synaxis_registry.core.identity.values import Attributes
from synaxis_registry.core.identity.vocabulary import (
    ALWAYS_SERVING,
    BRANDS,
    PATH_ONLY,
    REGIONS,
    SERVING,
    SYNONYMS,
    VENDOR_OF,
)

QUANTIZATION = re.compile(
    r"(?<![a-z0-9])(?:nvfp4|mxfp4|fp(?:4|8|16|32)|bf16|int(?:4|8)(?:[-_]mixed[-_]ar)?|awq|gptq|gguf|mlx|exl2"
    r"|[2-8]-?bit|i?q[2-8](?:_[a-z0-9]+)+|w\d+a\d+)(?![a-z0-9])"
)
SEPARATOR = re.compile(r"[^a-z0-9]+")
BETWEEN_WORDS = re.compile(r"[^a-z0-9.]+")
BLANKS = re.compile(r"\s+")
POINT = re.compile(r"(?<=\d)p(?=\d)")
"""`v3p1` is v3.1."""
INFERENCE_REVISION = re.compile(r"-v\d+:\d$")
BEDROCK_REVISION = re.compile(r"(?:-v?\d+)?:\d$")
DOTTED_REVISION = re.compile(r"-v1$")
SERIES = re.compile(r"[a-z]\d")
"""A letter and a number: a name that needs its brand before it."""
BUDGET = re.compile(r":\d{3,}$")
MONTH = r"(?:0[1-9]|1[0-2])"
DAY = r"(?:0[1-9]|[12]\d|3[01])"
TWO_DIGITS = re.compile(r"\d\d")
FULL_DATE = re.compile(rf"(?<!\d)(20\d\d)[-._]?({MONTH})[-._]?({DAY})(?!\d)")
MONTH_OF_YEAR = re.compile(rf"(?<!\d)({MONTH})-(20\d\d)(?!\d)")
SHORT_DATE = re.compile(rf"(?<![\da-z.])(2[3-7])({MONTH})({DAY})?(?![\da-z])")
DAY_OF_MONTH = re.compile(rf"(?<![\da-z.])({MONTH})({DAY})(?![\da-z])")
DASHED_DAY = re.compile(rf"(?<=[a-z]-)({MONTH})-({DAY})(?=$|[:-][a-z])")
FRACTION = re.compile(r"(?<![\d.])(\d+)\.(\d+)(?=[bm](?![a-z0-9]))")
"""A size such as 1.7b, as against the version and size of `llama-3.1-8b`."""
ATOM = re.compile(r"a\d+b|e\d+b|\d+x\d+b|\d+d\d+[bm]|\d+[bmkte](?![a-z0-9])|\d+|[a-z]+")
SIZE = re.compile(r"\d+[xd]?\d*[bmt]|e\d+b")
ACTIVE = re.compile(r"a\d+b|\d+e")


class Key(NamedTuple):
    """What makes a model itself. Two ids with the same key name the same model, but for its date."""

    words: frozenset[str]
    versions: tuple[str, ...]
    """The numbers in the order in which they come."""
    sizes: tuple[str, ...]
    """Parameters: `70b`, `8x7b`, `e4b`, and `1d7b` for 1.7b."""
    active: tuple[str, ...]
    """Active parameters and experts: `a22b`, `16e`."""

    @property
    def parts(self) -> frozenset[str]:
        return self.words | set(self.versions) | set(self.sizes) | set(self.active)


@dataclass(frozen=True, slots=True)
class Reading:
    """An id, taken apart."""

    key: Key
    atoms: tuple[str, ...]
    """The key's parts in the order in which they were written."""
    slug: str
    """What was written, with its date and without other attributes, as an id."""
    vendor: str | None
    attributes: Attributes
    date: str | None
    """`YYYY-MM-DD`, `YYYY-MM`, or `MM-DD` where no year is given."""
    is_latest: bool

    @property
    def serving(self) -> frozenset[str]:
        """Words of the key that may say how it is served."""
        return self.key.words & SERVING


@lru_cache(maxsize=32_768)
def key_of(atoms: tuple[str, ...]) -> Key:
    words: set[str] = set()
    versions: list[str] = []
    sizes: list[str] = []
    active: list[str] = []
    for index, atom in enumerate(atoms):
        following = atoms[index + 1] if index + 1 < len(atoms) else ""
        if atom.isdigit():
            # 4.0 is 4: a zero after a number adds nothing.
            if atom == "0" and index and atoms[index - 1].isdigit():
                continue
            versions.append(atom)
        elif ACTIVE.fullmatch(atom):
            active.append(atom)
        elif SIZE.fullmatch(atom):
            sizes.append(atom)
        elif atom != "v" or not following.isdigit():
            words.add(SYNONYMS.get(atom, atom))
    return Key(frozenset(words), tuple(versions), tuple(sorted(sizes)), tuple(sorted(active)))


def rekeyed(reading: Reading, atoms: tuple[str, ...]) -> Reading:
    """The reading as if only `atoms` had been written."""
    return Reading(
        key_of(atoms),
        atoms,
        reading.slug,
        reading.vendor,
        reading.attributes,
        reading.date,
        reading.is_latest,
    )


@lru_cache(maxsize=32_768)
def read(text: str, *, is_name: bool = False) -> Reading:
    """Take an id apart, or with `is_name` a name for people (`NVIDIA: Nemotron 3 Super (free)`)."""
    rest = text.strip().lower().lstrip("~").replace("+", "-plus-")
    vendor: str | None = None
    spelling: str | None = None
    region: str | None = None
    variants: list[str] = []
    if is_name:
        rest = BETWEEN_WORDS.sub("-", rest).strip("-")
    else:
        *path, rest = rest.removeprefix("hf:").rstrip("/").split("/")
        for segment in path:
            if segment in VENDOR_OF:
                vendor, spelling = VENDOR_OF[segment], segment
            elif segment in ALWAYS_SERVING:
                variants.append(segment)
        rest = BLANKS.sub("-", rest)
        head, dot, tail = rest.partition(".")
        if dot and head in REGIONS and not tail[:1].isdigit():
            region, rest = head, tail
        head, dot, tail = rest.partition(".")
        if dot and head in VENDOR_OF and not tail[:1].isdigit():
            vendor, spelling = VENDOR_OF[head], head
            rest = BEDROCK_REVISION.sub("", tail)
            rest = DOTTED_REVISION.sub("", rest) if rest == tail else rest
            # `deepseek.r1` is DeepSeek-R1, `mistral.pixtral-large` is Pixtral Large.
            rest = f"{head}-{rest}" if head in BRANDS and SERIES.match(rest) else rest
        else:
            rest = INFERENCE_REVISION.sub("", rest)
        rest = BUDGET.sub("", rest)
    quantization = None
    while (found := QUANTIZATION.search(rest)) is not None:
        quantization = quantization or found.group()
        rest = (rest[: found.start()] + "-" + rest[found.end() :]).strip("-_.: ")
    rest = POINT.sub(".", rest.replace("@", "-")).replace("high-throughput", "tput")
    written, _ = _without_vendor([token for token in SEPARATOR.split(rest) if token])
    rest, date = _dated(rest)
    rest = FRACTION.sub(r"\1d\2", rest).replace("non-reasoning", "nonreasoning")
    tokens = [token for token in SEPARATOR.split(rest) if token]
    tokens, stripped = _without_vendor(tokens)
    if stripped is not None:
        spelling = spelling or stripped
        vendor = vendor or VENDOR_OF[stripped]
    if is_name and len(tokens) > 1 and tokens[-1] in REGIONS and "(" in text:
        region = tokens.pop()
    is_latest = "latest" in tokens
    kept = []
    for part in tokens:
        if part in ALWAYS_SERVING and len(tokens) > 1:
            variants.append(part)
        elif part != "latest":
            kept.append(part)
    atoms = tuple(_atoms(kept))
    slug = "-".join(token for token in written if token not in ALWAYS_SERVING or len(written) == 1)
    attributes = Attributes(quantization, tuple(variants), region, spelling, date, is_latest)
    return Reading(key_of(atoms), atoms, slug, vendor, attributes, date, is_latest)


def _dated(rest: str) -> tuple[str, str | None]:
    """Cut the date out."""
    if TWO_DIGITS.search(rest) is None:
        return rest, None
    for pattern in (FULL_DATE, MONTH_OF_YEAR, SHORT_DATE, DAY_OF_MONTH, DASHED_DAY):
        found = pattern.search(rest)
        if found is None or found.start() == 0:
            continue
        parts = found.groups()
        if pattern is MONTH_OF_YEAR:
            date = f"{parts[1]}-{parts[0]}"
        elif pattern is SHORT_DATE:
            date = "-".join((f"20{parts[0]}", *(part for part in parts[1:] if part)))
        else:
            date = "-".join(parts)
        return rest[: found.start()] + "-" + rest[found.end() :], date
    return rest, None


def _without_vendor(tokens: list[str]) -> tuple[list[str], str | None]:
    """Drop a vendor's name at the start, unless nothing that names a model would be left."""
    stripped: str | None = None
    again = True
    while again:
        again = False
        for length in (3, 2, 1):
            spelling = "-".join(tokens[:length])
            is_vendor = spelling in VENDOR_OF and spelling not in BRANDS and spelling not in PATH_ONLY
            if is_vendor and len(tokens) > length and not tokens[length].isdigit():
                tokens, stripped, again = tokens[length:], stripped or spelling, True
                break
    return tokens, stripped


def _atoms(tokens: list[str]) -> list[str]:
    atoms: list[str] = []
    for token in tokens:
        found = ATOM.findall(token)
        for atom in found:
            # `v03` is v0.3.
            if len(atom) == 2 and atom[0] == "0" and atom.isdigit():
                atoms.extend(atom)
            else:
                atoms.append(atom)
    return atoms
