"""`python -m synaxis_registry`."""

from synaxis_common import cycles

with cycles.kept():  # a fifth of the time until a service is there went into looking through its modules
    from synaxis_registry.app import main

main()
