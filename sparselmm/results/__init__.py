"""What a fit gives back; one module per kind of question asked of it."""

from sparselmm.results.compared import ModelComparison, compare
from sparselmm.results.core import MixedLMResults
from sparselmm.results.profiled import ProfileResults

__all__ = ["MixedLMResults", "ModelComparison", "ProfileResults", "compare"]
