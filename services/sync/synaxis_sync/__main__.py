"""`python -m synaxis_sync`."""

from synaxis_sync.app import main

main()
