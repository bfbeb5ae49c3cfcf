"""The promises about limits and money, on real processes that are killed and stopped under load.

`python -m tests.chaos` starts the whole system, loads it with more than is allowed, breaks it at random, and
checks afterwards what the clients saw and what the ledger says against the upstream's own records.
"""
