"""Linear mixed models with large crossed and nested random effects."""

from importlib.metadata import PackageNotFoundError, version

from sparselmm import datasets
from sparselmm.base.exceptions import (
    BoundaryWarning,
    ConvergenceWarning,
    DataError,
    FormulaError,
    MemoryLimitError,
    MissingDataError,
    ModelWarning,
    NoRandomEffectsError,
    ProviderError,
    RankDeficiencyWarning,
    RemovedRowsError,
    SingularMatrixWarning,
    SparseLMMError,
    SpecificationWarning,
    UnknownColumnError,
    ValueWarning,
)
from sparselmm.base.providers import show_versions
from sparselmm.design import VCSpec
from sparselmm.design.known_covariance import KnownCovariance, car, pedigree
from sparselmm.inference.packing import MixedLMParams
from sparselmm.model.mixedlm import MixedLM, mixedlm
from sparselmm.results import MixedLMResults, ModelComparison, ProfileResults, compare
from sparselmm.results.tables.bootstrap import BootstrapResults
from sparselmm.results.tables.many import ManyResults
from sparselmm.results.tables.power import PowerResults

try:
    __version__ = version("sparselmm")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

__all__ = [
    "BootstrapResults",
    "BoundaryWarning",
    "ConvergenceWarning",
    "DataError",
    "FormulaError",
    "KnownCovariance",
    "ManyResults",
    "MemoryLimitError",
    "MissingDataError",
    "MixedLM",
    "MixedLMParams",
    "MixedLMResults",
    "ModelComparison",
    "ModelWarning",
    "NoRandomEffectsError",
    "PowerResults",
    "ProfileResults",
    "ProviderError",
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
    "mixedlm",
    "pedigree",
    "show_versions",
]
