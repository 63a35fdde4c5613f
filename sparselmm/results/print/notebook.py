"""Tables of numbers as people print them: what consoles and notebooks show."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

import numpy as np
import pandas as pd

from sparselmm.base.grid import Grid, p_text, pairs_html

P_VALUES = ("p.value", "pvalue", "p_value", "P>|t|", "P>|z|", "P>F", "P>chi2", "pvalue_boundary")
"""Columns that hold p-values."""

MOST_ROWS = 20
"""Most rows shown by notebooks."""

LONG = 60
"""Most rows printed."""

WIDTH = 80
"""Characters of a line."""

LARGEST = 1e10
"""Numbers from this on are written with a power of ten."""

P = ParamSpec("P")


class Table(pd.DataFrame):  # type: ignore[misc]
    """A DataFrame that shows short numbers, no missing cells, and all columns within 80 characters.

    So does what is made of it: rounded, sorted, its first rows.
    """

    @property
    def _constructor(self) -> type[Table]:
        return Table

    def __repr__(self) -> str:
        return frame_text(self)

    def _repr_html_(self) -> str:
        return frame_html(pd.DataFrame(self), "")


def as_table(method: Callable[P, pd.DataFrame]) -> Callable[P, pd.DataFrame]:
    """A method that returns a DataFrame, which will be shown as a `Table`."""

    @wraps(method)
    def shown(*args: P.args, **keywords: P.kwargs) -> pd.DataFrame:
        return Table(method(*args, **keywords))

    return shown


def frame_html(frame: pd.DataFrame, caption: str) -> str:
    """A table with short numbers, its first rows where there are many."""
    head = frame.head(MOST_ROWS)
    rest = len(frame) - len(head)
    columns = _cells(head, 5)
    rows = [list(row) for row in zip(*columns, strict=True)]
    aligns = "l" + "".join(map(_align, columns[1:]))
    grid = Grid([rows], aligns, ["", *map(_head, frame.columns)])
    notes = (f"and {rest:,} more rows",) if rest else ()
    return grid.html("sparselmm-table", caption=caption, notes=notes)


def frame_text(frame: pd.DataFrame, index: bool = True) -> str:
    """The same as text: columns that do not fit side by side go below, their rows named again."""
    head = pd.DataFrame(frame).head(LONG)
    stub, *columns = _cells(head, 6)
    stub = stub if index else [""] * len(stub)
    name = ":".join(str(n) for n in frame.index.names if n is not None) if index else ""
    heads = list(map(_head, frame.columns))
    widths = [max(map(len, (h, *c))) for h, c in zip(heads, columns, strict=True)]
    first = max(map(len, (name, *stub)))
    blocks: list[list[int]] = [[]]
    for j, width in enumerate(widths):
        used = first + sum(widths[i] + 2 for i in blocks[-1])
        if blocks[-1] and used + width + 2 > WIDTH:
            blocks.append([])
        blocks[-1].append(j)
    parts = []
    for block in blocks:
        chosen = [stub, *(columns[j] for j in block)]
        rows = [list(row) for row in zip(*chosen, strict=True)]
        aligns = "l" + "".join(_align(columns[j]) for j in block)
        grid = Grid([[[name, *(heads[j] for j in block)], *rows]], aligns)
        lines = [line.rstrip() for line in grid.lines(2)]
        parts.append("\n".join(lines if index else [line[2:] for line in lines]))
    rest = len(frame) - len(head)
    return "\n\n".join(parts) + (f"\n... and {rest:,} more rows" if rest else "")


def _cells(frame: pd.DataFrame, digits: int) -> list[list[str]]:
    """Names of the rows and cells of every column."""
    stub = [":".join(map(str, k)) if isinstance(k, tuple) else str(k) for k in frame.index]
    columns, out = [frame.iloc[:, j] for j in range(frame.shape[1])], [stub]
    for name, column in zip(frame.columns, columns, strict=True):
        out.append(_column(column, name in P_VALUES, digits))
    return out


def _column(column: pd.Series, is_p: bool, digits: int) -> list[str]:
    """Cells with one number of decimals, but for numbers that would have hardly a digit left."""
    floats = column.dtype.kind == "f"
    found = [float(v) for v in column if np.isfinite(v)] if floats else []
    largest = max(map(abs, found), default=0.0)
    whole = all(v.is_integer() for v in found) and largest < 1e6
    if is_p or largest == 0.0 or (not whole and largest >= LARGEST):
        return [cell(v, is_p, digits) for v in column]
    most = 1 if largest >= 10.0**digits else digits - 1 - int(np.floor(np.log10(largest)))
    most = min(6, most)
    decimals = next((d for d in range(most) if all(round(v, d) == v for v in found)), most)
    least = 10.0 ** (1 - decimals)
    return [
        cell(v, is_p, 3) if (not whole and 0 < abs(v) < least) or not np.isfinite(v)
        else f"{v:.{decimals}f}"
        for v in column
    ]  # fmt: skip


def _head(name: Any) -> str:
    return ":".join(map(str, name)) if isinstance(name, tuple) else str(name)


def _align(cells: list[str]) -> str:
    """Numbers to the right, words to the left."""
    filled = [c for c in cells if c]
    return "r" if all(c[-1].isdigit() or c in ("inf", "-inf") for c in filled) else "l"


def cell(value: Any, is_p: bool = False, digits: int = 5) -> str:
    """A value as text: blank where there is none, ``<.001`` for a small p-value."""
    if value is None or value is pd.NA or value is pd.NaT:
        return ""
    if not isinstance(value, (float, np.floating)):
        return str(value)
    number = float(value)
    if np.isnan(number):
        return ""
    if is_p:
        return p_text(number)
    return f"{number:.1f}" if 10.0**digits <= abs(number) < LARGEST else f"{number:.{digits}g}"


class Numbers(pd.Series):  # type: ignore[misc]
    """A Series that notebooks show as a small table."""

    def _repr_html_(self) -> str:
        return pairs_html([(str(name), f"{value:.4f}") for name, value in self.items()])
