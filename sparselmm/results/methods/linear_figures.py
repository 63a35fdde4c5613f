"""Pictures that linear models have beyond those of all models, and how they predict."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base.arguments import check_choice, check_count, shown
from sparselmm.base.exceptions import DataError
from sparselmm.base.types import FloatArray, IntArray
from sparselmm.design.rows import GroupRows
from sparselmm.results.methods.estimates import EstimateResults
from sparselmm.results.methods.figures import FigureResults, _is_number
from sparselmm.results.methods.prediction import PredictionResults
from sparselmm.results.plots import curves, levels, tables
from sparselmm.results.plots.curves import MANY_POINTS

KINDS = ("acf", "semivariogram")

LAGS = 10

BINS = 12
"""Bins of distance of a semivariogram."""

MOST_PAIRS = 2_000_000
"""Most pairs of rows whose distances a semivariogram looks at."""


class LinearFigureResults(EstimateResults, PredictionResults, FigureResults):
    """Figures of any linear fit."""

    def plot_shrinkage(
        self, factor: str | None = None, x: str | None = None, *, ax: Any = None
    ) -> Any:
        """Arrows from each group's own estimates to what the mixed model makes of them.

        Parameters
        ----------
        factor : str, optional
            Grouping factor. Default: the first.
        x : str, optional
            Covariate whose slope differs between groups: intercepts against slopes. Default: the
            second coefficient of the factor, if it is a covariate; otherwise intercepts alone,
            in order.
        ax : matplotlib Axes, optional
            Where to draw.

        Returns
        -------
        matplotlib.figure.Figure

        Notes
        -----
        A group's own estimates are those of least squares in its rows, of what the fixed part of
        the model leaves. Groups that cannot have them are left out.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("sleepstudy")
        >>> fit = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data).fit()
        >>> fit.plot_shrinkage("Subject").axes[0].get_xlabel()
        'Intercept'
        """
        frame = self._figure_frame("plot_shrinkage")
        name, (index, codes) = self._factor_rows(factor)
        modes = self.ranef[name]
        columns = [c for c in modes if c == "Intercept"]
        slopes = [c for c in modes if c in frame.columns and _is_number(self.built, frame, c)]
        if x is not None:
            x = self._covariate(x, frame, "x")
            if x not in slopes:
                raise DataError(f"x: {x!r} has no random slope in {name!r}; there are {slopes}")
            slopes = [x]
        columns = (columns + slopes)[:2]
        if not columns:
            raise DataError(f"factor: {name!r} has neither an intercept nor slopes of covariates")
        rest = self._working_residual()
        own = np.full((len(index), len(columns)), np.nan)
        Z = np.column_stack(
            [np.ones(len(frame)) if c == "Intercept" else frame[c].to_numpy(float) for c in columns]
        )
        for j, rows in enumerate(GroupRows.of(codes, len(index))):
            if len(rows) and np.linalg.matrix_rank(Z[rows]) == len(columns):
                own[j] = np.linalg.lstsq(Z[rows], rest[rows], rcond=None)[0]
        fixed = self.fe_params
        known = dict(zip(self.built.spec.x_names, np.asarray(fixed), strict=True))
        center = [float(known.get(c, 0.0)) for c in columns]
        table = pd.DataFrame(own, index, columns) + center
        shrunk = modes[columns].reindex(index) + center
        return curves.shrinkage_plot(table, shrunk, center, name, ax)

    def plot_ranks(
        self, factor: str | None = None, coefficient: str | None = None, *, alpha: float = 0.05,
        ascending: bool = True, ax: Any = None,
    ) -> Any:  # fmt: skip
        """Expected ranks of the levels of a factor with their intervals.

        Parameters
        ----------
        factor : str, optional
            A key of ``ranef``. Default: the first.
        coefficient : str, optional
            Column of ``ranef``. Default: the only one, or the intercept.
        alpha : float
            One minus the confidence level.
        ascending : bool
            Whether the lowest effect has rank 1.
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
        >>> fit.plot_ranks("sample").axes[0].get_xlabel()
        'rank, from the lowest effect'
        """
        name = self._factor_name(factor)
        table = self.rank(name, coefficient, alpha=alpha, ascending=ascending)
        label = f"rank, from the {'lowest' if ascending else 'highest'} effect"
        return levels.rank_plot(table, "rank_lower", "rank_upper", name, "expected_rank", label, ax)

    def plot_residual_correlation(
        self, time: str | None = None, factor: str | None = None, *, kind: str = "acf",
        lags: int = LAGS, ax: Any = None,
    ) -> Any:  # fmt: skip
        """Correlation of residuals within groups, before and after the model took account of it.

        Parameters
        ----------
        time : str, optional
            Column of the data that orders the rows of a group, or gives their distances. Default:
            the order of the rows.
        factor : str, optional
            Grouping factor. Default: the groups of ``residual=``, or the first.
        kind : {"acf", "semivariogram"}
            Autocorrelation by lag, or half the mean squared difference by distance.
        lags : int
            Largest lag.
        ax : matplotlib Axes, optional
            Where to draw.

        Returns
        -------
        matplotlib.figure.Figure

        Notes
        -----
        "Before" are residuals of the fixed part; "after" are those that random effects and, where
        there is one, the structure of the residuals leave, standardized.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("dietox")
        >>> fit = sparselmm.mixedlm("Weight ~ Time + (Time | Pig)", data).fit()
        >>> fit.plot_residual_correlation("Time").axes[0].get_xlabel()
        'lag'
        """
        kind = check_choice(kind, "kind", KINDS)
        lags = check_count(lags, "lags")
        frame = self._figure_frame("plot_residual_correlation")
        codes = self._residual_groups(factor)
        at = np.arange(len(codes), dtype=float)
        if time is not None:
            if not isinstance(time, str) or time not in frame.columns:
                raise DataError(f"time: no column {shown(time)} in the data of the fit")
            if not pd.api.types.is_numeric_dtype(frame[time].dtype):
                raise DataError(f"time: {time!r} is not numeric")
            at = frame[time].to_numpy(dtype=float)
        before, after = self._working_residual(), self._standardized()
        if kind == "acf":
            order = np.lexsort((at, codes))
            values, limit = _correlations([before, after], codes, order, lags)
            steps = np.arange(1, lags + 1, dtype=float)
            names = ("fixed part alone", "whole model")
            return tables.correlation_plot(steps, values[0], values[1], limit, names, ax)
        distance, values, count = _semivariances([before, after], codes, at)
        return tables.semivariogram_plot(
            distance, values[0], values[1], count, ("fixed part alone", "whole model"), ax
        )

    # --------------------------------------------------------------------------- parts

    def _curve(self, new: pd.DataFrame, groups: bool, bands: str, alpha: float) -> pd.DataFrame:
        if bands == "none":
            mean = self.predict(new, re=groups, unseen="population")
            return pd.DataFrame({"mean": np.asarray(mean)})
        interval = "confidence" if bands == "confidence" else "prediction"
        found = self.get_prediction(new, re=groups, unseen="population", interval=interval)
        table = found.summary_frame(alpha).reset_index(drop=True)
        out = {"mean": table["mean"]}
        if bands in ("confidence", "both"):
            out |= {"low": table["mean_ci_lower"], "high": table["mean_ci_upper"]}
        if bands in ("prediction", "both"):
            out |= {"obs_low": table["obs_ci_lower"], "obs_high": table["obs_ci_upper"]}
        return pd.DataFrame(out)

    def _residual_groups(self, factor: str | None) -> IntArray:
        """Groups within which residuals may be correlated, (n,)."""
        rows = self.built.design.residual
        named = factor is None or isinstance(factor, str)
        if named and rows is not None and rows.kind and factor in (None, rows.group_name):
            return rows.group
        return self._factor_rows(factor)[1][1]

    def _working_residual(self) -> FloatArray:
        return np.asarray(self._raw("marginal"))

    @abstractmethod
    def _standardized(self) -> FloatArray:
        """Residuals that should be alike and uncorrelated, (n,)."""

    def _interval_ends(self, alpha: float, method: str, names: Sequence[str]) -> FloatArray:
        method = check_choice(method, "method", ("wald", "profile", "bootstrap"))
        options = {"which": [n for n in names if n not in self.dropped]} if (
            method == "profile"
        ) else {}  # fmt: skip
        table = self.conf_int(alpha, method=method, **options)
        frame = pd.DataFrame(np.asarray(table, dtype=float)[: len(names), :2])
        frame.index = list(table.index[: len(names)]) if hasattr(table, "index") else list(names)
        return frame.reindex(names).to_numpy()

    def _fixed_values(self) -> Any:
        return self.fe_params

    def _expected_values(self) -> Any:
        return self.fittedvalues


def _correlations(
    series: Sequence[FloatArray], codes: IntArray, order: IntArray, lags: int
) -> tuple[list[FloatArray], FloatArray]:
    """Autocorrelations within groups by lag, and limits of 95 % if there were none."""
    group = codes[order]
    out = [np.full(lags, np.nan) for _ in series]
    limit = np.full(lags, np.nan)
    for k in range(1, lags + 1):
        pairs = (group[k:] == group[:-k]) & (group[k:] >= 0)
        n = int(pairs.sum())
        if n < 2:
            continue
        limit[k - 1] = 1.96 / np.sqrt(n)
        for found, value in zip(out, series, strict=True):
            own = value[order]
            good = np.isfinite(own)
            scale = np.mean(own[good] ** 2)
            both = pairs & good[k:] & good[:-k]
            found[k - 1] = float(np.mean(own[k:][both] * own[:-k][both]) / scale)
    return out, limit


def _semivariances(
    series: Sequence[FloatArray], codes: IntArray, at: FloatArray
) -> tuple[FloatArray, list[FloatArray], FloatArray]:
    """Half the mean squared difference of pairs of rows of a group, by distance."""
    left, right = _pairs(codes)
    distance = np.abs(at[left] - at[right])
    edges = np.unique(np.quantile(distance, np.linspace(0.0, 1.0, BINS + 1)))
    distinct = np.unique(distance)
    if len(distinct) <= BINS:
        edges = np.r_[distinct, np.inf]
    place = np.clip(np.searchsorted(edges, distance, side="right") - 1, 0, len(edges) - 2)
    count = np.bincount(place, minlength=len(edges) - 1).astype(float)
    there = count > 0
    middle = np.bincount(place, distance, len(count))[there] / count[there]
    out = []
    for value in series:
        half = 0.5 * (value[left] - value[right]) ** 2 / np.nanvar(value)
        out.append(np.bincount(place, np.nan_to_num(half), len(count))[there] / count[there])
    return middle, out, count[there]


def _pairs(codes: IntArray) -> tuple[IntArray, IntArray]:
    """Pairs of rows of one group; of groups drawn at random where there are too many."""
    groups = [g for g in GroupRows.of(codes, int(codes.max(initial=-1)) + 1) if len(g) > 1]
    if not groups:
        raise DataError("no group has two rows: there is no correlation within groups to draw")
    left, right, total = [], [], 0
    for j in np.random.default_rng(0).permutation(len(groups)):
        rows = groups[j][:MANY_POINTS]
        a, b = np.triu_indices(len(rows), 1)
        left.append(rows[a])
        right.append(rows[b])
        total += len(a)
        if total > MOST_PAIRS:
            break
    return np.concatenate(left), np.concatenate(right)
