"""Where figures come from."""

from __future__ import annotations

from typing import Any

from sparselmm.base.exceptions import ArgumentError


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


def axes_of(ax: Any, size: tuple[float, float]) -> tuple[Any, Any]:
    """The figure and axes to draw in: those given, or new ones of some size in inches.

    Raises
    ------
    ArgumentError
        When ``ax`` is not an Axes of matplotlib.
    """
    if ax is None:
        return pyplot().subplots(figsize=size, layout="constrained")
    if not hasattr(ax, "get_figure") or not hasattr(ax, "plot"):
        raise ArgumentError(f"ax must be matplotlib Axes, got {type(ax).__name__}")
    return ax.get_figure(), ax
