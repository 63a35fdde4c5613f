"""Every error and warning the package raises on purpose.

Errors derive from :class:`SparseLMMError` and from the built-in exception a caller
would expect, so both ``except sparselmm.FormulaError`` and ``except ValueError`` work.
"""

from __future__ import annotations


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
