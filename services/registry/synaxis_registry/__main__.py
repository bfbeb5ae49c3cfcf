"""`python -m synaxis_registry` runs the service."""

from synaxis_registry.app import main

main()
