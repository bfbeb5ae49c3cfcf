"""The connection to a provider, behind one small interface."""
