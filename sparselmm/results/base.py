"""What every part of the results needs: the fit, and labels for its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from sparselmm._typing import FloatArray
from sparselmm.arguments import check_choice
from sparselmm.deviance import PLSFit, ProfiledDeviance
from sparselmm.estimates import Estimates
from sparselmm.formula import BuiltDesign
from sparselmm.inference.ddf import DDF_METHODS, DenominatorDF, denominator_df
from sparselmm.optimize import OptSummary

Vector = Any
"""pandas Series when the user works with pandas, ndarray otherwise."""

Matrix = Any
"""pandas DataFrame when the user works with pandas, ndarray otherwise."""


class ResultsBase:
    """The attributes of :class:`sparselmm.MixedLMResults`, documented there."""

    model: Any
    built: BuiltDesign
    deviance: ProfiledDeviance
    pls: PLSFit
    opt: OptSummary
    use_sqrt: bool
    _est: Estimates

    def _ddf(self, method: str) -> DenominatorDF:
        """Tests of the fixed effects with one method's degrees of freedom, computed once."""
        check_choice(method, "ddf", DDF_METHODS)
        cache: dict[str, DenominatorDF] = self.__dict__.setdefault("_ddf_cache", {})
        if method not in cache:
            like = next((tests for name, tests in cache.items() if name != "z"), None)
            cache[method] = denominator_df(self._est, method, like)
        return cache[method]

    def _vector(self, values: FloatArray, names: Sequence[str]) -> Vector:
        return pd.Series(values, list(names), float) if self.built.pandas else values.copy()

    def _matrix(self, values: FloatArray, names: Sequence[str]) -> Matrix:
        names = list(names)
        return pd.DataFrame(values, names, names) if self.built.pandas else values.copy()

    def _rows(self, values: FloatArray) -> Vector:
        return pd.Series(values, self.built.row_labels) if self.built.pandas else values
