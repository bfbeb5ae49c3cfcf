"""Prints a line for every model that comes, goes or changes: FastStream, from now on."""

import asyncio
import os

from faststream import FastStream
from faststream.nats import JStream, NatsBroker
from nats.js.api import DeliverPolicy

from synaxis_common.contracts.events import CloudEvent, ModelChange

broker = NatsBroker(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"), logger=None)
app = FastStream(broker)


@broker.subscriber(
    "synaxis.events.v1.model.>",  # …model.*.nvidia.* is one provider, …model.*.*.gemma-3-27b-it one model
    stream=JStream("SYNAXIS_EVENTS", declare=False),
    deliver_policy=DeliverPolicy.NEW,
    ordered_consumer=True,
)
async def on_change(event: CloudEvent) -> None:
    """What to do with an event."""
    assert isinstance(event.data, ModelChange)
    change = event.data
    print(event.type, f"{change.provider_id}/{change.provider_model_id}", change.after.reason, flush=True)


@app.after_startup
async def started() -> None:
    """Say that from now on nothing is missed."""
    print("subscribed", flush=True)


if __name__ == "__main__":
    asyncio.run(app.run())
