"""What a fit gives back; one module per kind of question asked of it."""

from sparselmm.results.core import MixedLMResults

__all__ = ["MixedLMResults"]
