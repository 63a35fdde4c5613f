"""What every part of the results needs: the fit, and labels for its numbers."""

from __future__ import annotations

import functools
from abc import ABC
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import pandas as pd

from sparselmm.base.arguments import check_choice, check_list
from sparselmm.base.exceptions import ArgumentError, DataError
from sparselmm.base.types import FloatArray, IntArray
from sparselmm.design import BuiltDesign
from sparselmm.design.exact_labels import label_index
from sparselmm.design.factors import factorize
from sparselmm.design.validate import aligned
from sparselmm.inference.estimates import Estimates
from sparselmm.inference.hypotheses.ddf import DDF_METHODS, DenominatorDF, denominator_df
from sparselmm.inference.prediction import means as prediction
from sparselmm.likelihood.deviance import ProfiledDeviance
from sparselmm.likelihood.evaluations import PLSFit
from sparselmm.likelihood.record import OptSummary
from sparselmm.results.given import Given
from sparselmm.results.print.labels import row_groups

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
        if self.built.layout.sums is None:
            self._need_rows(method.__name__)
        return method(self, *args, **kwargs)

    return cast(Method, checked)


class Labelled(ABC):
    """Numbers of a fit with the labels of its design."""

    built: BuiltDesign

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


class ResultsBase(Labelled):
    """The attributes of :class:`sparselmm.MixedLMResults`, documented there."""

    model: Any
    deviance: ProfiledDeviance
    pls: PLSFit
    opt: OptSummary
    use_sqrt: bool
    given: Given
    _est: Estimates

    def _need_rows(self, what: str) -> None:
        """Refuse after ``remove_data()``."""
        self.built.layout.rows(what)

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

    def _check_plain(self, what: str) -> None:
        """Refuse fits with penalties or parameters held fixed."""
        held = self.given.free is not None or self._est.psi_scale is not None
        if held or self.given.penalized:
            raise DataError(
                f"{what} is for fits without penalties and without parameters held fixed; fit the "
                "model without fe_pen, cov_pen and free"
            )

    def _raw(self, level: str) -> FloatArray:
        return self.built.design.y - prediction.fitted(self._est, level == "conditional")

    def _row_index(self) -> pd.Index:
        labels = self.built.row_labels
        return pd.RangeIndex(self.built.design.n) if labels is None else labels

    def _deleted_groups(self, group: Any, argument: str = "group") -> tuple[pd.Index, IntArray]:
        """Labels of the groups and the group of every row."""
        design = self.built.design
        if not isinstance(group, str):
            check_list(group, argument, "a grouping factor of the model or one label per row")
            if len(group) != design.n:
                raise DataError(
                    f"{argument}: labels need one entry for each of the {design.n} rows of the "
                    f"fit, got {len(group)}"
                )
            return _factor(aligned(group, self.built.row_labels, argument, "the rows of the fit"))
        known = row_groups(design)
        if group in known:
            return known[group]
        frame = self.built.frame
        if frame is not None and group in frame.columns:
            return _factor(frame[group])
        raise DataError(
            f"{argument}: no grouping factor {group!r} in the model; there are: "
            f"{', '.join(known) or 'none'}. Labels of the rows will do as well"
        )


def _factor(labels: Any) -> tuple[pd.Index, IntArray]:
    """Sorted labels and the place of every row's, -1 where it has none."""
    factor = factorize(labels, sort=True)
    return label_index(factor.labels), factor.codes
