"""Tables of one or several fits side by side: text, LaTeX for booktabs, HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sparselmm.base.arguments import check_text
from sparselmm.base.grid import Grid, tex

STARS = ((0.001, "***"), (0.01, "**"), (0.05, "*"))
LEGEND = "* p < 0.05, ** p < 0.01, *** p < 0.001"
NOTE = "Standard errors in parentheses."

Row = tuple[str, tuple[str, ...]]


@dataclass(frozen=True, eq=False)
class ModelColumn:
    """One fit on its way into a table.

    Attributes
    ----------
    head : str
        Head of the column.
    fixed, random : DataFrame
        ``tidy("fixed", ddf=...)`` and ``tidy("ran_pars")``.
    levels : mapping of str to int
        Levels of every grouping factor.
    criteria : mapping of str to float
        Log-likelihood and information criteria by name.
    """

    head: str
    fixed: pd.DataFrame
    random: pd.DataFrame
    levels: Mapping[str, int]
    nobs: int
    criteria: Mapping[str, float]


@dataclass(frozen=True)
class ModelTable:
    """Fits side by side.

    Attributes
    ----------
    heads : tuple of str
        Heads of the columns.
    blocks : tuple of tuple
        Rows in groups that a rule separates: a name and one cell for each fit.
    title : str or None
    notes : tuple of str
    """

    heads: tuple[str, ...]
    blocks: tuple[tuple[Row, ...], ...]
    title: str | None
    notes: tuple[str, ...]

    @classmethod
    def of(
        cls, columns: Sequence[ModelColumn], digits: int, title: str | None, stars: bool
    ) -> ModelTable:
        """Put columns side by side: every term of any fit once, in the order met."""
        fixed: list[Row] = []
        tables = [column.fixed.set_index("term") for column in columns]
        for term in _union([list(table.index) for table in tables]):
            cells = [_estimate(table, term, digits, stars) for table in tables]
            fixed.append((term, tuple(cell[0] for cell in cells)))
            fixed.append(("", tuple(cell[1] for cell in cells)))
        parts = [_by_name(column.random) for column in columns]
        random = [
            (name, tuple(number(part[name], digits) if name in part else "" for part in parts))
            for name in sorted(_union([list(part) for part in parts]), key=_is_residual)
        ]
        facts: list[Row] = [("Observations", tuple(str(column.nobs) for column in columns))]
        for factor in _union([list(column.levels) for column in columns]):
            cells_ = tuple(str(column.levels.get(factor, "")) for column in columns)
            facts.append((f"Levels of {factor}", cells_))
        for name in _union([list(column.criteria) for column in columns]):
            values = [column.criteria.get(name) for column in columns]
            cells_ = tuple("" if v is None else number(v, digits) for v in values)
            facts.append((name, cells_))
        notes = (NOTE, LEGEND) if stars else (NOTE,)
        heads = tuple(column.head for column in columns)
        blocks = tuple(block for block in (tuple(fixed), tuple(random), tuple(facts)) if block)
        return cls(heads, blocks, title, notes)

    @property
    def _grid(self) -> Grid:
        blocks = [[[name, *cells] for name, cells in block] for block in self.blocks]
        aligns = "l" + "r" * len(self.heads)
        return Grid(blocks, aligns, ["", *self.heads], heads=aligns)

    def __str__(self) -> str:
        lines = self._grid.lines()
        title = [self.title] if self.title else []
        return "\n".join([*title, *(line.rstrip() for line in lines), lines[1], *self.notes])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return self.to_html()

    def to_html(self) -> str:
        """HTML table; special characters are escaped."""
        return self._grid.html("sparselmm-models", caption=self.title, notes=self.notes)

    def to_latex(self, label: str = "") -> str:
        """LaTeX ``table`` environment for the package booktabs; special characters are escaped.

        Parameters
        ----------
        label : str
            For cross-references.
        """
        check_text(label, "label")
        lines = [r"\begin{table}", r"\centering"]
        if self.title:
            lines.append(rf"\caption{{{tex(self.title)}}}")
        if label:
            lines.append(rf"\label{{{label}}}")
        rules = r"\toprule", r"\midrule", r"\bottomrule"
        return "\n".join([*lines, self._grid.latex(rules, _cell, self.notes), r"\end{table}"])


def _cell(text: str) -> str:
    """Escaped, with a true minus sign before a number."""
    return f"${text}$" if text.startswith("-") and text[1:2].isdigit() else tex(text)


def number(value: float, digits: int) -> str:
    """A number with some decimals, or as many significant digits where those show none."""
    if not np.isfinite(value):
        return "NaN" if np.isnan(value) else str(value)
    if value != 0.0 and abs(value) < 0.5 * 10.0**-digits:
        return f"{value:.{max(digits - 1, 0)}e}"
    return f"{value:.{digits}f}"


def _estimate(table: pd.DataFrame, term: str, digits: int, stars: bool) -> tuple[str, str]:
    """Estimate with its stars, and standard error in parentheses."""
    if term not in table.index:
        return "", ""
    names = ["estimate", "std.error", "p.value"]
    value, se, p = map(float, table.loc[term, names].to_numpy())
    if np.isnan(value):
        return "dropped", ""
    mark = next((mark for limit, mark in STARS if p < limit), "") if stars else ""
    return number(value, digits) + mark, f"({number(se, digits)})"


def _by_name(random: pd.DataFrame) -> dict[str, float]:
    """``"Subject: sd Days"`` to its estimate."""
    out = {}
    for group, term, value in random[["group", "term", "estimate"]].itertuples(index=False):
        name = term.replace("__", " ", 1)
        if group == "Residual":
            name = name.split(" ")[0]
        out[f"{group}: {name}"] = value
    return out


def _is_residual(name: str) -> bool:
    return name.startswith("Residual: ")


def _union(lists: Sequence[Sequence[str]]) -> list[str]:
    """Every name once, in the order met."""
    return list(dict.fromkeys(name for names in lists for name in names))
