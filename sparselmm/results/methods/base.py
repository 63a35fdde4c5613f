"""What every part of the results needs: the fit, and labels for its numbers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import pandas as pd

from sparselmm.base.arguments import check_choice
from sparselmm.base.exceptions import ArgumentError, RemovedRowsError
from sparselmm.base.types import FloatArray
from sparselmm.design import BuiltDesign
from sparselmm.inference.estimates import Estimates
from sparselmm.inference.hypotheses.ddf import DDF_METHODS, DenominatorDF, denominator_df
from sparselmm.likelihood.deviance import ProfiledDeviance
from sparselmm.likelihood.engine import ml_minimum
from sparselmm.likelihood.evaluations import PLSFit
from sparselmm.likelihood.optimize import OptSummary
from sparselmm.results.given import Given

Vector = Any
"""pandas Series when the user works with pandas, ndarray otherwise."""

Matrix = Any
"""pandas DataFrame when the user works with pandas, ndarray otherwise."""


Method = TypeVar("Method", bound=Callable[..., Any])


def from_rows(method: Method) -> Method:
    """A method, or the function of a property, that refuses by its name when the rows are gone."""

    @functools.wraps(method)
    def checked(self: ResultsBase, *args: Any, **kwargs: Any) -> Any:
        self._need_rows(method.__name__)
        return method(self, *args, **kwargs)

    return cast(Method, checked)


def from_sums(method: Method) -> Method:
    """As `from_rows`, for what sums over rows that were not kept give as well."""

    @functools.wraps(method)
    def checked(self: ResultsBase, *args: Any, **kwargs: Any) -> Any:
        if self.built.design.sums is None:
            self._need_rows(method.__name__)
        return method(self, *args, **kwargs)

    return cast(Method, checked)


class ResultsBase:
    """The attributes of :class:`sparselmm.MixedLMResults`, documented there."""

    model: Any
    built: BuiltDesign
    deviance: ProfiledDeviance
    pls: PLSFit
    opt: OptSummary
    use_sqrt: bool
    given: Given
    _est: Estimates

    def _ml_deviance(self) -> float:
        """Minimum of -2 log-likelihood of the same model."""
        return ml_minimum(self.deviance, self.pls.theta)[0]

    def _need_rows(self, what: str) -> None:
        """Refuse after ``remove_data()``."""
        if not self.built.design.n:
            raise RemovedRowsError.of(what, self.built.streamed is None)

    def _ddf(self, method: str) -> DenominatorDF:
        """Tests of the fixed effects with one method's degrees of freedom, computed once."""
        method = check_choice(method, "ddf", DDF_METHODS)
        cache: dict[str, DenominatorDF] = self.__dict__.setdefault("_ddf_cache", {})
        if method not in cache:
            if self.given.penalized and method in DDF_METHODS and method != "z":
                raise ArgumentError(
                    f"ddf={method!r} needs a fit by plain ML or REML; this one was penalized"
                )
            like = next(
                (cache[name] for name in DDF_METHODS if name != "z" and name in cache), None
            )
            cache[method] = denominator_df(self._est, method, like)
        return cache[method]

    def _vector(self, values: FloatArray, names: Sequence[str]) -> Vector:
        own = values.copy()  # what the caller changes must not change the results
        return pd.Series(own, list(names), float) if self.built.pandas else own

    def _matrix(self, values: FloatArray, names: Sequence[str]) -> Matrix:
        names = list(names)
        own = values.copy()
        return pd.DataFrame(own, names, names) if self.built.pandas else own

    def _rows(self, values: FloatArray) -> Vector:
        own = values.copy()
        return pd.Series(own, self.built.row_labels) if self.built.pandas else own
