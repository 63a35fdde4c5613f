"""Predictions, random effects and marginal means with their uncertainty."""

from __future__ import annotations

from sparselmm.results.base import ResultsBase


class PredictionResults(ResultsBase):
    """Part of :class:`sparselmm.MixedLMResults`."""
