"""A plan in, an answer out: attempts, failover, streams, call reports."""
