"""Every error and warning the package raises on purpose.

Errors derive from :class:`SparseLMMError` and from the built-in exception a caller
would expect, so both ``except sparselmm.FormulaError`` and ``except ValueError`` work.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable
from functools import lru_cache
from typing import Any


class SparseLMMError(Exception):
    """Base class of every error raised on purpose by sparselmm."""


class InputError(SparseLMMError, ValueError):
    """Base class of errors about what was given.

    Where statsmodels or patsy raise an error class of their own, ours is raised with a class that
    derives from it too, if that package is imported.
    """

    _theirs: tuple[tuple[str, str], ...] = ()
    """Module and name of the classes others raise for the same reason."""

    def __new__(cls, *args: object) -> InputError:
        """Make the error, catchable by others' classes as well."""
        kind: Any = cls
        return super().__new__(_joined(kind, _imported(cls._theirs)), *args)


class FormulaError(InputError):
    """A formula, or a name in it, cannot be understood."""

    _theirs = (("patsy", "PatsyError"),)


class UnknownColumnError(FormulaError, KeyError):
    """A name is neither a column of the data nor known to Python."""

    __str__ = Exception.__str__  # KeyError would show the message in quotes


class NoRandomEffectsError(FormulaError, AttributeError):
    """A model without random effects; statsmodels raises AttributeError without ``groups``."""


class DataError(InputError):
    """What was given cannot be used: wrong type, wrong length, no rows, no variation."""


class ArgumentError(DataError):
    """An argument has a value that it cannot take; the message names the argument."""


class ArgumentTypeError(ArgumentError, TypeError):
    """An argument is of a type that it cannot be, or there is no argument of that name."""


class UnknownNameError(ArgumentError, KeyError):
    """There is nothing of that name in a collection."""

    __str__ = Exception.__str__  # KeyError would show the message in quotes


class MissingDataError(DataError):
    """Missing or infinite values in data that must be finite."""

    _theirs = (("statsmodels.tools.sm_exceptions", "MissingDataError"), ("patsy", "PatsyError"))


class SourceChangedError(DataError):
    """Rows that are read twice were others the second time; the message says where."""


class NotGeneralizedError(DataError, AttributeError):
    """What was asked for exists for linear models only."""


class OtherNameError(SparseLMMError, AttributeError):
    """There is no such attribute; the message names the one that was meant, where it is known."""


class RemovedRowsError(DataError):
    """What was asked for is made of the rows of the fit, which ``remove_data()`` removed."""

    @classmethod
    def of(cls, what: str, kept: bool = True) -> RemovedRowsError:
        """The error for a method or property by its name; ``kept``: the model had its rows."""
        if not kept:
            return cls(
                f"{what} is made of the rows, and the rows of this model were read in partitions "
                "and not kept; make the model with keep_rows=True if they fit in memory, or stream "
                "predictions and residuals with result.augment(source)"
            )
        return cls(
            f"{what} is made of the rows, and the rows of the fit were removed by remove_data(); "
            "ask before that, or fit the model again"
        )


class UnsupportedError(SparseLMMError, NotImplementedError):
    """Part of statsmodels' interface that is not defined for these models, there or here."""


class OtherKindError(UnsupportedError, AttributeError):
    """Fits of another kind have this; the message says what to use with the one at hand."""


class FileError(SparseLMMError, OSError):
    """A file cannot be opened; also of the class the system says why with."""

    def __str__(self) -> str:
        """The message, where OSError would show the number of the error."""
        return str(self.args[0]) if self.args else ""

    @classmethod
    def of(cls, argument: str, file: str, error: OSError) -> FileError:
        """The error for a path, caught as ``FileNotFoundError`` and the like as well."""
        kind: Any = cls
        found: FileError = _joined(kind, (type(error),))(
            f"{argument}: {file!r} cannot be opened: {error.strerror or error}"
        )
        found.errno, found.filename = error.errno, file
        return found


class DiskSpaceError(SparseLMMError, OSError):
    """A factorization on disk has no room, or the disk failed while it was made."""

    def __str__(self) -> str:
        """The message, where OSError would show the number of the error."""
        return str(self.args[0]) if self.args else ""


class MemoryLimitError(SparseLMMError, MemoryError):
    """The planned fit would need more memory than ``memory_limit``."""


class ProviderError(SparseLMMError, ImportError):
    """A sparse factorization is needed, and no package that computes one can be had."""


class MissingPackageError(SparseLMMError, ImportError):
    """Data, or what was asked for, need a package that is not installed; the message names it."""


class ModelWarning(UserWarning):
    """Base class of every warning of this package."""


class ConvergenceWarning(ModelWarning):
    """The optimizer stopped before the convergence criteria were met."""


class SingularMatrixWarning(ModelWarning):
    """The estimated random-effects covariance matrix is singular."""


class BoundaryWarning(SingularMatrixWarning, ConvergenceWarning):
    """A variance is estimated as zero, or nearly so, or a correlation as one in size.

    The estimate is valid and the optimizer has converged. The class derives from
    ConvergenceWarning as well because statsmodels warns of the same with both.
    """


class RankDeficiencyWarning(ModelWarning):
    """Columns of the fixed-effects design were dropped because they are collinear."""


class SpecificationWarning(ModelWarning):
    """The model is valid but probably not the one that was meant."""


class IdentifiabilityWarning(SpecificationWarning):
    """Variances cannot be told apart: only their joint effect is estimated."""


class MonteCarloWarning(ModelWarning):
    """What random probes leave open is not small beside what was asked."""


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
    names = [kind.__name__ for kind in category.__mro__ if issubclass(kind, ModelWarning)]
    kind: Any = category
    return _joined(kind, _imported(("statsmodels.tools.sm_exceptions", n) for n in names))


def _imported(classes: Iterable[tuple[str, str]]) -> tuple[type, ...]:
    """Those classes whose modules are imported, without base classes of others."""
    found = [getattr(sys.modules.get(module), name, None) for module, name in classes]
    kinds = [kind for kind in found if kind is not None]
    return tuple(k for k in kinds if not any(o is not k and issubclass(o, k) for o in kinds))


@lru_cache
def _joined(ours: Any, theirs: tuple[type, ...]) -> Any:
    """``ours``, or a class of the same name that derives from others as well."""
    others = tuple(kind for kind in theirs if not issubclass(ours, kind))
    if not others:
        return ours
    body = {
        "__doc__": ours.__doc__,
        "__module__": __name__,
        "__str__": ours.__str__,
        "__reduce__": lambda self: (ours, self.args),  # pickled as ours
        "message": property(str),  # what patsy's errors have besides
        "origin": None,
    }
    return type(ours.__name__, (ours, *others), body)


_PACKAGE = __name__.partition(".")[0] + "."


def warn_user(message: str, category: type[Warning]) -> None:
    """Warn at the line of the user's code that called into this package."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


__all__ = [
    name for name, kind in list(globals().items())
    if isinstance(kind, type) and issubclass(kind, (SparseLMMError, ModelWarning))
]  # fmt: skip
