"""Linear mixed models with large crossed and nested random effects."""

from importlib.metadata import PackageNotFoundError, version

from sparselmm import datasets
from sparselmm.exceptions import (
    ConvergenceWarning,
    DataError,
    FormulaError,
    MemoryLimitError,
    MissingDataError,
    ModelWarning,
    RankDeficiencyWarning,
    SingularMatrixWarning,
    SparseLMMError,
    SpecificationWarning,
    ValueWarning,
)
from sparselmm.formula import VCSpec
from sparselmm.model import MixedLM, mixedlm
from sparselmm.packing import MixedLMParams
from sparselmm.results import MixedLMResults

try:
    __version__ = version("sparselmm")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

__all__ = [
    "ConvergenceWarning",
    "DataError",
    "FormulaError",
    "MemoryLimitError",
    "MissingDataError",
    "MixedLM",
    "MixedLMParams",
    "MixedLMResults",
    "ModelWarning",
    "RankDeficiencyWarning",
    "SingularMatrixWarning",
    "SparseLMMError",
    "SpecificationWarning",
    "VCSpec",
    "ValueWarning",
    "datasets",
    "mixedlm",
]
