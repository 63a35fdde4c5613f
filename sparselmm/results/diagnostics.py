"""Residuals, leverage, influence and what an expert would look at."""

from __future__ import annotations

from sparselmm.results.base import ResultsBase


class DiagnosticResults(ResultsBase):
    """Part of :class:`sparselmm.MixedLMResults`."""
