"""The same numbers with labels: what a fit gives back, one module per kind of question."""

from sparselmm.results.core import MixedLMResults

__all__ = ["MixedLMResults"]
