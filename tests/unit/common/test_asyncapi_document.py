"""The committed AsyncAPI document is what the code says."""

import json
from pathlib import Path

from synaxis_common import subjects
from synaxis_common.channels import CHANNELS, asyncapi_document

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
