"""Results of generalized models."""

from sparselmm.results.general.core import MixedGLMResults

__all__ = ["MixedGLMResults"]
