"""`python -m synaxis_discovery`."""

from synaxis_common import cycles

with cycles.kept():  # a fifth of the time until a service is there went into looking through its modules
    from synaxis_discovery.app import main

main()
