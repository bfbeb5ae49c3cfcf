"""What the registry keeps in Postgres. It stores what it is given and decides nothing."""
