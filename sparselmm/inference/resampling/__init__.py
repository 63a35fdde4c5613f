"""Simulated responses, the bootstrap and power."""
