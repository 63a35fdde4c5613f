"""Intervals of variance parameters and fixed effects, by profiles and constraints."""
