"""Availability events for clients over HTTP: read once from the stream, shared by all readers."""
