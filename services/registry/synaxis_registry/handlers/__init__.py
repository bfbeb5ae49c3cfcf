"""What the registry answers and hears on the bus: thin shells around the core and the store."""
