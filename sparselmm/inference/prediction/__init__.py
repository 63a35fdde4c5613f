"""Predictions, contrasts of random effects, and their variances."""
