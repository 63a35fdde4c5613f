"""A design as it was built: of rows that are kept, or of rows that were read in partitions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from sparselmm.base.types import BoolArray, FloatArray, IntArray
from sparselmm.design.formula.bars import parse_formula
from sparselmm.design.formula.expressions import names_in, plain_column
from sparselmm.design.spec import DesignSpec
from sparselmm.design.terms import Design

FEW_VALUES = 2
"""A covariate with at most this many distinct values is kept at each of them, as in emmeans."""


@dataclass(frozen=True, eq=False)
class Numbers:
    """A column of numbers over the rows in use.

    Attributes
    ----------
    n : int
        Rows.
    mean, low, high : float
    distinct : tuple of float, or None
        Its values, sorted, where they are no more than `FEW_VALUES`.
    """

    n: int
    mean: float
    low: float
    high: float
    distinct: tuple[float, ...] | None

    @classmethod
    def of(cls, values: FloatArray) -> Numbers:
        """Of some rows."""
        low, high = float(values.min()), float(values.max())
        few = all(
            bool(((values[rows] == low) | (values[rows] == high)).all())
            for rows in (slice(64), slice(64, None))
        )
        mean = float(values.mean())
        mean += float((values - mean).mean())  # removes the rounding error
        return cls(len(values), mean, low, high, tuple(sorted({low, high})) if few else None)

    @classmethod
    def merged(cls, parts: Sequence[Numbers]) -> Numbers:
        """Of the rows of several partitions."""
        n = sum(part.n for part in parts)
        base = parts[0].mean
        mean = base + sum(part.n / n * (part.mean - base) for part in parts)
        found = {value for part in parts for value in part.distinct or ()}
        few = all(part.distinct is not None for part in parts) and len(found) <= FEW_VALUES
        low, high = min(part.low for part in parts), max(part.high for part in parts)
        return cls(n, mean, low, high, tuple(sorted(found)) if few else None)

    @property
    def values(self) -> list[float]:
        """Where marginal means are taken: at its two values, or its mean."""
        return [self.mean] if self.distinct is None else list(self.distinct)


@dataclass(frozen=True, eq=False)
class Streamed:
    """What remains of rows that were read in partitions and not kept.

    Attributes
    ----------
    n : int
        Rows in use.
    group_sizes : ndarray of int, (n_groups,), or None
        Rows of every group of the ``groups`` argument.
    k_constant : int
        1 when X has a constant column, else 0.
    counted_levels : tuple of int
        Levels of every term that have rows of positive weight.
    n_counted : int
        Rows of positive weight.
    weighted : bool
        Whether there are prior weights.
    recipe : Recipe
        How rows are read again, see :mod:`sparselmm.design.passes.learned`.
    shown : DataFrame
        A few rows with all labels that meet in the fixed part.
    numbers : dict of str to Numbers
        Columns of numbers that the fixed part is made of.
    """

    n: int
    group_sizes: IntArray | None
    k_constant: int
    counted_levels: tuple[int, ...]
    n_counted: int
    weighted: bool
    recipe: Any
    shown: pd.DataFrame
    numbers: dict[str, Numbers]


@dataclass(frozen=True, eq=False)
class BuiltDesign:
    """A design, the recipe to evaluate it again, and the rows it was built from.

    Attributes
    ----------
    design : Design
        Numbers.
    spec : DesignSpec
        Recipe.
    row_labels : Index or None
        Index of the rows kept; None when the data had none.
    kept : ndarray of bool, or None
        Rows of the original data kept by ``subset`` and ``missing``; None for all.
    pandas : bool
        Whether the user works with pandas.
    frame : DataFrame or None
        The rows kept; the user's own object when all are, until `owned`.
    further : dict
        Designs (n, c) of the predictors besides the mean's.
    streamed : Streamed or None
        What remains of rows that were read in partitions and not kept.
    """

    design: Design
    spec: DesignSpec
    row_labels: pd.Index | None
    kept: BoolArray | None
    pandas: bool
    frame: pd.DataFrame | None
    further: dict[str, FloatArray] = field(default_factory=dict)
    streamed: Streamed | None = None

    def owned(self) -> BuiltDesign:
        """The same with a response, weights, offset and frame that others do not change.

        X is not copied, nor are the columns of the frame.
        """
        old = self.design
        design = replace(
            old, y=old.y.copy(), weights=None if old.weights is None else old.weights.copy(),
            offset=None if old.offset is None else old.offset.copy(),
        )  # fmt: skip
        frame = None if self.frame is None else self.frame.copy(deep=False)
        return replace(self, design=design, frame=frame)

    def of(self, design: Design, rows: IntArray | None = None) -> BuiltDesign:
        """The same with another response, or of some of the rows, (m,), in any order.

        Columns of the frame that only made the old response are left out, unless they are it.
        """
        frame = self.frame
        if frame is not None and rows is not None:
            frame = frame.iloc[rows].reset_index(drop=True)
        if frame is not None and self.spec.formula is not None:
            code = parse_formula(self.spec.formula).response
            column = plain_column(code)
            if column is not None and column[0] in frame.columns:
                frame = frame.copy(deep=False)
                frame[column[0]] = design.y
            else:
                used = {name for text in self.spec.codes() for name in names_in(text)}
                old = [name for name in names_in(code) if name not in used]
                frame = frame.drop(columns=[name for name in old if name in frame.columns])
        if rows is None:
            return replace(self, design=design, frame=frame)
        further = {name: X[rows] for name, X in self.further.items()}
        return replace(
            self, design=design, frame=frame, row_labels=None, kept=None, further=further
        )
