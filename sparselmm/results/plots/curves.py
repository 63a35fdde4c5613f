"""Figures of predictions: curves over covariates, groups with their lines, shrinkage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base.types import FloatArray
from sparselmm.results.plots.figure import (
    COLORS,
    LINES,
    MARKERS,
    axes_of,
    in_grid,
    panels,
    ratio_axis,
    used,
)
from sparselmm.results.plots.letters import (
    axis_names,
    fitting,
    legend,
    level_labels,
    name_points,
    plain,
    points,
    remark,
    row_labels,
    series_name,
    shortened,
    whole_steps,
)

MANY_POINTS = 2_000
"""From this many data points on they are drawn small and faint."""

MANY_LEVELS = 200
"""From this many groups on their marks are small."""


@dataclass(frozen=True)
class Curve:
    """One line of predictions.

    Attributes
    ----------
    panel, series : str
        Labels of the panel and of the line.
    x : sequence, (m,)
        Numbers, or levels of a factor.
    table : DataFrame, (m, ...)
        ``mean``, and where they are drawn ``low``, ``high``, ``obs_low``, ``obs_high``.
    """

    panel: str
    series: str
    x: Sequence[Any]
    table: pd.DataFrame


@dataclass(frozen=True)
class Points:
    """Data to draw beside the curves: panel, series, x and y of every row, each (n,)."""

    panel: Sequence[str]
    series: Sequence[str]
    x: Sequence[Any]
    y: FloatArray


def curve_plot(
    curves: Sequence[Curve], rows: Points | None, names: Sequence[str], levels: Sequence[Any],
    note: str, figure: Any,
) -> Any:  # fmt: skip
    """Predictions against the first variable.

    Parameters
    ----------
    names : sequence of str
        Of x, y and the legend.
    levels : sequence
        Levels of x where it is a factor; empty for a number.
    note : str
        What the other variables are held at.
    """
    heads = list(dict.fromkeys(curve.panel for curve in curves))
    series = list(dict.fromkeys(curve.series for curve in curves))
    shape = in_grid(len(heads), 3, figure)
    size = (3.4 * shape[1] + 2.2, 3.2 * shape[0] + 0.6)
    figure, axes = panels(*shape, size, figure, sharex=True, sharey=True)
    place = {level: i for i, level in enumerate(levels)}
    own = used(axes, len(heads))
    titles = shortened(heads, fitting(own[0], 0.8, "small"))
    for head, title, axis in zip(heads, titles, own, strict=True):
        if rows is not None:
            _points(axis, rows, head, series, place)
        for curve in curves:
            if curve.panel == head:
                _curve(axis, curve, series.index(curve.series), len(series), place)
        axis.set_title(plain(title), fontsize=points(axis, "small"))
        axis_names(axis, names[0])
    if place:
        level_labels(own[0], levels)
    elif rows is not None:
        whole_steps(own[0], rows.x)
    for row in axes:
        axis_names(row[0], y=names[1])
    if len(series) > 1:
        legend(own, names[2], beside=True, order=series)
    remark(figure, note)
    return figure


def _position(x: Sequence[Any], place: Mapping[Any, int]) -> FloatArray:
    return np.array([place[v] if place else v for v in x], dtype=float)


def _curve(axis: Any, curve: Curve, i: int, n: int, place: Mapping[Any, int]) -> None:
    color, x = COLORS[i % len(COLORS)], _position(curve.x, place)
    table = {name: column.to_numpy(dtype=float) for name, column in curve.table.items()}
    if place:
        x = x + 0.5 * (i - 0.5 * (n - 1)) / n
        for low, high, width, alpha in (("obs_low", "obs_high", 1.0, 0.6), ("low", "high", 4, 0.4)):
            if low in table:
                axis.vlines(x, table[low], table[high], color=color, linewidth=width, alpha=alpha)
        axis.plot(
            x, table["mean"], MARKERS[i % len(MARKERS)], color=color, markersize=5,
            label=series_name(curve.series),
        )  # fmt: skip
        return
    for low, high, alpha in (("obs_low", "obs_high", 0.10), ("low", "high", 0.22)):
        if low in table:
            axis.fill_between(x, table[low], table[high], color=color, alpha=alpha, linewidth=0)
    axis.plot(
        x, table["mean"], linestyle=LINES[i % len(LINES)], color=color, linewidth=1.8,
        label=series_name(curve.series),
    )  # fmt: skip


def _points(
    axis: Any, data: Points, head: str, series: list[str], place: Mapping[Any, int]
) -> None:
    inside = np.array([panel in ("", head) for panel in data.panel])
    own = np.array([series.index(s) if s in series else -1 for s in data.series])
    many = inside.sum() > MANY_POINTS
    for i in np.unique(own[inside]):
        rows = np.flatnonzero(inside & (own == i))
        x = _position([data.x[int(row)] for row in rows], place)
        if place:
            x = x + 0.5 * (max(i, 0) - 0.5 * (len(series) - 1)) / len(series)
            x = x + np.random.default_rng(0).uniform(-0.05, 0.05, len(x))  # so as to be seen
        axis.plot(
            x, data.y[rows], "." if many else MARKERS[i % len(MARKERS)], rasterized=bool(many),
            color="0.5" if i < 0 or len(series) == 1 else COLORS[i % len(COLORS)],
            markersize=1.5 if many else 3.0, alpha=0.3 if many else 0.6,
            markeredgewidth=0, zorder=0,
        )  # fmt: skip


# ---------------------------------------------------------------------------- one per group


@dataclass(frozen=True)
class Group:
    """A group's data and lines; ``own`` is its least-squares line, None where it has none."""

    label: str
    x: FloatArray
    y: FloatArray
    at: FloatArray
    own: FloatArray | None
    mixed: FloatArray
    population: FloatArray


def group_plot(groups: Sequence[Group], names: Sequence[str], note: str, figure: Any) -> Any:
    """A panel per group: data, own line, mixed-model line, line of the population."""
    shape = in_grid(len(groups), 6 if len(groups) > 8 else 4, figure, 0.95)
    size = (1.45 * shape[1] + 0.6, 1.45 * shape[0] + 0.9)
    figure, axes = panels(*shape, size, figure, sharex=True, sharey=True)
    own = used(axes, len(groups))
    titles = shortened([group.label for group in groups], fitting(own[0], 0.85, "small"))
    for group, title, axis in zip(groups, titles, own, strict=True):
        axis.plot(group.x, group.y, "o", color="0.45", markersize=3, markeredgewidth=0)
        axis.plot(group.at, group.population, ":", color="0.3", label="population")
        if group.own is not None:
            axis.plot(group.at, group.own, "--", color=COLORS[1], label="own least squares")
        axis.plot(group.at, group.mixed, "-", color=COLORS[0], label="mixed model")
        axis.set_title(plain(title), fontsize=points(axis, "small"), pad=2)
    whole_steps(own[0], np.concatenate([group.x for group in groups]))
    legend(own, order=("mixed model", "own least squares", "population"))
    figure.supylabel(plain(names[1]), fontsize=points(own[0]))
    for axis in own[-shape[1] :]:
        axis_names(axis, names[0])
    remark(figure, note)
    return figure


def shrinkage_plot(
    own: pd.DataFrame, mixed: pd.DataFrame, population: Sequence[float], title: str, ax: Any,
    named: int = 5,
) -> Any:  # fmt: skip
    """Arrows from each group's own estimates to those of the mixed model.

    Parameters
    ----------
    own, mixed : DataFrame, (l, 1 or 2)
        Coefficients by level; rows of NaN in ``own`` have no estimate of their own.
    population : sequence of float
        Fixed effects of the same coefficients.
    named : int
        Levels that move farthest and are named.
    """
    figure, axis = axes_of(ax, (5.4, 4.4))
    columns, dot = list(mixed.columns), 1.5 if len(mixed) > MANY_LEVELS else 4.0
    if len(columns) == 1:  # against the order of the own estimates
        order = own[columns[0]].rank(method="first").to_numpy()
        start = np.column_stack([own[columns[0]], order])
        end = np.column_stack([mixed[columns[0]], order])
    else:
        start, end = own.to_numpy(dtype=float), mixed.to_numpy(dtype=float)
    move = end - start
    axis.quiver(
        *start.T, *move.T, angles="xy", scale_units="xy", scale=1, width=0.004, color="0.65",
        zorder=1,
    )  # fmt: skip
    axis.plot(
        *start.T, "o", color=COLORS[1], markersize=dot, markerfacecolor="none",
        label="own least squares",
    )  # fmt: skip
    axis.plot(*end.T, "o", color=COLORS[0], markersize=dot, label="mixed model")
    size = np.nan_to_num(np.abs(move / np.nanstd(end, axis=0).clip(1e-300)).max(axis=1))
    far = np.argsort(-size)[: min(named, len(size))]
    axis.axvline(population[0], color="0.3", linestyle=":", linewidth=1.0)
    axis_names(axis, columns[0], columns[1] if len(columns) > 1 else "rank of own estimate")
    if len(columns) > 1:
        axis.axhline(population[1], color="0.3", linestyle=":", linewidth=1.0)
        axis.plot(*population[:2], "X", color="black", markersize=7, label="population")
    axis.set_title(plain(title), fontsize=points(axis))
    name_points(axis, start[:, 0], start[:, 1], list(mixed.index), far)
    legend([axis])
    return figure


def coefficient_plot(
    tables: Mapping[str, pd.DataFrame], name: str, level: float, neutral: float, ax: Any
) -> Any:
    """Coefficients of one or several models, a line each, models side by side.

    Parameters
    ----------
    tables : mapping of str to DataFrame
        ``estimate``, ``low``, ``high`` by coefficient.
    name : str
        Label of the axis.
    level : float
        Confidence level, for the axis.
    """
    rows = list(dict.fromkeys(label for table in tables.values() for label in table.index))
    n = len(tables)
    figure, axis = axes_of(ax, (6.0, 1.0 + 0.26 * len(rows) * (1.0 + 0.45 * (n - 1))))
    for i, (head, table) in enumerate(tables.items()):
        at = np.array([-rows.index(label) for label in table.index]) + 0.6 * (
            0.5 * (n - 1) - i
        ) / max(n, 2)
        color = COLORS[i % len(COLORS)]
        axis.hlines(at, table["low"], table["high"], color=color, linewidth=1.5)
        axis.plot(
            table["estimate"], at, MARKERS[i % len(MARKERS)], color=color, markersize=4.5,
            label=series_name(head),
        )  # fmt: skip
    axis.axvline(neutral, color="0.6", linewidth=0.8, zorder=0)
    row_labels(axis, -np.arange(len(rows), dtype=float), rows)
    axis.set_ylim(-len(rows) + 0.4, 0.6)
    axis_names(axis, f"{name}, {level:.3g} % interval")
    if neutral == 1.0:
        ratio_axis(axis)
    if n > 1:
        legend([axis])
    return figure
