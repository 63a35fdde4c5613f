"""Figures. matplotlib is an optional package and imported when the first one is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy

from sparselmm.base.types import FloatArray
from sparselmm.results.plots.figure import in_grid, panels, used
from sparselmm.results.plots.letters import (
    axis_names,
    fitting,
    plain,
    points,
    shortened,
)

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
    """
    shape = in_grid(max(len(curves), 1), 3, figure)
    figure, axes = panels(*shape, (2.9 * shape[1], 2.3 * shape[0]), figure)
    own = used(axes, len(curves))
    titles = shortened(list(curves), fitting(axes[0, 0], 0.85, "small"))
    for axis, title, curve in zip(own, titles, curves.values(), strict=True):
        axis.set_title(plain(title), fontsize=points(axis, "small"))
        _panel(axis, curve, absolute)
    for row in axes:
        axis_names(row[0], y="|zeta|" if absolute else "zeta")
    return figure


def _panel(axis: Any, curve: FloatArray, absolute: bool) -> None:
    curve = curve[np.isfinite(curve).all(axis=1)]
    if len(curve) < 2:
        return
    value, zeta = curve.T
    fine = np.linspace(value[0], value[-1], 200)
    drawn = scipy.interpolate.PchipInterpolator(value, zeta)(fine)
    axis.plot(fine, np.abs(drawn) if absolute else drawn, color="C0")
    axis.plot(value, np.abs(zeta) if absolute else zeta, ".", color="C0")
    if not absolute:
        axis.axhline(0.0, color="0.8", linewidth=0.8, zorder=0)
        for level in REFERENCE:  # where intervals end
            z = float(scipy.stats.norm.ppf(0.5 + level / 2.0))
            for side in (-z, z):
                if zeta.min() <= side <= zeta.max():
                    axis.axhline(side, color="0.85", linewidth=0.8, linestyle="--", zorder=0)
                    at, way = (0.0, "left") if side > 0 else (1.0, "right")  # off the curve
                    axis.annotate(
                        f"{level:.0%}", (at, side), (2 - 4 * at, 1), ha=way,
                        xycoords=("axes fraction", "data"), textcoords="offset points",
                        fontsize=points(axis, "x-small"), color="0.5",
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
