"""Linear mixed models with large crossed and nested random effects."""

from importlib.metadata import PackageNotFoundError, version

from sparselmm import datasets
from sparselmm.exceptions import (
    BoundaryWarning,
    ConvergenceWarning,
    DataError,
    FormulaError,
    MemoryLimitError,
    MissingDataError,
    ModelWarning,
    NoRandomEffectsError,
    RankDeficiencyWarning,
    RemovedRowsError,
    SingularMatrixWarning,
    SparseLMMError,
    SpecificationWarning,
    UnknownColumnError,
    ValueWarning,
)
from sparselmm.formula import VCSpec
from sparselmm.generalized import MixedGLM, mixedglm
from sparselmm.likelihood.laplace.mixtures import CustomFamily
from sparselmm.model import MixedLM, mixedlm
from sparselmm.packing import MixedLMParams
from sparselmm.results import MixedLMResults, ModelComparison, ProfileResults, compare
from sparselmm.results.bootstrapped import BootstrapResults
from sparselmm.results.general.core import MixedGLMResults
from sparselmm.results.many import ManyResults
from sparselmm.results.powered import PowerResults
from sparselmm.structures import KnownCovariance, car, pedigree

try:
    __version__ = version("sparselmm")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

__all__ = [
    "BootstrapResults",
    "BoundaryWarning",
    "ConvergenceWarning",
    "CustomFamily",
    "DataError",
    "FormulaError",
    "KnownCovariance",
    "ManyResults",
    "MemoryLimitError",
    "MissingDataError",
    "MixedGLM",
    "MixedGLMResults",
    "MixedLM",
    "MixedLMParams",
    "MixedLMResults",
    "ModelComparison",
    "ModelWarning",
    "NoRandomEffectsError",
    "PowerResults",
    "ProfileResults",
    "RankDeficiencyWarning",
    "RemovedRowsError",
    "SingularMatrixWarning",
    "SparseLMMError",
    "SpecificationWarning",
    "UnknownColumnError",
    "VCSpec",
    "ValueWarning",
    "car",
    "compare",
    "datasets",
    "mixedglm",
    "mixedlm",
    "pedigree",
]
