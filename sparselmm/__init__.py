"""Linear mixed models with large crossed and nested random effects."""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from sparselmm.base import exceptions
from sparselmm.base.exceptions import (
    ArgumentError,
    BoundaryWarning,
    ConvergenceWarning,
    DataError,
    DiskSpaceError,
    FileError,
    FormulaError,
    IdentifiabilityWarning,
    MemoryLimitError,
    MissingDataError,
    MissingPackageError,
    ModelWarning,
    MonteCarloWarning,
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
from sparselmm.base.other_names import of_module
from sparselmm.base.providers import show_versions
from sparselmm.design import VCSpec
from sparselmm.inference.packing import MixedLMParams
from sparselmm.model.mixedlm import MixedLM, mixedlm
from sparselmm.model.mmrm import mmrm
from sparselmm.results.core import MixedLMResults

if TYPE_CHECKING:
    from sparselmm import datasets
    from sparselmm.design.known_covariance import KnownCovariance
    from sparselmm.design.relationships import car, pedigree
    from sparselmm.likelihood.laplace.mixtures import CustomFamily
    from sparselmm.model.mixedglm import MixedGLM, mixedglm
    from sparselmm.results.compare import ModelComparison, compare
    from sparselmm.results.general.core import MixedGLMResults
    from sparselmm.results.print.citation import citation
    from sparselmm.results.print.polars import to_polars
    from sparselmm.results.tables.bootstrap import BootstrapResults
    from sparselmm.results.tables.many import ManyResults
    from sparselmm.results.tables.power import PowerResults
    from sparselmm.results.tables.profile import ProfileResults

    __version__: str

LATE = {
    "BootstrapResults": "results.tables.bootstrap",
    "CustomFamily": "likelihood.laplace.mixtures",
    "KnownCovariance": "design.known_covariance",
    "ManyResults": "results.tables.many",
    "MixedGLM": "model.mixedglm",
    "MixedGLMResults": "results.general.core",
    "ModelComparison": "results.compare",
    "PowerResults": "results.tables.power",
    "ProfileResults": "results.tables.profile",
    "car": "design.relationships",
    "citation": "results.print.citation",
    "compare": "results.compare",
    "mixedglm": "model.mixedglm",
    "pedigree": "design.relationships",
    "to_polars": "results.print.polars",
}
"""Public names whose modules a fit does not need: loaded when first asked for."""

sys.modules[f"{__name__}.exceptions"] = exceptions  # the name under which users import them


def __getattr__(name: str) -> Any:
    """Load what is first asked for: the version, the data sets, the names in `LATE`."""
    if name == "__version__":
        value: Any = _version()
    elif name == "datasets":
        value = import_module("sparselmm.datasets")
    elif name in LATE:
        value = getattr(import_module(f"sparselmm.{LATE[name]}"), name)
    else:
        raise of_module(name, () if name.startswith("_") else __dir__())
    globals()[name] = value
    return value


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("sparselmm")
    except PackageNotFoundError:  # a source tree that was never installed
        return "0+unknown"


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


__all__ = [
    "ArgumentError",
    "BootstrapResults",
    "BoundaryWarning",
    "ConvergenceWarning",
    "CustomFamily",
    "DataError",
    "DiskSpaceError",
    "FileError",
    "FormulaError",
    "IdentifiabilityWarning",
    "KnownCovariance",
    "ManyResults",
    "MemoryLimitError",
    "MissingDataError",
    "MissingPackageError",
    "MixedGLM",
    "MixedGLMResults",
    "MixedLM",
    "MixedLMParams",
    "MixedLMResults",
    "ModelComparison",
    "ModelWarning",
    "MonteCarloWarning",
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
    "citation",
    "compare",
    "datasets",
    "exceptions",
    "mixedglm",
    "mixedlm",
    "mmrm",
    "pedigree",
    "show_versions",
    "to_polars",
]
