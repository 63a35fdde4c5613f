"""Tables in broom's column names, for LaTeX and for HTML."""

from __future__ import annotations

from sparselmm.results.base import ResultsBase


class TidyResults(ResultsBase):
    """Part of :class:`sparselmm.MixedLMResults`."""
