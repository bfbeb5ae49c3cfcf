"""What the registry does not have yet becomes messages; what it has is not said again."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from hypothesis import given
from hypothesis import strategies as st
from tests.support.models_dev import small_world

from synaxis_common import subjects
from synaxis_common.contracts.catalog import (
    MAX_CATALOG_MESSAGE_BYTES,
    CatalogComplete,
    CatalogMetadata,
    CatalogProvider,
)
from synaxis_common.exact_json import parse
from synaxis_sync.diff import Changes, Checkpoint, Run, changes, content_hash
from synaxis_sync.entries import ModelsRead, ProvidersRead, read_models, read_providers


def run() -> Run:
    return Run(uuid4(), datetime.now(UTC), "models.dev", {"api.json": '"a"', "models.json": '"m"'})


def exactly(document: Any) -> Any:
    return parse(json.dumps(document).encode())


def world(**changed: Any) -> tuple[ProvidersRead, ModelsRead]:
    """The small world, with some providers changed or (None) taken away."""
    api, models = small_world()
    api |= changed
    kept = {name: entry for name, entry in api.items() if entry is not None}
    return read_providers(exactly(kept)), read_models(exactly(models))


def closing(found: Changes) -> CatalogComplete:
    return CatalogComplete.model_validate_json(found.messages[-1].payload)


def applied(found: Changes) -> Checkpoint:
    """The checkpoint of a registry that has applied it all."""
    complete = closing(found)
    said = {f"provider/{seen.provider_id}": seen.content_hash for seen in complete.providers}
    said |= {f"etag/{name}": etag for name, etag in complete.etags.items()}
    if complete.metadata_hash is not None:
        said["models"] = complete.metadata_hash
    return Checkpoint.of(said)


def test_metadata_goes_first_then_providers_then_the_closing_message() -> None:
    found = changes(run(), Checkpoint(), *world())
    assert [message.kind for message in found.messages] == ["metadata", *["provider"] * 3, "complete"]
    assert [message.subject for message in found.messages] == [
        subjects.catalog_models(),
        *(subjects.catalog_provider(name) for name in ("alpha", "beta", "gamma")),
        subjects.CATALOG_COMPLETE,
    ]
    assert [seen.provider_id for seen in closing(found).providers] == ["alpha", "beta", "gamma"]
    assert closing(found).etags == {"api.json": '"a"', "models.json": '"m"'}


def test_the_same_data_again_is_only_the_closing_message() -> None:
    first = changes(run(), Checkpoint(), *world())
    second = changes(run(), applied(first), *world())
    assert [message.kind for message in second.messages] == ["complete"]
    assert closing(second).providers == closing(first).providers
    assert closing(second).metadata_hash == closing(first).metadata_hash


def test_only_the_provider_that_changed_is_sent() -> None:
    api, _ = small_world()
    beta = api["beta"]
    beta["models"]["talker-2-mini"]["cost"]["output"] = 0.61
    checkpoint = applied(changes(run(), Checkpoint(), *world()))
    found = changes(run(), checkpoint, *world(beta=beta))
    assert [message.subject for message in found.messages] == [
        subjects.catalog_provider("beta"),
        subjects.CATALOG_COMPLETE,
    ]
    assert found.providers_changed == 1


def test_a_provider_that_is_gone_is_missing_from_the_closing_message() -> None:
    checkpoint = applied(changes(run(), Checkpoint(), *world()))
    found = changes(run(), checkpoint, *world(gamma=None))
    assert [message.kind for message in found.messages] == ["complete"]
    assert [seen.provider_id for seen in closing(found).providers] == ["alpha", "beta"]


def test_a_provider_that_cannot_be_read_counts_as_seen_unchanged() -> None:
    checkpoint = applied(changes(run(), Checkpoint(), *world()))
    found = changes(run(), checkpoint, *world(gamma={"models": 5}))
    seen = {one.provider_id: one.content_hash for one in closing(found).providers}
    assert seen == checkpoint.providers


def test_a_document_that_was_not_modified_is_said_as_the_registry_has_it() -> None:
    providers, models = world()
    checkpoint = applied(changes(run(), Checkpoint(), providers, models))
    found = changes(run(), checkpoint, None, models)
    assert {one.provider_id for one in closing(found).providers} == {"alpha", "beta", "gamma"}
    assert closing(changes(run(), checkpoint, providers, None)).metadata_hash == checkpoint.metadata_hash


def test_an_entity_tag_counts_only_with_the_content_it_stands_for() -> None:
    tags = {"etag/api.json": '"a"', "etag/models.json": '"m"'}
    assert Checkpoint.of(tags).etags == {}
    assert Checkpoint.of({**tags, "provider/alpha": "x"}).etags == {"api.json": '"a"'}
    assert Checkpoint.of({**tags, "models": "x"}).etags == {"models.json": '"m"'}


def test_a_large_provider_is_said_in_parts_that_together_are_the_whole() -> None:
    api, _ = small_world()
    (entry,) = api["alpha"]["models"].values()
    api["alpha"]["models"] = {f"model-{number:05}": entry for number in range(6000)}
    found = changes(run(), Checkpoint(), read_providers(exactly({"alpha": api["alpha"]})), None)
    sent = [CatalogProvider.model_validate_json(one.payload) for one in found.messages[:-1]]
    assert len(sent) > 1
    assert [part.part for part in sent] == list(range(len(sent)))
    assert {(part.parts, part.content_hash) for part in sent} == {(len(sent), sent[0].content_hash)}
    assert [model.provider_model_id for part in sent for model in part.models] == sorted(
        api["alpha"]["models"]
    )
    assert all(len(one.payload) < MAX_CATALOG_MESSAGE_BYTES for one in found.messages)
    assert len({one.subject for one in found.messages}) == len(found.messages)
    assert len({one.message_id for one in found.messages}) == len(found.messages)
    assert closing(found).providers[0].parts == len(sent)


def test_a_provider_without_models_is_said_too() -> None:
    found = changes(run(), Checkpoint(), read_providers({"empty": {"models": {}}}), None)
    sent = CatalogProvider.model_validate_json(found.messages[0].payload)
    assert (sent.provider_id, sent.parts, sent.models) == ("empty", 1, ())


def test_what_is_left_out_of_a_message_comes_back_as_it_was() -> None:
    providers, models = world()
    found = changes(run(), Checkpoint(), providers, models)
    metadata = CatalogMetadata.model_validate_json(found.messages[0].payload)
    assert metadata.models == models.models
    assert (
        CatalogProvider.model_validate_json(found.messages[1].payload).models == providers.providers[0].models
    )


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=5))
def test_the_hash_does_not_depend_on_the_order_of_keys(content: dict[str, Any]) -> None:
    turned = dict(reversed(content.items()))
    assert content_hash(content) == content_hash(turned)
