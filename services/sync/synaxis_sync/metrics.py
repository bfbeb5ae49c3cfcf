"""What sync counts."""

from __future__ import annotations

from prometheus_client import Counter

FETCHES = Counter(
    "synaxis_sync_fetches_total", "Documents asked of models.dev, by what came", ["document", "outcome"]
)
MESSAGES = Counter("synaxis_sync_messages_total", "Catalog messages that the bus has stored", ["kind"])
SKIPPED = Counter("synaxis_sync_skipped_entries_total", "Entries of models.dev that could not be read")
