"""Where figures come from."""

from __future__ import annotations

import base64
import io
import textwrap
from functools import cache
from typing import Any

import numpy as np

from sparselmm.base.exceptions import ArgumentError, MissingPackageError
from sparselmm.results.plots.letters import (
    fitting,
    letter,
    plain,
    points,
)

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colours, told apart by people with any kind of colour vision."""

MARKERS = "osD^vPX"

LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))
"""Styles that tell series apart in grey."""


def pyplot() -> Any:
    """Pyplot of matplotlib.

    Raises
    ------
    MissingPackageError
        When it is not installed; the message says how to get it.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise MissingPackageError(
            "plots need matplotlib, which is not installed: pip install 'sparselmm[plots]'"
        ) from error
    return plt


@cache
def _shown_once() -> Any:
    """A Figure that a notebook shows once: as the value of a cell, or else at its end."""
    plt = pyplot()

    class Figure(plt.Figure):  # type: ignore[name-defined,misc]
        def _ipython_display_(self) -> None:
            from IPython.display import display

            buffer = io.BytesIO()
            self.savefig(buffer, format="png")
            plt.close(self)  # or pyplot would show it again when the cell ends
            png = base64.b64encode(buffer.getvalue()).decode("ascii")
            display(  # type: ignore[no-untyped-call]
                {"image/png": png, "text/plain": repr(self)}, raw=True
            )

    return Figure


def panels(rows: int, columns: int, size: tuple[float, float], figure: Any = None, **share: Any):  # type: ignore[no-untyped-def]
    """A figure and its axes, (rows, columns): the one given, or a new one of some size in inches.

    Raises
    ------
    ArgumentError
        When ``figure`` is no figure of matplotlib.
    """
    plt = pyplot()
    if figure is None:
        figure = plt.figure(FigureClass=_shown_once(), figsize=size, layout="constrained")
    elif not hasattr(figure, "subplots"):
        raise ArgumentError(f"figure must be a matplotlib Figure, got {type(figure).__name__}")
    elif figure.get_layout_engine() is None and hasattr(figure, "set_layout_engine"):
        figure.set_layout_engine("constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **share)
    for axis in axes.flat:
        letter(axis)
    return figure, axes


def axes_of(ax: Any, size: tuple[float, float]) -> tuple[Any, Any]:
    """The figure and axes to draw in: those given, or new ones of some size in inches.

    Raises
    ------
    ArgumentError
        When ``ax`` is not an Axes of matplotlib.
    """
    if ax is None:
        figure, axes = panels(1, 1, size)
        return figure, axes[0, 0]
    if not hasattr(ax, "get_figure") or not hasattr(ax, "plot"):
        raise ArgumentError(f"ax must be matplotlib Axes, got {type(ax).__name__}")
    letter(ax)
    return ax.get_figure(), ax


def in_grid(n: int, widest: int = 4, figure: Any = None, least: float = 1.5) -> tuple[int, int]:
    """Rows and columns for n panels: fewer columns where a given figure is narrow, in inches."""
    columns = min(n, widest)
    if figure is not None and hasattr(figure, "dpi"):
        columns = int(np.clip(figure.bbox.width / figure.dpi / least, 1, columns))
    return -(-n // columns), columns


def used(axes: Any, n: int) -> list[Any]:
    """The first n panels of a grid; the others are hidden, and those above them get their ticks."""
    columns = axes.shape[1]
    for axis in axes.flat[n:]:
        axis.set_visible(False)
    for axis in axes.flat[max(0, n - columns) : n]:
        axis.tick_params(labelbottom=True)
    return list(axes.flat[:n])


def ratio_axis(axis: Any) -> None:
    """A logarithmic axis for ratios, with plain numbers, if all that is drawn is above zero."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.dataLim.intervalx
    if not 0.0 < low < high < np.inf:
        return
    axis.set_xscale("log")
    subs = (1.0, 2.0, 5.0) if high < 100.0 * low else (1.0,)
    axis.xaxis.set_major_locator(LogLocator(subs=subs))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())


def empty(axis: Any, why: str) -> None:
    """Say why a panel has nothing in it."""
    axis.text(
        0.5, 0.5, plain(textwrap.fill(why, fitting(axis, 0.6, "small"))), transform=axis.transAxes,
        ha="center", va="center", color="0.4", fontsize=points(axis, "small"),
    )  # fmt: skip
    axis.set(xticks=[], yticks=[])
