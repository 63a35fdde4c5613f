"""Where figures come from."""

from __future__ import annotations

import base64
import io
from functools import cache
from typing import Any

from sparselmm.base.exceptions import ArgumentError

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colours, told apart by people with any kind of colour vision."""

MARKERS = "osD^vPX"

LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))
"""Styles that tell series apart in grey."""


def pyplot() -> Any:
    """Pyplot of matplotlib.

    Raises
    ------
    ImportError
        When it is not installed; the message says how to get it.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
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
    return figure, figure.subplots(rows, columns, squeeze=False, **share)


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
    return ax.get_figure(), ax


def in_grid(n: int, widest: int = 4) -> tuple[int, int]:
    """Rows and columns for n panels."""
    columns = min(n, widest)
    return -(-n // columns), columns
