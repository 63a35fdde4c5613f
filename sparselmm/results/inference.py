"""Variance components, small-sample tests and intervals of a fitted model."""

from __future__ import annotations

from sparselmm.results.base import ResultsBase


class InferenceResults(ResultsBase):
    """Part of :class:`sparselmm.MixedLMResults`."""
