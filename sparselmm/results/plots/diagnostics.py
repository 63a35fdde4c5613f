"""Figures of residuals, influence and collinearity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy

from sparselmm.base.types import FloatArray, IntArray
from sparselmm.results.plots.figure import COLORS, panels

MANY_POINTS = 5_000
"""From this many points on they are drawn small and faint."""

NAMED = 3
"""Outlying residuals that are named."""

MOST_COLUMNS = 12
"""Columns of X whose inflation is drawn."""


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
    """Six panels: spread, shape and scale of residuals, influence, random effects, collinearity.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, axes = panels(2, 3, (11.0, 6.4), figure)
    (spread, shape, scale), (influence, groups, columns) = axes
    far = np.argsort(-np.nan_to_num(np.abs(e.studentized)))[:NAMED]
    points(spread, e.fitted, e.studentized)
    smoother(spread, e.fitted, e.studentized)
    spread.axhline(0.0, color="0.6", linewidth=0.8)
    name_points(spread, e.fitted, e.studentized, e.labels, far)
    spread.set(xlabel="fitted value", ylabel="studentized residual", title="Residuals")
    quantiles(shape, e.studentized)
    shape.set(title="Normal quantiles of residuals", ylabel="studentized residual")
    root = np.sqrt(np.abs(e.studentized))
    points(scale, e.fitted, root)
    smoother(scale, e.fitted, root)
    scale.set(xlabel="fitted value", ylabel="root of |studentized residual|", title="Scale")
    points(influence, e.leverage, e.cooks)
    name_points(influence, e.leverage, e.cooks, e.labels, np.argsort(-np.nan_to_num(e.cooks))[:3])
    influence.margins(x=0.1, y=0.08)  # room for the names
    influence.set(xlabel="leverage", ylabel="Cook's distance", title="Influence of rows")
    groups.set(title="Normal quantiles of random effects", ylabel="standardized effect")
    if np.isfinite(e.effects).any():
        quantiles(groups, e.effects)
    else:
        _empty(groups, "every random effect is zero")
    columns.set(title="Collinearity", xlabel="variance inflation factor")
    if len(e.inflation) < 2:
        _empty(columns, "fewer than two columns")
    else:
        _inflation(columns, e.inflation)
    return figure


def _inflation(axis: Any, inflation: Mapping[str, float]) -> None:
    worst = sorted(inflation.items(), key=lambda item: -item[1])[:MOST_COLUMNS]
    at = -np.arange(len(worst), dtype=float)
    values = [value for _, value in worst]
    axis.hlines(at, 1.0, values, color="0.7", linewidth=1.2)
    axis.plot(values, at, "o", color=COLORS[0], markersize=4)
    axis.axvline(10.0, color="0.6", linestyle="--", linewidth=0.8)
    axis.set_yticks(at, [name for name, _ in worst], fontsize="x-small")
    if max(values) > 30:
        axis.set_xscale("log")
    if len(inflation) > len(worst):
        axis.set_title(f"Collinearity: {len(worst)} worst of {len(inflation)}")


def _empty(axis: Any, why: str) -> None:
    """Say why a panel has nothing in it."""
    axis.text(0.5, 0.5, why, transform=axis.transAxes, ha="center", va="center", color="0.4")
    axis.set(xticks=[], yticks=[])


def name_points(
    axis: Any, x: FloatArray, y: FloatArray, labels: Sequence[Any], which: IntArray
) -> None:
    """Labels beside some points, towards the middle of the panel."""
    middle = 0.5 * (np.nanmin(x) + np.nanmax(x))
    for i in which:
        if np.isfinite(y[i]):
            side, aligned = (4, "left") if x[i] < middle else (-4, "right")
            axis.annotate(
                str(labels[i]), (x[i], y[i]), (side, 0), textcoords="offset points", va="center",
                ha=aligned, fontsize="x-small",
            )  # fmt: skip


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
    axis.set_xlabel("normal quantile")
