"""Figures of random effects: caterpillars, ranks, funnels, ellipses of correlation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy

from sparselmm.base.types import FloatArray
from sparselmm.results.plots.figure import COLORS, axes_of, empty, panels
from sparselmm.results.plots.letters import (
    axis_names,
    fitting,
    legend,
    name_points,
    plain,
    points,
    row_labels,
    whole_steps,
)

MANY_LEVELS = 60
"""From this many levels on only some are labelled."""

LABELLED = 30
"""About how many labels are legible beside a caterpillar."""

NAMED = 5
"""Groups farthest outside a funnel that are named."""


def caterpillar(
    name: str, columns: Sequence[str], labels: Sequence[Any], modes: FloatArray, sd: FloatArray,
    level: float = 0.95, figure: Any = None,
) -> Any:  # fmt: skip
    """Conditional means in order, with intervals; each coefficient in its own order.

    Intervals that leave out zero are in colour, and the title of each panel says how many they
    are. With many levels the first, the last and some in between are labelled.

    Parameters
    ----------
    name : str
        Grouping factor.
    columns : sequence of str, (k,)
    labels : sequence, (l,)
    modes, sd : ndarray, (l, k)
    level : float
        Confidence level.
    """
    l, few = len(labels), len(labels) <= MANY_LEVELS
    height = 0.9 + 0.17 * l if few else 6.5
    figure, axes = panels(1, len(columns), (3.4 * len(columns) + 0.6, max(height, 2.4)), figure)
    z = float(scipy.special.ndtri(0.5 + 0.5 * level))
    at = np.arange(l)
    for j, (axis, column) in enumerate(zip(axes[0], columns, strict=True)):
        order = np.argsort(modes[:, j], kind="stable")
        middle, half = modes[order, j], z * sd[order, j]
        out = np.abs(middle) > half
        for which, color, width in ((~out, "0.65", 1.0), (out, COLORS[0], 1.2)):
            axis.hlines(
                at[which], (middle - half)[which], (middle + half)[which], color=color,
                linewidth=width if few else 0.6, rasterized=not few,
            )  # fmt: skip
            axis.plot(
                middle[which], at[which], "o", color="0.35" if color == "0.65" else color,
                markersize=3.5 if few else 1.2, markeredgewidth=0,
            )  # fmt: skip
        axis.axvline(0.0, color="0.4", linewidth=0.8)
        title = f"{column}: {out.sum():,} of {l:,} away from 0"
        if len(title) > fitting(axis, 0.5, "small"):
            title = title.replace(": ", ":\n")
        axis.set_title(plain(title), fontsize=points(axis, "small"))
        row_labels(axis, at, [labels[i] for i in order], None if few else LABELLED)
        axis.set_ylim(-1, l)
    axis_names(axes[0, 0], y=name)
    figure.supxlabel(
        f"conditional mean with {100 * level:.3g} % interval", fontsize=points(axes[0, 0], "small")
    )
    return figure


def rank_plot(
    table: pd.DataFrame, lowest: str, highest: str, name: str, expected: str, label: str, ax: Any
) -> Any:
    """Expected ranks with their intervals, the first at the top, some levels labelled."""
    l = len(table)
    few = l <= MANY_LEVELS
    figure, axis = axes_of(ax, (5.4, 0.9 + 0.17 * l if few else 6.5))
    order = np.argsort(-table[expected].to_numpy(), kind="stable")
    at = np.arange(l)
    own = table.iloc[order]
    axis.hlines(
        at, own[lowest], own[highest], color="0.65", linewidth=1.2 if few else 0.6,
        rasterized=not few,
    )  # fmt: skip
    axis.plot(own[expected], at, "o", color=COLORS[0], markersize=3.5 if few else 1.5)
    row_labels(axis, at, list(own.index), None if few else LABELLED)
    whole_steps(axis, at)
    axis.axvline(0.5 * (l + 1), color="0.4", linewidth=0.8, linestyle=":")
    axis_names(axis, label, name)
    axis.set_ylim(-1, l)
    return figure


def funnel_plot(
    size: FloatArray, value: FloatArray, sd: FloatArray, names: Sequence[str],
    labels: Sequence[Any], ax: Any,
) -> Any:  # fmt: skip
    """Group means against group size, with limits of 95 and 99.8 % under no difference.

    Parameters
    ----------
    size : ndarray, (l,)
        Rows of each group.
    value : ndarray, (l,)
        Mean residual of the fixed part of each group.
    sd : ndarray, (l,)
        Its standard deviation within a group.
    names : sequence of str
        Of the axes.
    labels : sequence, (l,)
    """
    figure, axis = axes_of(ax, (6.0, 4.2))
    order = np.argsort(size, kind="stable")
    if size.min() == size.max():  # groups of one size: limits are lines across
        order, at = order[[0, 0]], np.array([0.9, 1.1]) * size[0]
    else:
        at = size[order]
    for tail, style in ((0.975, "--"), (0.999, "-")):
        z = float(scipy.special.ndtri(tail))
        for side in (-z, z):
            label = f"{100 * (2 * tail - 1):.3g} %" if side > 0 else None
            axis.plot(at, side * sd[order], style, color="0.5", linewidth=0.9, label=label)
    out = np.abs(value) > float(scipy.special.ndtri(0.999)) * sd
    axis.plot(size[~out], value[~out], "o", color="0.45", markersize=3, alpha=0.6)
    axis.plot(size[out], value[out], "o", color=COLORS[1], markersize=4)
    axis.axhline(0.0, color="0.3", linewidth=0.8)
    if size.max() > 30 * max(size.min(), 1):
        axis.set_xscale("log")
    else:
        whole_steps(axis, size)
    axis_names(axis, *names)
    axis.set_title(
        f"{out.sum():,} of {len(out):,} groups outside 99.8 %", fontsize=points(axis, "small")
    )
    far = np.argsort(-np.abs(value / sd))[:NAMED]
    name_points(axis, size, value, labels, far[out[far]])
    legend([axis])
    return figure


def ellipse_plot(
    modes: FloatArray, psi: FloatArray, columns: Sequence[str], name: str, figure: Any
) -> Any:
    """Pairs of coefficients of every level on ellipses of their estimated covariance.

    Parameters
    ----------
    modes : ndarray, (l, k)
    psi : ndarray, (k, k)
        Covariance of the coefficients.
    columns : sequence of str, (k,)
    name : str
        Grouping factor.
    """
    k = len(columns)
    side = 2.6 * (k - 1) + 1.0
    figure, axes = panels(k - 1, k - 1, (max(side, 4.0), max(side, 3.8)), figure)
    angle = np.linspace(0.0, 2.0 * np.pi, 200)
    circle = np.column_stack([np.cos(angle), np.sin(angle)])
    for i in range(1, k):
        for j in range(k - 1):
            axis = axes[i - 1, j]
            if j >= i:
                axis.set_visible(False)
                continue
            if i == k - 1:
                axis_names(axis, columns[j])
            if j == 0:
                axis_names(axis, y=columns[i])
            if not np.diag(psi)[[j, i]].all():
                empty(axis, "an effect has no variance")
                continue
            axis.plot(modes[:, j], modes[:, i], "o", color="0.45", markersize=2.5, alpha=0.6)
            own = psi[np.ix_([j, i], [j, i])]
            values, vectors = np.linalg.eigh(own)
            root = vectors * np.sqrt(np.maximum(values, 0.0))
            for part, style in ((0.5, "--"), (0.95, "-")):
                ring = np.sqrt(scipy.stats.chi2.ppf(part, 2)) * circle @ root.T
                axis.plot(*ring.T, style, color=COLORS[0], label=f"{part:.0%}")
            sd = np.sqrt(np.diag(own))
            r = own[0, 1] / (sd[0] * sd[1])
            axis.set_title(f"r = {r:.2f}", fontsize=points(axis, "small"))
    legend([axis for axis in axes.flat if axis.get_visible()], name)
    return figure
