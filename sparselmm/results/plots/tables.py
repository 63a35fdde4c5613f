"""Figures of what tables hold: bootstraps, power, influence, criteria, shares, correlations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy

from sparselmm.base.types import FloatArray
from sparselmm.results.plots.figure import (
    COLORS,
    LINES,
    MARKERS,
    axes_of,
    empty,
    in_grid,
    panels,
    used,
)
from sparselmm.results.plots.letters import (
    axis_names,
    fitting,
    legend,
    name_points,
    plain,
    points,
    row_labels,
    series_name,
    shortened,
    whole_steps,
)


def density_plot(
    replicates: pd.DataFrame, estimate: pd.Series, ends: pd.DataFrame, figure: Any
) -> Any:
    """Smoothed densities of replicates, with the estimate and its interval."""
    shape = in_grid(replicates.shape[1], 3, figure)
    figure, axes = panels(*shape, (2.7 * shape[1], 1.9 * shape[0]), figure)
    own = used(axes, replicates.shape[1])
    titles = shortened(list(replicates), fitting(own[0], 0.9, "small"))
    for name, title, axis in zip(replicates, titles, own, strict=True):
        values = replicates[name].to_numpy(dtype=float)
        values = values[np.isfinite(values)]
        axis.set_title(plain(title), fontsize=points(axis, "small"))
        axis.set_yticks([])
        if len(values) < 3 or np.ptp(values) <= 1e-12 * np.abs(values).max(initial=1.0):
            empty(axis, "all replicates alike")
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
        middle = float(estimate[name]) if np.isfinite(estimate[name]) else values.mean()
        x, density = smoothed((values - middle) / sd)
        axis.fill_between(
            x, -i, -i + 1.4 * density / density.max(), color=COLORS[i % len(COLORS)], alpha=0.5,
            linewidth=0.8, edgecolor="black", zorder=i,
        )  # fmt: skip
    axis.axvline(0.0, color="0.4", linewidth=0.8)
    row_labels(axis, -np.arange(len(names), dtype=float), names)
    axis_names(axis, "(replicate - estimate) / standard error")
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
            marker=MARKERS[i % len(MARKERS)],
            label=series_name(", ".join(map(str, np.atleast_1d(key)))),
        )  # fmt: skip
    axis.axhline(0.8, color="0.5", linewidth=0.8, linestyle=":")
    axis_names(axis, x, "power")
    axis.set_ylim(0.0, 1.02)
    if not x:
        axis.set_xticks([])
    if len(parts) > 1:
        legend([axis], ", ".join(series), beside=True)
    return figure


def influence_plot(
    labels: Sequence[Any], cooks: FloatArray, shift: pd.DataFrame, figure: Any, named: int = 5
) -> Any:
    """Cook's distances in order, and the largest changes of the coefficients in standard errors."""
    figure, axes = panels(*in_grid(2, 2, figure, 2.5), (9.0, 4.0), figure)
    left, right = axes.flat
    n = len(cooks)
    left.vlines(np.arange(n), 0.0, cooks, color=COLORS[0], linewidth=max(0.4, min(2.0, 200 / n)))
    axis_names(left, "deleted, in order", "Cook's distance")
    left.set_xlim(-0.6, n - 0.4)
    left.set_ylim(0.0, 1.08 * np.nanmax(cooks, initial=1e-300))
    whole_steps(left, np.arange(n))
    name_points(left, np.arange(n), cooks, labels, np.argsort(-np.nan_to_num(cooks))[:named])
    values = shift.to_numpy(dtype=float)
    farthest: list[int] = []
    for j in range(shift.shape[1]):
        own = values[:, j]
        right.plot(own, np.full(n, -j), "|", color="0.4", markersize=9, alpha=0.7)
        i = int(np.argmax(np.nan_to_num(np.abs(own))))
        right.plot(own[i], -j, "o", color=COLORS[1], markersize=4)
        farthest.append(i)
    right.axvline(0.0, color="0.6", linewidth=0.8, zorder=0)
    at = -np.arange(shift.shape[1], dtype=float)
    row_labels(right, at, list(shift))
    axis_names(right, "change in standard errors")
    right.set_ylim(-shift.shape[1] + 0.4, 0.7)
    where = values[farthest, np.arange(len(farthest))]
    height = at + 0.25
    name_points(right, where, height, [labels[i] for i in farthest], np.arange(len(farthest)))
    return figure


def criteria_plot(table: pd.DataFrame, criteria: Sequence[str], ax: Any) -> Any:
    """Criteria of several models above the least of each."""
    figure, axis = axes_of(ax, (5.6, 1.2 + 0.35 * len(table)))
    at = np.arange(len(table), dtype=float)
    for i, name in enumerate(criteria):
        value = table[name].to_numpy(dtype=float)
        axis.plot(
            value - np.nanmin(value), -at + 0.15 * (i - 0.5 * (len(criteria) - 1)),
            MARKERS[i % len(MARKERS)], color=COLORS[i % len(COLORS)], label=series_name(name),
        )  # fmt: skip
    axis.axvline(0.0, color="0.6", linewidth=0.8, zorder=0)
    row_labels(axis, -at, list(table.index))
    axis.set_ylim(-len(table) + 0.4, 0.6)
    axis_names(axis, "above the least")
    legend([axis])
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
            hatch=("", "//", "..", "xx")[i % 4], label=series_name(f"{name} {share:.1%}"),
        )  # fmt: skip
        left += share
    axis.set(xlim=(0.0, max(left, 1.0)), yticks=[])
    axis_names(axis, "share of the variance")
    legend([axis])
    return figure


def correlation_plot(
    lags: FloatArray, before: FloatArray, after: FloatArray | None, limit: FloatArray,
    names: Sequence[str], ax: Any,
) -> Any:  # fmt: skip
    """Correlation of residuals over lags, before and after the model took account of it."""
    figure, axis = axes_of(ax, (5.8, 3.6))
    width = 0.18
    none = "95 % if there is none"
    axis.fill_between(lags, -limit, limit, color="0.9", label=none, zorder=0)
    series = [(before, names[0], COLORS[1], "o")]
    if after is not None:
        series.append((after, names[1], COLORS[0], "s"))
    for i, (value, name, color, marker) in enumerate(series):
        at = lags + width * (i - 0.5 * (len(series) - 1))
        axis.vlines(at, 0.0, value, color=color, linewidth=1.5)
        axis.plot(at, value, marker, color=color, markersize=4, label=name)
    axis.axhline(0.0, color="0.3", linewidth=0.8)
    axis_names(axis, "lag", "correlation of residuals")
    whole_steps(axis, lags)
    legend([axis], order=(*(name for _, name, *_ in series), none))
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
    axis_names(axis, "distance", "semivariance of standardized residuals")
    whole_steps(axis, distance)
    axis.set_ylim(0.0, 1.08 * axis.get_ylim()[1])
    legend([axis])
    return figure
