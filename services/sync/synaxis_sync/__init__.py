"""Reads models.dev once a day and tells the registry what changed."""
