"""Tables of contrasts, and letters that say which means differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy

from sparselmm.base.types import FloatArray
from sparselmm.inference.hypotheses.marginal_means import LinearEstimates
from sparselmm.inference.hypotheses.multiplicity import ADJUSTMENTS, JOINT, STEPS, Family
from sparselmm.results.plots.means import interval_plot
from sparselmm.results.print.notebook import Table, frame_html


class ContrastTable(Table):
    """A DataFrame of contrasts that draws its intervals with :meth:`plot`."""

    _metadata = ("limits", "note")

    limits: tuple[str, str]
    note: str

    @classmethod
    def of(cls, frame: pd.DataFrame, limits: tuple[str, str], note: str) -> ContrastTable:
        """From the table, the names of the columns of limits and a line to put below."""
        table = cls(frame)
        table.limits, table.note = limits, note
        return table

    def plot(self, ax: Any = None) -> Any:
        """Estimates with their intervals, one line each, beside the value under the hypothesis.

        Parameters
        ----------
        ax : matplotlib Axes, optional

        Returns
        -------
        matplotlib.figure.Figure
        """
        columns = list(self.columns)
        labels = self[columns[: columns.index("SE") - 1]].astype(str).agg(", ".join, axis=1)
        name = columns[columns.index("SE") - 1]
        ends = self[list(self.limits)].to_numpy(dtype=float)
        neutral = {"estimate": 0.0, "response": None}.get(name, 1.0)
        if "null" in columns:
            neutral = float(self["null"].iloc[0])
        value = self[name].to_numpy(dtype=float)
        return interval_plot(list(labels), value, ends, name.replace(".", " "), neutral, ax)

    def _repr_html_(self) -> str:
        return frame_html(pd.DataFrame(self), self.note)


def compact_letters(differ: np.ndarray[Any, Any]) -> list[str]:
    """Letters of k means from which pairs differ, (k, k)."""
    k = len(differ)
    columns = [set(range(k))]
    for i in range(k):
        for j in range(i + 1, k):
            if not differ[i, j]:
                continue
            split = [c for c in columns if {i, j} <= c]
            columns = [c for c in columns if c not in split]
            columns += [c - {one} for c in split for one in (i, j)]
            columns = [
                c for n, c in enumerate(columns)
                if not any(c < o or (c == o and m < n) for m, o in enumerate(columns))
            ]  # fmt: skip
    columns.sort(key=lambda c: (min(c), max(c)))
    return ["".join(_letter(n) for n, c in enumerate(columns) if i in c) for i in range(k)]


def _letter(n: int) -> str:
    return chr(ord("a") + n) if n < 26 else f"({n + 1})"


SIDES = {
    "two-sided": 0, "=": 0, "equivalence": 0, "less": -1, "<": -1, "nonsuperiority": -1,
    "greater": 1, ">": 1, "noninferiority": 1,
}  # fmt: skip

WITH_DELTA = ("equivalence", "noninferiority", "nonsuperiority")

ALL_ADJUSTMENTS = ("none", *JOINT, *ADJUSTMENTS)


def adjustment_note(adjust: str, side: str) -> str:
    """The adjustments made: of p-values, and of intervals where that is another one."""
    one_sided = adjust in JOINT and adjust != "mvt"
    p = "sidak" if one_sided and (SIDES[side] or side in WITH_DELTA) else adjust
    ends = "sidak" if one_sided and SIDES[side] else adjust
    if STEPS.get(adjust, "sidak") not in ("sidak", "bonferroni"):
        ends = "bonferroni"
    return f"Adjustment: {p}" + (f" (intervals: {ends})" if ends != p else "")


def contrast_tests(
    found: LinearEstimates, group: Family, adjust: str, alpha: float,
    hypothesis: tuple[int, float, float],
) -> tuple[FloatArray, FloatArray]:  # fmt: skip
    """Statistics and p-values of ``estimate = null``, or of a margin around it."""
    side, delta, null = hypothesis
    away = found.estimate - null
    with np.errstate(divide="ignore", invalid="ignore"):
        if delta and not side:
            t = (np.abs(away) - delta) / found.se
            return t, group.pvalues(t, found.df, adjust, alpha, -1)
        t = (away + side * delta) / found.se
    return t, group.pvalues(t, found.df, adjust, alpha, side)


def shown_value(value: Any) -> str:
    """A value of a cell as text."""
    if isinstance(value, (float, np.floating)):
        return f"{value:.7g}"
    return str(value)


def reads_as_number(text: str) -> bool:
    """Whether a label could be taken for a number."""
    try:
        float(text)
    except ValueError:
        return text in ("True", "False")
    return True


def arrow_lengths(
    estimate: FloatArray, reach: FloatArray, pairs: Sequence[tuple[int, int]], k: int
) -> FloatArray:
    """Arrows to the left and to the right of k means, (k, 2), that show which pairs differ.

    The higher mean's left arrow and the lower mean's right one shall add up to the least
    significant difference ``reach`` of their pair; non-negative least squares, close pairs counting
    most, drawn towards arrows of half that length.
    """
    good = np.flatnonzero(np.isfinite(reach))
    A = np.zeros((len(good), 2 * k))
    for row, at in enumerate(good.tolist()):
        i, j = pairs[at] if estimate[at] > 0 else pairs[at][::-1]
        A[row, i], A[row, k + j] = 1.0, 1.0
    weight = np.exp(-np.abs(1.0 - np.abs(estimate[good]) / reach[good]))
    ridge = 0.05 * np.eye(2 * k)
    half = np.full(2 * k, 0.05 * 0.5 * np.mean(reach[good]))
    both = np.vstack([A * weight[:, None], ridge])
    length, _ = scipy.optimize.nnls(both, np.r_[reach[good] * weight, half])
    return np.asarray(length.reshape(2, k).T)
