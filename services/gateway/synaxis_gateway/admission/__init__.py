"""Who may be served, decided here as far as leases allow: plans and permits held for the next requests."""
