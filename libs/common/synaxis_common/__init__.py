"""What the four services share: contracts, subjects, bus, settings, logs, metrics, one life cycle."""
