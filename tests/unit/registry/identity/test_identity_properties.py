"""What holds for every id."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from synaxis_registry.core.identity import Offering, Resolver, cluster, global_models_from_models_json

FAMILIES = ("glm", "gemma", "llama", "qwen", "phi", "nova")
KINDS = ("", "mini", "pro", "coder", "instruct", "thinking", "vl", "preview", "lite")
SIZES = ("", "7b", "8b", "70b", "1.7b", "30b-a3b")
VERSIONS = ("2", "3", "3.1", "4.5")

ids = st.builds(
    lambda family, version, size, kind: "-".join(part for part in (family, version, size, kind) if part),
    st.sampled_from(FAMILIES),
    st.sampled_from(VERSIONS),
    st.sampled_from(SIZES),
    st.sampled_from(KINDS),
)
decorations = st.sampled_from(
    (
        "{}",
        "{}:free",
        "{}-fp8",
        "{}-TEE",
        "TEE/{}",
        "acme/{}",
        "accounts/acme/models/{}",
        "{}-maas",
        "{}@default",
    )
)
catalogs = st.lists(st.tuples(st.sampled_from("abc"), ids, decorations), max_size=12, unique=True)


def offerings(catalog: list[tuple[str, str, str]]) -> list[Offering]:
    return [Offering(provider, decoration.format(one)) for provider, one, decoration in catalog]


def resolved(catalog: list[Offering]) -> dict[Offering, str]:
    return dict(zip(catalog, (one.global_model_id for one in cluster([], catalog)), strict=True))


@given(catalogs, st.randoms(use_true_random=False))
def test_the_order_of_a_catalog_makes_no_difference(
    catalog: list[tuple[str, str, str]], random: object
) -> None:
    listed = offerings(catalog)
    other = listed.copy()
    random.shuffle(other)  # type: ignore[attr-defined]
    assert resolved(listed) == resolved(other)


@given(catalogs)
def test_resolving_again_with_what_was_created_changes_nothing(catalog: list[tuple[str, str, str]]) -> None:
    listed = offerings(catalog)
    first = cluster([], listed)
    created = [one.suggested for one in first if one.suggested is not None]
    again = cluster(created, listed)
    assert [one.global_model_id for one in again] == [one.global_model_id for one in first]
    assert not any(one.is_new for one in again)


@given(ids, decorations)
def test_what_is_not_the_model_makes_no_difference(one: str, decoration: str) -> None:
    first, second = cluster([], [Offering("a", one), Offering("b", decoration.format(one))])
    assert first.global_model_id == second.global_model_id


@given(ids)
def test_case_and_separators_make_no_difference(one: str) -> None:
    spellings = {one, one.upper(), one.replace("-", "_"), one.replace("-", " ").title()}
    assert len(set(resolved([Offering("a", text) for text in sorted(spellings)]).values())) == 1


@given(ids, ids)
def test_different_models_are_never_merged(one: str, other: str) -> None:
    found = resolved([Offering("a", one), Offering("b", other)])
    assert len(set(found.values())) == len({one, other})


@given(
    ids, st.sampled_from([size for size in SIZES if size]), st.sampled_from([size for size in SIZES if size])
)
def test_sizes_are_never_merged(one: str, size: str, other: str) -> None:
    known = global_models_from_models_json({f"acme/{one}-{size}": {"release_date": "2026-01-01"}})
    found = Resolver(known).resolve(Offering("a", f"{one}-{other}"))
    assert (found.global_model_id == known[0].id) == (size == other)


@given(st.text(max_size=40), st.text(max_size=40))
def test_any_text_gets_some_id(provider: str, text: str) -> None:
    found = Resolver([]).resolve(Offering(provider, text))
    assert found.is_new
    assert found.global_model_id
