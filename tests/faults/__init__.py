"""The fault matrix: what is done to a running system, what its clients see, what the books say afterwards."""
