"""Designs of rows that are never in memory together: what one pass learns the next one uses."""
