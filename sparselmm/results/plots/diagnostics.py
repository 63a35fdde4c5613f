"""Figures of residuals and of random effects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy

from sparselmm.base.types import FloatArray
from sparselmm.inference.effects import factor_table, factor_tables
from sparselmm.inference.estimates import Estimates
from sparselmm.results.plots.figure import pyplot
from sparselmm.results.print.labels import mode_tables, variance_tables

MANY_POINTS = 5_000
"""From this many points on they are drawn small and faint."""

MANY_LEVELS = 60
"""From this many levels on a caterpillar has no labels."""


def diagnostic_plot(
    fitted: FloatArray, studentized: FloatArray, leverage: FloatArray, cooks: FloatArray,
    effects: FloatArray, labels: Sequence[Any],
) -> Any:  # fmt: skip
    """Four panels: spread, shape, influence of rows, shape of the random effects.

    Parameters
    ----------
    fitted, studentized, leverage, cooks : ndarray, (n,)
    effects : ndarray, (m,)
        Standardized random effects.
    labels : sequence, (n,)
        Row labels; the three largest Cook's distances are named.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, axes = pyplot().subplots(2, 2, figsize=(8.0, 6.4), layout="constrained")
    (spread, shape), (influence, groups) = axes
    points(spread, fitted, studentized)
    spread.axhline(0.0, color="0.6", linewidth=0.8)
    spread.set(xlabel="fitted value", ylabel="studentized residual", title="Residuals")
    quantiles(shape, studentized)
    shape.set(title="Normal quantiles of residuals", ylabel="studentized residual")
    points(influence, leverage, cooks)
    middle = 0.5 * (np.nanmin(leverage) + np.nanmax(leverage))
    for i in np.argsort(-np.nan_to_num(cooks))[:3]:
        side, aligned = (4, "left") if leverage[i] < middle else (-4, "right")  # into the panel
        influence.annotate(
            str(labels[i]), (leverage[i], cooks[i]), (side, 0), textcoords="offset points",
            va="center", ha=aligned,
        )  # fmt: skip
    influence.margins(x=0.1, y=0.08)  # room for the names
    influence.set(xlabel="leverage", ylabel="Cook's distance", title="Influence of rows")
    quantiles(groups, effects)
    groups.set(title="Normal quantiles of random effects", ylabel="standardized effect")
    return figure


def ranef_caterpillar(est: Estimates, factor: str | None) -> Any:
    """Caterpillar of one grouping factor, of the first if not given."""
    name = factor_tables(est.terms)[0].name if factor is None else factor
    table = factor_table(est.terms, name, "factor")
    modes, variances = mode_tables(est, [table])[name], variance_tables(est, [table])[name]
    return caterpillar(
        name, list(modes.columns), list(modes.index), modes.to_numpy(),
        np.sqrt(variances.to_numpy()),
    )  # fmt: skip


def caterpillar(
    name: str, columns: Sequence[str], labels: Sequence[Any], modes: FloatArray, sd: FloatArray
) -> Any:
    """Conditional means in order, with intervals of 1.96 conditional standard deviations.

    Parameters
    ----------
    name : str
        Grouping factor.
    columns : sequence of str, (k,)
    labels : sequence, (l,)
    modes, sd : ndarray, (l, k)

    Returns
    -------
    matplotlib.figure.Figure
    """
    few = len(labels) <= MANY_LEVELS
    height = 0.8 + 0.18 * len(labels) if few else 5.0
    figure, axes = pyplot().subplots(
        1, len(columns), figsize=(3.2 * len(columns) + 0.8, max(height, 2.4)), sharey=True,
        squeeze=False, layout="constrained",
    )  # fmt: skip
    order = np.argsort(modes[:, 0], kind="stable")
    at = np.arange(len(labels))
    for j, (axis, column) in enumerate(zip(axes[0], columns, strict=True)):
        half = 1.96 * sd[order, j]
        low, high = modes[order, j] - half, modes[order, j] + half
        axis.hlines(at, low, high, color="C0" if few else "0.8", linewidth=1.0, rasterized=not few)
        axis.axvline(0.0, color="0.6", linewidth=0.8)
        axis.plot(modes[order, j], at, "o", color="C0", markersize=3.5 if few else 1.0)
        axis.set_title(column)
    if few:
        axes[0, 0].set_yticks(at, [str(labels[i]) for i in order], fontsize="small")
    else:
        axes[0, 0].set_yticks([])
    axes[0, 0].set_ylabel(name)
    return figure


def points(axis: Any, x: FloatArray, y: FloatArray) -> None:
    """Points, small and faint where there are many."""
    many = len(x) >= MANY_POINTS
    style = {"markersize": 1.0, "alpha": 0.3} if many else {"markersize": 3.5, "alpha": 0.8}
    axis.plot(x, y, "o", color="C0", markeredgewidth=0, rasterized=many, **style)


def quantiles(axis: Any, values: FloatArray) -> None:
    """Values against those of a normal distribution."""
    values = np.sort(values[np.isfinite(values)])
    n = len(values)
    points(axis, scipy.stats.norm.ppf((np.arange(n) + 0.5) / max(n, 1)), values)
    axis.axline((0.0, 0.0), slope=1.0, color="0.6", linewidth=0.8)
    axis.set_xlabel("normal quantile")
