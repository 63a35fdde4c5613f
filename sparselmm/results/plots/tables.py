"""Figures of what tables hold: bootstraps, power, influence, criteria, shares, correlations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy

from sparselmm.base.types import FloatArray
from sparselmm.results.plots.figure import COLORS, LINES, MARKERS, axes_of, in_grid, panels


def density_plot(
    replicates: pd.DataFrame, estimate: pd.Series, ends: pd.DataFrame, figure: Any
) -> Any:
    """Smoothed densities of replicates, with the estimate and its interval."""
    rows, columns = in_grid(replicates.shape[1], 3)
    figure, axes = panels(rows, columns, (3.0 * columns, 2.3 * rows), figure)
    for axis in axes.flat[replicates.shape[1] :]:
        axis.set_visible(False)
    for name, axis in zip(replicates, axes.flat, strict=False):
        values = replicates[name].to_numpy(dtype=float)
        values = values[np.isfinite(values)]
        axis.set_title(str(name), fontsize="small")
        axis.set_yticks([])
        if len(values) < 3 or np.ptp(values) <= 1e-12 * np.abs(values).max(initial=1.0):
            axis.text(0.5, 0.5, "all replicates alike", transform=axis.transAxes, ha="center")
            continue
        x, density = smoothed(values)
        axis.fill_between(x, density, color=COLORS[0], alpha=0.25, linewidth=0)
        axis.plot(x, density, color=COLORS[0], linewidth=1.2)
        low, high = (float(v) for v in ends.loc[name])
        axis.axvline(float(estimate[name]), color="black", linewidth=1.2)
        for end in (low, high):
            axis.axvline(end, color="0.4", linestyle="--", linewidth=1.0)
        axis.set_ylim(bottom=0.0)
    return figure


def ridge_plot(replicates: pd.DataFrame, estimate: pd.Series, ax: Any) -> Any:
    """Densities of standardized replicates one above the other."""
    names = list(replicates)
    figure, axis = axes_of(ax, (5.6, 0.9 + 0.45 * len(names)))
    for i, name in enumerate(names):
        values = replicates[name].to_numpy(dtype=float)
        values = values[np.isfinite(values)]
        sd = values.std()
        if len(values) < 3 or not sd > 0:
            continue
        x, density = smoothed((values - float(estimate[name])) / sd)
        axis.fill_between(
            x, -i, -i + 1.4 * density / density.max(), color=COLORS[i % len(COLORS)], alpha=0.5,
            linewidth=0.8, edgecolor="black", zorder=i,
        )  # fmt: skip
    axis.axvline(0.0, color="0.4", linewidth=0.8)
    axis.set_yticks([-float(i) for i in range(len(names))], names, fontsize="small")
    axis.set_xlabel("(replicate - estimate) / standard error")
    return figure


def smoothed(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """A kernel density on 200 points."""
    spread = 0.15 * np.ptp(values)
    x = np.linspace(values.min() - spread, values.max() + spread, 200)
    return x, scipy.stats.gaussian_kde(values)(x)


def power_plot(frame: pd.DataFrame, x: str, series: Sequence[str], ax: Any) -> Any:
    """Power with its intervals over a design's size or an effect's."""
    figure, axis = axes_of(ax, (5.6, 3.8))
    parts = list(frame.groupby(list(series), sort=False)) if series else [((), frame)]
    for i, (key, part) in enumerate(parts):
        color = COLORS[i % len(COLORS)]
        at = part[x].to_numpy(dtype=float)
        axis.fill_between(at, part["lower"], part["upper"], color=color, alpha=0.2)
        axis.vlines(at, part["lower"], part["upper"], color=color, linewidth=1.0)
        axis.plot(
            at, part["power"], color=color, linestyle=LINES[i % len(LINES)],
            marker=MARKERS[i % len(MARKERS)], label=", ".join(map(str, np.atleast_1d(key))),
        )  # fmt: skip
    axis.axhline(0.8, color="0.5", linewidth=0.8, linestyle=":")
    axis.set(xlabel=x, ylabel="power", ylim=(0.0, 1.02))
    if not x:
        axis.set_xticks([])
    if len(parts) > 1:
        axis.legend(fontsize="small", frameon=False, title=", ".join(series))
    return figure


def influence_plot(
    labels: Sequence[Any], cooks: FloatArray, shift: pd.DataFrame, figure: Any, named: int = 5
) -> Any:
    """Cook's distances in order, and the largest changes of the coefficients in standard errors."""
    figure, axes = panels(1, 2, (9.0, 4.0), figure)
    left, right = axes[0]
    n = len(cooks)
    left.vlines(np.arange(n), 0.0, cooks, color=COLORS[0], linewidth=max(0.4, min(2.0, 200 / n)))
    for i in np.argsort(-np.nan_to_num(cooks))[:named]:
        left.annotate(
            str(labels[i]), (i, cooks[i]), (0, 2), textcoords="offset points", ha="center",
            fontsize="x-small",
        )  # fmt: skip
    left.set(xlabel="deleted", ylabel="Cook's distance", ylim=(0.0, None))
    values = shift.to_numpy(dtype=float)
    for j in range(shift.shape[1]):
        own = values[:, j]
        right.plot(own, np.full(n, -j), "|", color="0.4", markersize=9, alpha=0.7)
        i = int(np.argmax(np.nan_to_num(np.abs(own))))
        right.plot(own[i], -j, "o", color=COLORS[1], markersize=4)
        right.annotate(
            str(labels[i]), (own[i], -j), (0, 6), textcoords="offset points", ha="center",
            fontsize="x-small",
        )  # fmt: skip
    right.axvline(0.0, color="0.6", linewidth=0.8, zorder=0)
    right.set_yticks([-float(j) for j in range(shift.shape[1])], list(shift), fontsize="small")
    right.set(xlabel="change of the coefficient in standard errors")
    right.set_ylim(-shift.shape[1] + 0.4, 0.7)
    return figure


def criteria_plot(table: pd.DataFrame, criteria: Sequence[str], ax: Any) -> Any:
    """Criteria of several models above the least of each."""
    figure, axis = axes_of(ax, (5.6, 1.2 + 0.35 * len(table)))
    at = np.arange(len(table), dtype=float)
    for i, name in enumerate(criteria):
        value = table[name].to_numpy(dtype=float)
        axis.plot(
            value - np.nanmin(value), -at + 0.15 * (i - 0.5 * (len(criteria) - 1)),
            MARKERS[i % len(MARKERS)], color=COLORS[i % len(COLORS)], label=name,
        )  # fmt: skip
    axis.axvline(0.0, color="0.6", linewidth=0.8, zorder=0)
    axis.set_yticks(-at, [str(name) for name in table.index], fontsize="small")
    axis.set_ylim(-len(table) + 0.4, 0.6)
    axis.set_xlabel("above the least")
    axis.legend(fontsize="small", frameon=False)
    return figure


def share_plot(shares: Mapping[str, float], ax: Any) -> Any:
    """Shares of the variance as one bar, labelled."""
    figure, axis = axes_of(ax, (6.4, 1.9))
    left = 0.0
    for i, (name, share) in enumerate(shares.items()):
        if share < 1e-9:
            continue
        shade = COLORS[i % len(COLORS)]
        axis.barh(
            0, share, left=left, color=shade, alpha=0.75, edgecolor="white",
            hatch=("", "//", "..", "xx")[i % 4], label=f"{name} {share:.1%}",
        )  # fmt: skip
        left += share
    axis.set(xlim=(0.0, max(left, 1.0)), yticks=[], xlabel="share of the variance")
    figure.legend(loc="outside upper center", ncols=3, fontsize="small", frameon=False)
    return figure


def correlation_plot(
    lags: FloatArray, before: FloatArray, after: FloatArray | None, limit: FloatArray,
    names: Sequence[str], ax: Any,
) -> Any:  # fmt: skip
    """Correlation of residuals over lags, before and after the model took account of it."""
    figure, axis = axes_of(ax, (5.8, 3.6))
    width = 0.18
    axis.fill_between(lags, -limit, limit, color="0.9", label="95 % if none", zorder=0)
    series = [(before, names[0], COLORS[1], "o")]
    if after is not None:
        series.append((after, names[1], COLORS[0], "s"))
    for i, (value, name, color, marker) in enumerate(series):
        at = lags + width * (i - 0.5 * (len(series) - 1))
        axis.vlines(at, 0.0, value, color=color, linewidth=1.5)
        axis.plot(at, value, marker, color=color, markersize=4, label=name)
    axis.axhline(0.0, color="0.3", linewidth=0.8)
    axis.set(xlabel="lag", ylabel="correlation of residuals")
    axis.legend(fontsize="small", frameon=False)
    return figure


def semivariogram_plot(
    distance: FloatArray, before: FloatArray, after: FloatArray | None, count: FloatArray,
    names: Sequence[str], ax: Any,
) -> Any:  # fmt: skip
    """Half the mean squared difference of residuals over their distance."""
    figure, axis = axes_of(ax, (5.8, 3.6))
    size = 4.0 + 6.0 * np.sqrt(count / count.max())
    for i, (value, name) in enumerate(((before, names[0]), (after, names[1]))):
        if value is None:
            continue
        color = COLORS[1 - i]
        axis.plot(distance, value, LINES[i], color=color, linewidth=1.0)
        axis.scatter(distance, value, s=size**2 / 2, color=color, marker=MARKERS[i], label=name)
    axis.set(xlabel="distance", ylabel="semivariance", ylim=(0.0, None))
    axis.legend(fontsize="small", frameon=False)
    return figure
