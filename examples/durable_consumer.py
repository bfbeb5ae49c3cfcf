"""Prints a line for every event, and goes on where it stopped: plain nats-py with a durable consumer."""

import asyncio
import json
import os
import sys

import nats
from nats.js.api import ConsumerConfig, DeliverPolicy

STREAM, SUBJECTS = "SYNAXIS_EVENTS", "synaxis.events.v1.>"


async def main(name: str) -> None:
    """Read with the consumer `name`; make it first, unless that is an operator's to do."""
    prefix = os.environ.get("NATS_INBOX_PREFIX", "_INBOX")
    url = os.environ.get("NATS_URL", "nats://127.0.0.1:4222")
    client = await nats.connect(url, inbox_prefix=prefix, max_reconnect_attempts=-1)
    api = os.environ.get("NATS_JS_PREFIX", "$JS.API")  # another one: see deploy/nats/users.conf
    jetstream = client.jetstream(prefix=api)
    if api == "$JS.API":
        new = ConsumerConfig(deliver_policy=DeliverPolicy.NEW, ack_wait=10)
        await jetstream.pull_subscribe(SUBJECTS, durable=name, stream=STREAM, config=new)
    subscription = await jetstream.pull_subscribe_bind(durable=name, stream=STREAM)
    print("subscribed", flush=True)
    while True:
        try:
            messages = await subscription.fetch(1, timeout=5)
        except TimeoutError:
            continue  # nothing happened
        for message in messages:
            event = json.loads(message.data)
            print(event["type"], event["subject"], event["data"].get("after", {}).get("reason"), flush=True)
            await message.ack()  # after the work is done: what is not acknowledged comes again


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:2] or ["example"]))
