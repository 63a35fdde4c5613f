"""Comparison with other models, profiles, robust covariances."""

from __future__ import annotations

from sparselmm.results.base import ResultsBase


class ComparisonResults(ResultsBase):
    """Part of :class:`sparselmm.MixedLMResults`."""
