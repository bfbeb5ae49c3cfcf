"""Asks every provider what it serves, and tells the registry what each one answered."""
