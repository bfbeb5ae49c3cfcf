"""The messages on the bus. A field may be added to a `v1`; nothing may be renamed or removed."""
