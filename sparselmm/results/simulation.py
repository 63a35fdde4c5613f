"""Simulated responses, the bootstrap, refits to other responses."""

from __future__ import annotations

from sparselmm.results.base import ResultsBase


class SimulationResults(ResultsBase):
    """Part of :class:`sparselmm.MixedLMResults`."""
