"""Rows with what the fit says of them, joint tests, figures, files."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import scipy.stats as st

from sparselmm.base import storage
from sparselmm.base.arguments import check_numbers, wrong_type
from sparselmm.base.exceptions import DataError
from sparselmm.inference.hypotheses.hypotheses import dependence, root_of, squared_length
from sparselmm.likelihood.laplace.chosen import base_of
from sparselmm.results.general.estimates import EstimateResults
from sparselmm.results.general.prediction import PredictionResults
from sparselmm.results.plots import diagnostics as plots_diagnostics
from sparselmm.results.plots.figure import panels
from sparselmm.results.plots.letters import axis_names
from sparselmm.results.plots.letters import points as letters


class ExtraResults(EstimateResults, PredictionResults):
    """Part of :class:`sparselmm.MixedGLMResults`."""

    @property
    def df_resid(self) -> int:
        """Rows less parameters."""
        return int(self.model.nobs) - len(self.opt.x)

    def cov_params(self) -> pd.DataFrame:
        """Covariance matrix of `params`, those of variances left out; NaN for dropped columns."""
        numbers, names = self.numbers, list(self._coefficients.index)
        kept = np.flatnonzero(~np.isnan(numbers.beta))
        n = len(numbers.beta)
        at = np.concatenate([kept, np.arange(n, n + len(numbers.parts[2]))])
        out = np.full((len(names), len(names)), np.nan)
        out[np.ix_(at, at)] = numbers.joint
        return pd.DataFrame(out, names, names)

    def wald_test(self, contrasts: Any, value: Any = 0.0) -> pd.Series:
        """Joint Wald test of linear hypotheses about `params`.

        Parameters
        ----------
        contrasts : str, sequence of str, or array-like, (m, number of params)
            Names of coefficients that are zero together, or rows of the hypothesis.
        value : float or array-like, (m,)
            What the combinations are under the hypothesis.

        Returns
        -------
        Series
            ``chi2``, ``df``, ``pvalue``.

        Raises
        ------
        DataError
            When a name is unknown, the shape is wrong, or the rows depend on each other.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("cbpp")
        >>> fit = sparselmm.mixedglm(
        ...     "cbind(incidence, size - incidence) ~ period + (1 | herd)", data).fit()
        >>> test = fit.wald_test(["period[T.2]", "period[T.3]", "period[T.4]"])
        >>> print(f"{test.chi2:.2f} {test.df:.0f}")
        24.95 3
        """
        params = self._coefficients.estimate
        names = list(params.index)
        L = self._rows_of(contrasts, names)
        value = check_numbers(value, "value")
        if value.shape not in ((), (len(L),)):
            raise DataError(f"value has shape {value.shape}; give one number, or {len(L)}")
        inner = (L != 0).any(axis=0)
        estimate = L[:, inner] @ params.to_numpy()[inner] - value
        V = self.cov_params().to_numpy()[np.ix_(inner, inner)]
        known = bool(np.isfinite(V).all())
        if dependence(L[:, inner] * (np.sqrt(np.diag(V)) if known else 1.0))[0] < len(L):
            raise DataError("the rows of the hypothesis depend on each other; leave some out")
        chi2 = squared_length(estimate, L[:, inner] @ root_of(V), len(L))[0] if known else np.nan
        return pd.Series({"chi2": chi2, "df": len(L), "pvalue": float(st.chi2.sf(chi2, len(L)))})

    def _rows_of(self, contrasts: Any, names: list[str]) -> Any:
        if isinstance(contrasts, str):
            contrasts = [contrasts]
        if not hasattr(contrasts, "__len__"):
            raise wrong_type("contrasts", "names of coefficients, or rows of numbers", contrasts)
        if len(contrasts) and all(isinstance(c, str) for c in contrasts):
            unknown = [c for c in contrasts if c not in names]
            if unknown:
                raise DataError(
                    f"contrasts: no coefficient {unknown[0]!r}; there are {', '.join(names)}"
                )
            return np.eye(len(names))[[names.index(c) for c in contrasts]]
        L = np.atleast_2d(check_numbers(contrasts, "contrasts"))
        if L.shape[1] != len(names):
            raise DataError(f"contrasts have {L.shape[1]} columns; params has {len(names)}")
        return L

    def augment(self) -> pd.DataFrame:
        """The rows of the fit with ``.fitted``, ``.eta``, ``.fixed`` (predictor without random
        effects) and ``.resid`` (quantile residuals).

        Returns
        -------
        DataFrame, (n, ...)
        """  # noqa: D205
        frame = self.built.frame
        if frame is None:
            design = self.built.design
            frame = pd.DataFrame(design.X, columns=list(design.x_names))
        columns = {
            ".fitted": np.asarray(self.fittedvalues),
            ".eta": self._eta(),
            ".fixed": self._eta(False),
            ".resid": np.asarray(self.residuals("quantile")),
        }
        return frame.assign(**columns)

    # ---------------------------------------------------------------------------- figures

    def plot_diagnostics(self, seed: int = 0, *, figure: Any = None) -> Any:
        """Quantile residuals: their distribution, and their spread over the predictor.

        Parameters
        ----------
        seed : int
            Draws of the residuals of a discrete response.
        figure : matplotlib Figure, optional
            Where to draw.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        ImportError
            When matplotlib is not installed.
        """
        residuals = np.asarray(self.residuals("quantile", seed))
        figure, axes = panels(1, 2, (9.0, 4.0), figure)
        left, right = axes[0]
        plots_diagnostics.quantiles(left, residuals)
        axis_names(left, y="quantile residual")
        plots_diagnostics.points(right, self._eta(), residuals)
        right.axhline(0.0, color="0.6", linewidth=0.8)
        axis_names(right, "linear predictor", "quantile residual")
        title = f"{base_of(self.family).name}, {self.family.link} link"
        figure.suptitle(title, fontsize=letters(left))
        return figure

    # ------------------------------------------------------------------------------ files

    def save(self, fname: storage.File) -> None:
        """Pickle the results.

        Parameters
        ----------
        fname : path or binary file
        """
        storage.save(self, fname)

    @classmethod
    def load(cls, fname: storage.File) -> Any:
        """Read results that :meth:`save` wrote. Only load files you trust.

        Parameters
        ----------
        fname : path or binary file
        """
        return storage.load(cls, fname)
