"""The HTTP door: what clients and operators see."""
