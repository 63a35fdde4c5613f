"""What a fit gives back; one module per kind of question asked of it."""

from sparselmm.results.compare import ModelComparison, compare
from sparselmm.results.core import MixedLMResults
from sparselmm.results.tables.profile import ProfileResults

__all__ = ["MixedLMResults", "ModelComparison", "ProfileResults", "compare"]
