"""Figures of residuals, influence and collinearity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy

from sparselmm.base.types import FloatArray
from sparselmm.results.plots.figure import COLORS, empty, in_grid, panels
from sparselmm.results.plots.letters import axis_names, name_points, row_labels
from sparselmm.results.plots.letters import points as letters

MANY_POINTS = 5_000
"""From this many points on they are drawn small and faint."""

NAMED = 3
"""Outlying residuals that are named."""

MOST_COLUMNS = 12
"""Columns of X whose inflation is drawn, the largest first."""

TITLES = ("Residuals", "Quantiles", "Scale", "Influence", "Random effects", "Collinearity")


@dataclass(frozen=True)
class Evidence:
    """What the panels show.

    Attributes
    ----------
    fitted, studentized, leverage, cooks : ndarray, (n,)
    effects : ndarray, (m,)
        Standardized random effects.
    labels : sequence, (n,)
        Row labels.
    inflation : mapping of str to float
        Variance inflation of the columns of X.
    """

    fitted: FloatArray
    studentized: FloatArray
    leverage: FloatArray
    cooks: FloatArray
    effects: FloatArray
    labels: Sequence[Any]
    inflation: Mapping[str, float]


def diagnostic_plot(e: Evidence, figure: Any = None) -> Any:
    """Six panels: spread, shape and scale of residuals, influence, random effects, collinearity."""
    figure, axes = panels(*in_grid(6, 3, figure), (9.0, 5.6), figure)
    spread, shape, scale, influence, groups, columns = axes.flat
    far = np.argsort(-np.nan_to_num(np.abs(e.studentized)))[:NAMED]
    points(spread, e.fitted, e.studentized)
    smoother(spread, e.fitted, e.studentized)
    spread.axhline(0.0, color="0.6", linewidth=0.8)
    name_points(spread, e.fitted, e.studentized, e.labels, far)
    axis_names(spread, "fitted value", "studentized residual")
    quantiles(shape, e.studentized)
    axis_names(shape, y="studentized residual")
    root = np.sqrt(np.abs(e.studentized))
    points(scale, e.fitted, root)
    smoother(scale, e.fitted, root)
    axis_names(scale, "fitted value", "root of |residual|")
    points(influence, e.leverage, e.cooks)
    name_points(influence, e.leverage, e.cooks, e.labels, np.argsort(-np.nan_to_num(e.cooks))[:3])
    influence.margins(x=0.1, y=0.08)  # room for the names
    axis_names(influence, "leverage", "Cook's distance")
    axis_names(groups, y="standardized effect")
    if np.isfinite(e.effects).any():
        quantiles(groups, e.effects)
    else:
        empty(groups, "every random effect is zero")
    axis_names(columns, "variance inflation")
    if len(e.inflation) < 2:
        empty(columns, "fewer than two columns")
    else:
        _inflation(columns, e.inflation)
    shown = min(len(e.inflation), MOST_COLUMNS)
    last = TITLES[-1] + (f", {shown} of {len(e.inflation)}" if shown < len(e.inflation) else "")
    for axis, title in zip(axes.flat, (*TITLES[:-1], last), strict=True):
        axis.set_title(title, fontsize=letters(axis))
    return figure


def _inflation(axis: Any, inflation: Mapping[str, float]) -> None:
    worst = sorted(inflation.items(), key=lambda item: -item[1])[:MOST_COLUMNS]
    at = -np.arange(len(worst), dtype=float)
    values = [value for _, value in worst]
    axis.hlines(at, 1.0, values, color="0.7", linewidth=1.2)
    axis.plot(values, at, "o", color=COLORS[0], markersize=4)
    axis.axvline(10.0, color="0.6", linestyle="--", linewidth=0.8)
    row_labels(axis, at, [name for name, _ in worst])
    if max(values) > 30:
        axis.set_xscale("log")


def smoother(axis: Any, x: FloatArray, y: FloatArray) -> None:
    """Means of y in equal shares of the rows, by x."""
    good = np.isfinite(x) & np.isfinite(y)
    x, y = x[good], y[good]
    bins = int(np.clip(len(x) // 10, 0, 15))
    if bins < 3 or np.ptp(x) == 0:
        return
    parts = np.array_split(np.argsort(x, kind="stable"), bins)
    axis.plot(
        [x[p].mean() for p in parts], [y[p].mean() for p in parts], color=COLORS[1], linewidth=1.4
    )


def points(axis: Any, x: FloatArray, y: FloatArray) -> None:
    """Points, small and faint where there are many."""
    many = len(x) >= MANY_POINTS
    style = {"markersize": 1.0, "alpha": 0.3} if many else {"markersize": 3.5, "alpha": 0.8}
    axis.plot(x, y, "o", color=COLORS[0], markeredgewidth=0, rasterized=many, **style)


def quantiles(axis: Any, values: FloatArray) -> None:
    """Values against those of a normal distribution, with a band of 95 % for each of them."""
    values = np.sort(values[np.isfinite(values)])
    n = len(values)
    rank = np.arange(1, n + 1)
    at = scipy.special.ndtri((rank - 0.5) / max(n, 1))
    low, high = (scipy.stats.beta.ppf(p, rank, n + 1 - rank) for p in (0.025, 0.975))
    axis.fill_between(
        at, scipy.special.ndtri(low), scipy.special.ndtri(high), color="0.85", linewidth=0, zorder=0
    )
    points(axis, at, values)
    axis.axline((0.0, 0.0), slope=1.0, color="0.6", linewidth=0.8)
    axis_names(axis, "normal quantile")
