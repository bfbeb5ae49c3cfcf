"""The committed AsyncAPI document is what the code says."""

import json
from pathlib import Path

from synaxis_common import subjects
from synaxis_common.channels import CHANNELS, asyncapi_document
from synaxis_common.contracts.events import CloudEvent, EventType
from synaxis_common.examples import examples_of

COMMITTED = Path(__file__).parents[3] / "docs" / "asyncapi.json"


def test_the_committed_document_is_the_generated_one() -> None:
    assert json.loads(COMMITTED.read_text()) == asyncapi_document(), (
        "run `make documents`, look at the difference"
    )


def test_every_channel_is_in_the_document_with_its_message() -> None:
    document = asyncapi_document()
    addresses = {channel["address"] for channel in document["channels"].values()}
    assert addresses - {None} == {channel.subject for channel in CHANNELS}
    schemas = document["components"]["schemas"]
    assert {channel.message.__name__ for channel in CHANNELS} <= set(schemas)


def test_a_request_names_its_reply() -> None:
    operations = asyncapi_document()["operations"].values()
    route = next(one for one in operations if one["channel"]["$ref"] == f"#/channels/{subjects.ROUTE}")
    assert route["reply"]["channel"]["$ref"] == f"#/channels/{subjects.ROUTE}.reply"


def test_every_message_has_an_example_which_is_one() -> None:
    kinds = {kind.__name__: kind for channel in CHANNELS for kind in (channel.message, channel.reply) if kind}
    for name, message in asyncapi_document()["components"]["messages"].items():
        assert message["examples"], name
        kind = kinds[message["payload"]["$ref"].rsplit("/", 1)[-1]]
        for example in message["examples"]:
            assert kind.model_validate(example["payload"]).model_dump(mode="json") == example["payload"]


def test_there_is_an_example_of_every_event() -> None:
    assert {example.type for example in examples_of(CloudEvent) if isinstance(example, CloudEvent)} == set(
        EventType
    )
