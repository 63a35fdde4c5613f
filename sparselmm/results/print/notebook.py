"""Tables of numbers as people print them: what notebooks show."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from sparselmm.results.print.grid import Grid

P_VALUES = ("p.value", "pvalue", "P>|t|", "P>|z|")
"""Columns that hold p-values."""

MOST_ROWS = 20
"""Most rows shown."""


def frame_html(frame: pd.DataFrame, caption: str) -> str:
    """A table with short numbers, its first rows where there are many."""
    head = frame.head(MOST_ROWS)
    rest = len(frame) - len(head)
    columns = [list(map(str, head.index))]
    columns += [[cell(v, name in P_VALUES) for v in head[name]] for name in head.columns]
    rows = [list(row) for row in zip(*columns, strict=True)]
    grid = Grid([rows], "l" + "r" * frame.shape[1], ["", *map(str, frame.columns)])
    notes = (f"and {rest:,} more rows",) if rest else ()
    return grid.html("sparselmm-table", caption=caption, notes=notes)


def cell(value: Any, is_p: bool = False) -> str:
    """A value as text: blank where there is none, ``<.001`` for a small p-value."""
    if value is None or value is pd.NA or value is pd.NaT:
        return ""
    if not isinstance(value, (float, np.floating)):
        return str(value)
    if np.isnan(value):
        return ""
    if is_p:
        return "<.001" if value < 0.001 else f"{value:.3f}"
    return f"{value:.5g}"
