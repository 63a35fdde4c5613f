"""Every error and warning the package raises on purpose.

Errors derive from :class:`SparseLMMError` and from the built-in exception a caller
would expect, so both ``except sparselmm.FormulaError`` and ``except ValueError`` work.
"""

from __future__ import annotations

import sys
from functools import lru_cache


class SparseLMMError(Exception):
    """Base class of every error raised on purpose by sparselmm."""


class FormulaError(SparseLMMError, ValueError):
    """A formula, or a name in it, cannot be understood."""


class DataError(SparseLMMError, ValueError):
    """The data cannot be fitted: wrong type, wrong length, no rows, no variation."""


class MissingDataError(DataError):
    """Missing or infinite values in data that must be finite."""


class MemoryLimitError(SparseLMMError, MemoryError):
    """The planned fit would need more memory than ``memory_limit``."""


class ModelWarning(UserWarning):
    """Base class of every warning of this package."""


class ConvergenceWarning(ModelWarning):
    """The optimizer stopped before the convergence criteria were met."""


class SingularMatrixWarning(ModelWarning):
    """The estimated random-effects covariance matrix is singular."""


class RankDeficiencyWarning(ModelWarning):
    """Columns of the fixed-effects design were dropped because they are collinear."""


class SpecificationWarning(ModelWarning):
    """The model is valid but probably not the one that was meant."""


class ValueWarning(ModelWarning):
    """An argument has no effect."""


def catchable(category: type[ModelWarning]) -> type[Warning]:
    """The class to warn with: ours, and statsmodels' of the same name where that is imported.

    Code written for statsmodels filters by its classes. This package never imports statsmodels;
    once the user has, a warning is raised with a class that derives from both.

    Parameters
    ----------
    category : type
        A warning class of this module.

    Returns
    -------
    type
    """
    theirs = sys.modules.get("statsmodels.tools.sm_exceptions")
    other = getattr(theirs, category.__name__, None)
    return category if other is None else _both(category, other)  # type: ignore[arg-type]


@lru_cache
def _both(ours: type[Warning], theirs: type[Warning]) -> type[Warning]:
    return type(ours.__name__, (ours, theirs), {"__doc__": ours.__doc__, "__module__": __name__})
