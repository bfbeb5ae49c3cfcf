"""`python -m synaxis_discovery`."""

from synaxis_discovery.app import main

main()
