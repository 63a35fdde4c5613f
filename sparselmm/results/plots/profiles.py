"""Figures. matplotlib is an optional package and imported when the first one is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy

from sparselmm.base.types import FloatArray
from sparselmm.results.plots.figure import panels

LEVELS = (0.5, 0.8, 0.9, 0.95, 0.99)
"""Confidence levels marked in a profile."""

REFERENCE = (0.9, 0.95, 0.99)
"""Levels whose quantiles are drawn across."""

REACHED = 1.01
"""A profile made to end at a level may stop this factor short of its quantile."""


def profile_plot(curves: Mapping[str, FloatArray], absolute: bool, figure: Any = None) -> Any:
    """Zeta against the value, one panel per parameter.

    Parameters
    ----------
    curves : mapping
        Name to values and zetas, (m, 2), ascending.
    absolute : bool
        Draw ``|zeta|`` and mark intervals.
    figure : matplotlib Figure, optional

    Returns
    -------
    matplotlib.figure.Figure
    """
    n = max(len(curves), 1)
    columns = min(n, 3)
    rows = -(-n // columns)
    figure, axes = panels(rows, columns, (3.2 * columns, 2.6 * rows), figure)
    for axis in axes.flat[len(curves) :]:
        axis.set_visible(False)
    for axis, (name, points) in zip(axes.flat, curves.items(), strict=False):
        _panel(axis, name, points, absolute)
    for row in axes:
        row[0].set_ylabel("|zeta|" if absolute else "zeta")
    return figure


def _panel(axis: Any, name: str, points: FloatArray, absolute: bool) -> None:
    axis.set_title(name, fontsize="medium")
    points = points[np.isfinite(points).all(axis=1)]
    if len(points) < 2:
        return
    value, zeta = points.T
    fine = np.linspace(value[0], value[-1], 200)
    curve = scipy.interpolate.PchipInterpolator(value, zeta)
    drawn = curve(fine)
    axis.plot(fine, np.abs(drawn) if absolute else drawn, color="C0")
    axis.plot(value, np.abs(zeta) if absolute else zeta, ".", color="C0")
    if not absolute:
        axis.axhline(0.0, color="0.8", linewidth=0.8, zorder=0)
        for level in REFERENCE:  # where intervals end
            z = float(scipy.stats.norm.ppf(0.5 + level / 2.0))
            for side in (-z, z):
                if zeta.min() <= side <= zeta.max():
                    axis.axhline(side, color="0.85", linewidth=0.8, linestyle="--", zorder=0)
                    axis.annotate(
                        f"{level:.0%}", (1.0, side), (-2, 1), xycoords=("axes fraction", "data"),
                        textcoords="offset points", ha="right", fontsize="x-small", color="0.5",
                    )  # fmt: skip
        return
    axis.set_ylim(bottom=0.0)
    inverse = (
        scipy.interpolate.PchipInterpolator(zeta, value) if (np.diff(zeta) > 0).all() else None
    )
    for level in LEVELS:
        z = float(scipy.stats.norm.ppf(0.5 + level / 2.0))
        if inverse is None or z > REACHED * min(-zeta[0], zeta[-1]):
            continue
        ends = inverse(np.clip([-z, z], zeta[0], zeta[-1]))
        axis.plot([ends[0], ends[0], ends[1], ends[1]], [0, z, z, 0], color="0.6", linewidth=0.8)
