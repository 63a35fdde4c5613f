"""Figures of estimates with intervals: marginal means and contrasts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base.types import FloatArray
from sparselmm.likelihood.laplace.links import DISTRIBUTIONS
from sparselmm.results.plots.figure import COLORS, LINES, MARKERS, axes_of, empty, ratio_axis
from sparselmm.results.plots.letters import (
    axis_names,
    legend,
    level_labels,
    row_labels,
    series_name,
)


def interval_plot(
    labels: Sequence[str], value: FloatArray, ends: FloatArray, name: str, neutral: float | None,
    ax: Any = None,
) -> Any:  # fmt: skip
    """One line per estimate, top down, with its interval.

    Parameters
    ----------
    labels : sequence of str, (m,)
    value : ndarray, (m,)
    ends : ndarray, (m, 2)
        Infinite ends run to the edge.
    name : str
        Label of the axis.
    neutral : float, optional
        Value under the hypothesis: drawn as a line.
    """
    figure, axis = axes_of(ax, (6.0, 0.9 + 0.28 * max(len(labels), 2)))
    if not np.isfinite(value).any():
        empty(axis, "there is nothing to estimate")
        return figure
    at = -np.arange(len(labels), dtype=float)
    finite = np.where(np.isfinite(ends), ends, np.nan)
    span = np.nanmax(np.c_[finite, value]) - np.nanmin(np.c_[finite, value]) or 1.0
    low = np.where(np.isneginf(ends[:, 0]), value - 2.0 * span, ends[:, 0])
    high = np.where(np.isposinf(ends[:, 1]), value + 2.0 * span, ends[:, 1])
    axis.hlines(at, low, high, color=COLORS[0], linewidth=1.5)
    axis.plot(value, at, "o", color=COLORS[0], markersize=4.5)
    if neutral is not None:
        axis.axvline(neutral, color="0.6", linewidth=0.8, zorder=0)
    if not np.isfinite(ends).all():
        axis.set_xlim(np.nanmin(finite) - 0.1 * span, np.nanmax(finite) + 0.1 * span)
    elif "ratio" in name:
        ratio_axis(axis)
    row_labels(axis, at, labels)
    axis.set_ylim(at[-1] - 0.6 if len(at) else -1.0, 0.6)
    axis_names(axis, name)
    return figure


def means_plot(
    frame: pd.DataFrame, variables: Sequence[str], value: str, limits: Sequence[str], name: str,
    arrows: FloatArray | None, ax: Any = None,
) -> Any:  # fmt: skip
    """Means against the first variable, a series for each combination of the others.

    Parameters
    ----------
    frame : DataFrame
        A row per mean.
    value : str
        Column of the means.
    limits : sequence of str
        Columns of the ends of their intervals.
    name : str
        Label of the axis.
    arrows : ndarray, (m, 2), optional
        Lengths below and above.
    """
    figure, axis = axes_of(ax, (6.0, 3.8))
    first, *others = variables
    levels = list(dict.fromkeys(frame[first]))
    numeric = all(isinstance(v, (int, float, np.number)) for v in levels)
    place = {v: float(v) if numeric else float(i) for i, v in enumerate(levels)}
    series = [((), frame)] if not others else list(frame.groupby(others, sort=False, observed=True))
    gap = 1.0 if not numeric or len(levels) < 2 else float(np.diff(sorted(place.values())).min())
    shift = 0.5 * gap * (np.arange(len(series)) - 0.5 * (len(series) - 1)) / max(len(series), 1)
    for i, (key, part) in enumerate(series):
        x = np.array([place[v] for v in part[first]]) + shift[i]
        y = part[value].to_numpy(dtype=float)
        ends = part[list(limits)].to_numpy(dtype=float)
        color, marker = COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)]
        label = series_name(", ".join(map(str, key if isinstance(key, tuple) else (key,))))
        style = LINES[i % len(LINES)]
        axis.plot(x, y, linestyle=style, color=color, linewidth=0.8, alpha=0.6)
        axis.vlines(x, ends[:, 0], ends[:, 1], color=color, linewidth=4.0, alpha=0.3)
        axis.plot(x, y, marker, color=color, markersize=5.0, label=label)
        if arrows is not None:
            _arrows(axis, x, y, arrows[frame.index.get_indexer(part.index)], color)
    if not numeric:
        level_labels(axis, levels)
    axis_names(axis, first, name)
    if others:
        legend([axis], ", ".join(others), beside=True)
    return figure


def axis_label(what: str, of: str, scale: str, back: bool) -> str:
    """Name of an axis of ``what``, of a response on a scale or carried back from it."""
    if scale in DISTRIBUTIONS:
        of = "probability"
    if not back and scale not in ("", "identity") and f"{scale}(" not in of:
        of = f"{scale} of {of}"
    return f"{what} of {of}" if of else what


def _arrows(axis: Any, x: FloatArray, y: FloatArray, lengths: FloatArray, color: str) -> None:
    for one, at, (down, up) in zip(x, y, lengths, strict=True):
        for length in (-down, up):
            if length:
                axis.annotate(
                    "", (one, at + length), (one, at),
                    arrowprops={"arrowstyle": "->", "color": color, "linewidth": 1.4},
                )  # fmt: skip
