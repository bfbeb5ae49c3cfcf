"""Tools for working on Synaxis itself."""
