"""Pictures of coefficients, random effects and shares of the variance."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base.arguments import check_flag, check_level, shown
from sparselmm.base.exceptions import ArgumentError, DataError, RemovedRowsError
from sparselmm.base.types import FloatArray, IntArray
from sparselmm.design import BuiltDesign
from sparselmm.inference.effects import factor_table, factor_tables
from sparselmm.inference.estimates import Estimates
from sparselmm.results.plots import curves, levels, tables
from sparselmm.results.print.labels import grouping_names, mode_tables, row_groups, variance_tables


class EffectFigures(ABC):
    """Part of :class:`sparselmm.MixedLMResults` and :class:`sparselmm.MixedGLMResults`."""

    built: BuiltDesign
    _est: Estimates

    def plot_coefficients(
        self, *others: Any, intercept: bool = False, alpha: float = 0.05, method: str = "wald",
        exponentiate: bool = False, ax: Any = None,
    ) -> Any:  # fmt: skip
        """Fixed effects with their intervals, of one or several models side by side.

        Parameters
        ----------
        *others : results
            Further models; a ``{"name": results}`` mapping names them.
        intercept : bool
            Whether to draw the intercept.
        alpha : float
            One minus the confidence level.
        method : str
            Kind of the intervals: "wald", "profile" or "bootstrap".
        exponentiate : bool
            Draw ratios: odds ratios of a logit link, rate ratios of a logarithm.
        ax : matplotlib Axes, optional
            Where to draw.

        Returns
        -------
        matplotlib.figure.Figure

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("dietox")
        >>> fit = sparselmm.mixedlm("Weight ~ Time + Cu + (1 | Pig)", data).fit()
        >>> [t.get_text() for t in fit.plot_coefficients().axes[0].get_yticklabels()]
        ['Cu[T.Cu035]', 'Cu[T.Cu175]', 'Time']
        """
        alpha, intercept = check_level(alpha), check_flag(intercept, "intercept")
        exponentiate = check_flag(exponentiate, "exponentiate")
        named: dict[str, Any] = {"this model": self}
        for i, other in enumerate(others):
            named |= other if isinstance(other, Mapping) else {f"model {i + 2}": other}
        out = {}
        for name, result in named.items():
            if not isinstance(result, EffectFigures):
                raise ArgumentError(
                    f"others must be results of fitted models, got {type(result).__name__}"
                )
            if exponentiate:
                result._check_exponentials()
            table = result._coefficient_table(alpha, method)
            if not intercept:
                table = table.drop("Intercept", errors="ignore")
            out[str(name)] = np.exp(table) if exponentiate else table
        label = "ratio" if exponentiate else "coefficient"
        return curves.coefficient_plot(
            out, label, 100 * (1 - alpha), 1.0 if exponentiate else 0.0, ax
        )

    def _check_exponentials(self) -> None:
        """Refuse exponentials of coefficients where they mean nothing."""
        return

    def _coefficient_table(self, alpha: float, method: str) -> pd.DataFrame:
        """Estimates and ends of intervals of the fixed effects, labelled."""
        found = self._fixed_values()
        names = list(found.index if isinstance(found, pd.Series) else self.built.spec.x_names)
        fixed = np.asarray(found, dtype=np.float64)
        ends = self._interval_ends(alpha, method, names)
        kept = ~np.isnan(fixed)
        table = pd.DataFrame({"estimate": fixed, "low": ends[:, 0], "high": ends[:, 1]}, names)
        return table[kept]

    def plot_ranef(
        self, factor: str | None = None, *, alpha: float = 0.05, figure: Any = None
    ) -> Any:
        """Caterpillar of a factor's random effects, each coefficient in its own order.

        Intervals that leave out zero are in colour, and the titles say how many. The standard
        deviations are conditional, fixed effects taken as known (``ranef_var``). With more than
        60 levels some are labelled, the first and the last among them.

        Parameters
        ----------
        factor : str, optional
            A key of ``ranef``. Default: the first.
        alpha : float
            One minus the confidence level.
        figure : matplotlib Figure, optional
            Where to draw.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        DataError
            When there is no such factor.
        ImportError
            When matplotlib is not installed.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("sleepstudy")
        >>> fit = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data).fit()
        >>> [axes.get_title() for axes in fit.plot_ranef("Subject").axes]
        ['Intercept: 6 of 18 away from 0', 'Days: 8 of 18 away from 0']
        """
        est, alpha = self._est, check_level(alpha)
        if not est.terms:
            raise DataError("plot_ranef: the model has no random effects")
        name = factor_tables(est.terms)[0].name if factor is None else factor
        table = factor_table(est.terms, name, "factor")
        modes, variances = mode_tables(est, [table])[name], variance_tables(est, [table])[name]
        return levels.caterpillar(
            name, list(modes.columns), list(modes.index), modes.to_numpy(),
            np.sqrt(variances.to_numpy()), 1.0 - alpha, figure,
        )  # fmt: skip

    def plot_ranef_correlation(self, factor: str | None = None, *, figure: Any = None) -> Any:
        """Pairs of random coefficients on ellipses of 50 and 95 % of their covariance.

        Parameters
        ----------
        factor : str, optional
            A key of ``ranef``. Default: the first with two coefficients or more.
        figure : matplotlib Figure, optional
            Where to draw.

        Returns
        -------
        matplotlib.figure.Figure

        Notes
        -----
        Predicted effects are shrunken, so that they spread less than the ellipses do.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("sleepstudy")
        >>> fit = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data).fit()
        >>> fit.plot_ranef_correlation().axes[0].get_title()
        'r = 0.07'
        """
        terms = self._est.terms
        several = [t for t in factor_tables(terms) if len(t.columns) > 1]
        if factor is None:
            if not several:
                raise DataError(
                    "plot_ranef_correlation: no grouping factor has two random coefficients"
                )
            factor = several[0].name
        table = factor_table(terms, factor, "factor")
        if len(table.columns) < 2:
            raise DataError(f"factor: {factor!r} has one random coefficient; nothing correlates")
        psi = np.zeros((len(table.columns), len(table.columns)))
        at = 0
        for t in table.terms:
            own = np.asarray(self._est.psi[t])
            k = len(own)
            psi[at : at + k, at : at + k] = own
            at += k
        modes = mode_tables(self._est, [table])[factor].to_numpy()
        return levels.ellipse_plot(modes, psi, list(table.columns), factor, figure)

    def plot_funnel(self, factor: str | None = None, *, ax: Any = None) -> Any:
        """Mean residual of every group against its size, with limits under no difference.

        Parameters
        ----------
        factor : str, optional
            Grouping factor. Default: the first.
        ax : matplotlib Axes, optional
            Where to draw.

        Returns
        -------
        matplotlib.figure.Figure

        Notes
        -----
        What the fixed part leaves, averaged over the rows of a group; groups outside the limits
        of 95 and 99.8 % differ by more than the residual variance alone would make them
        (Spiegelhalter 2005, *Statistics in Medicine* 24, 1185-1202).

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("Penicillin")
        >>> fit = sparselmm.mixedlm("diameter ~ 1 + (1 | plate) + (1 | sample)", data).fit()
        >>> fit.plot_funnel("plate").axes[0].get_xlabel()
        'rows per plate'
        """
        self._figure_frame("plot_funnel")
        name, (index, codes) = self._factor_rows(factor)
        rest, variance = self._working_residual(), self._row_variance()
        inside = (codes >= 0) & np.isfinite(rest)
        size = np.bincount(codes[inside], minlength=len(index)).astype(float)
        there = size > 0
        total = np.bincount(codes[inside], rest[inside], len(index))
        spread = np.bincount(codes[inside], variance[inside], len(index))
        mean, sd = total[there] / size[there], np.sqrt(spread[there]) / size[there]
        labels = list(index[there])
        names = [f"rows per {name}", f"mean residual of {self._response_label(False)}"]
        return levels.funnel_plot(size[there], mean, sd, names, labels, ax)

    def _factor_rows(self, factor: str | None) -> tuple[str, tuple[pd.Index, IntArray]]:
        name = self._factor_name(factor)
        return name, row_groups(self.built.design)[name]

    def _factor_name(self, factor: str | None) -> str:
        known = grouping_names(self.built.layout)
        if not known:
            raise DataError("the model has no grouping factor")
        name = known[0] if factor is None else factor
        if not isinstance(name, str) or name not in known:
            raise DataError(
                f"factor: no grouping factor {shown(factor)} in the model; there are: "
                f"{', '.join(known)}"
            )
        return name

    @abstractmethod
    def _fixed_values(self) -> Any:
        """Estimates of the fixed effects, (p,)."""

    @abstractmethod
    def _working_residual(self) -> FloatArray:
        """What the fixed part leaves of the rows, (n,)."""

    @abstractmethod
    def _row_variance(self) -> FloatArray:
        """Residual variance of the rows, (n,)."""

    @abstractmethod
    def _interval_ends(self, alpha: float, method: str, names: Sequence[str]) -> FloatArray:
        """Ends of intervals of the fixed effects, (p, 2)."""

    def _figure_frame(self, what: str) -> pd.DataFrame:
        """The rows of the fit with their columns."""
        if self.built.spec.formula is None:
            raise DataError(f"{what} needs a formula: fit the model with from_formula")
        if self.built.frame is None:
            raise RemovedRowsError.of(what, self.built.streamed is None)
        return self.built.frame

    def _response_label(self, categories: bool) -> str:
        return "probability" if categories else str(self.built.layout.y_name)


class ShareFigures(ABC):
    """Part of :class:`sparselmm.MixedLMResults` and :class:`sparselmm.MixedGLMResults`."""

    def plot_variance_shares(self, *, ax: Any = None) -> Any:
        """Shares of the variance that fixed effects, random effects and residuals have.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw.

        Returns
        -------
        matplotlib.figure.Figure

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("Penicillin")
        >>> fit = sparselmm.mixedlm("diameter ~ 1 + (1 | plate) + (1 | sample)", data).fit()
        >>> fit.plot_variance_shares().axes[0].get_xlabel()
        'share of the variance'
        """
        return tables.share_plot(self._variance_shares(), ax)

    @abstractmethod
    def _variance_shares(self) -> dict[str, float]:
        """Shares of the variance, by what they come from."""
