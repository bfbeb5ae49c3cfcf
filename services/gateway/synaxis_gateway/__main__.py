"""`python -m synaxis_gateway`."""

from synaxis_gateway.app import main

main()
