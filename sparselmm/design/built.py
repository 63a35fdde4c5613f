"""A design as it was built: of rows that are kept, or of rows that were read in partitions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base.types import AnyArray, BoolArray, FloatArray, IntArray
from sparselmm.design.formula.bars import parse_formula
from sparselmm.design.formula.expressions import names_in, plain_column
from sparselmm.design.spec import DesignSpec
from sparselmm.design.terms import Design, DesignLayout

FEW_VALUES = 2
"""A covariate with at most this many distinct values is kept at each of them, as in emmeans."""

SOME_VALUES = 3
"""Distinct values that are remembered."""

MOST_CELLS = 200_000
"""Combinations of levels that are counted."""


@dataclass(frozen=True, eq=False)
class Numbers:
    """A column of numbers over the rows in use.

    Attributes
    ----------
    n : int
        Rows.
    distinct : tuple of float, or None
        Its values, sorted, where they are no more than `SOME_VALUES`.
    squares : float
        Sum of the squares of the differences from the mean.
    """

    n: int
    mean: float
    low: float
    high: float
    distinct: tuple[float, ...] | None
    squares: float

    @classmethod
    def of(cls, values: FloatArray) -> Numbers:
        """Of some rows."""
        low, high = float(values.min()), float(values.max())
        mean = float(values.mean())
        mean += float((values - mean).mean())  # removes the rounding error
        squares = float(((values - mean) ** 2).sum())
        return cls(len(values), mean, low, high, _few(values, {low, high}), squares)

    @classmethod
    def merged(cls, parts: Sequence[Numbers]) -> Numbers:
        """Of the rows of several partitions."""
        n = sum(part.n for part in parts)
        base = parts[0].mean
        mean = base + sum(part.n / n * (part.mean - base) for part in parts)
        found = {value for part in parts for value in part.distinct or ()}
        few = all(part.distinct is not None for part in parts) and len(found) <= SOME_VALUES
        low, high = min(part.low for part in parts), max(part.high for part in parts)
        squares = sum(part.squares + part.n * (part.mean - mean) ** 2 for part in parts)
        return cls(n, mean, low, high, tuple(sorted(found)) if few else None, squares)

    @property
    def values(self) -> list[float]:
        """Where marginal means are taken: at its two values, or its mean."""
        return list(self.distinct or ()) if self.few else [self.mean]

    @property
    def few(self) -> bool:
        """Whether it has no more than `FEW_VALUES` values."""
        return self.distinct is not None and len(self.distinct) <= FEW_VALUES

    @property
    def typical(self) -> float:
        """The mean, zero where rounding alone keeps it from that."""
        return 0.0 if abs(self.mean) < 1e-12 * self.sd else self.mean

    @property
    def sd(self) -> float:
        """Standard deviation, with n."""
        return float(np.sqrt(self.squares / self.n))


def _few(values: FloatArray, found: set[float]) -> tuple[float, ...] | None:
    """Distinct values, some of which were found, or None where there are many."""
    while len(found) <= SOME_VALUES:
        for rows in (slice(64), slice(64, None)):  # many values show at once
            part = values[rows]
            known = part == next(iter(found))
            for value in found:
                known |= part == value
            if not known.all():
                found = {*found, float(part[np.argmin(known)])}
                break
        else:
            return tuple(sorted(found))
    return None


@dataclass(frozen=True, eq=False)
class Cells:
    """How many rows have the same levels of the factors of the fixed part.

    Attributes
    ----------
    names : tuple of str
        The factors, and covariates of no more than `FEW_VALUES` values.
    values : ndarray, (c, number of names)
        Of every combination seen the places of the levels, and the values of covariates.
    rows, share : ndarray, (c,)
        Rows in use, and their prior weights summed.
    """

    names: tuple[str, ...]
    values: FloatArray
    rows: FloatArray
    share: FloatArray

    @classmethod
    def of(
        cls, codes: Mapping[str, AnyArray], covariates: Mapping[str, FloatArray],
        weights: FloatArray | None,
    ) -> Cells | None:  # fmt: skip
        """Of some rows; None where there are too many combinations."""
        columns = {**codes, **covariates}
        n = max(map(len, columns.values()), default=0)
        values = [np.asarray(column, dtype=float) for column in columns.values()]
        one = np.ones(n)
        return cls._together(tuple(columns), values, one, one if weights is None else weights)

    @classmethod
    def merged(cls, parts: Sequence[Cells | None], covariates: Collection[str]) -> Cells | None:
        """Of the rows of several partitions; of ``covariates`` those with few values."""
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return None
        columns = {}
        for name in known[0].names:
            if all(name in part.names for part in known):
                values = np.concatenate([p.values[:, p.names.index(name)] for p in known])
                if name not in covariates or len(np.unique(values)) <= FEW_VALUES:
                    columns[name] = values
        return cls._together(
            tuple(columns), list(columns.values()), np.concatenate([p.rows for p in known]),
            np.concatenate([p.share for p in known]),
        )  # fmt: skip

    @classmethod
    def _together(
        cls, names: tuple[str, ...], columns: Sequence[FloatArray], rows: FloatArray,
        share: FloatArray,
    ) -> Cells | None:  # fmt: skip
        key = np.zeros(len(rows), dtype=np.int64)
        for column in columns:
            own, found = pd.factorize(column)
            key, _ = pd.factorize(key * max(len(found), 1) + own)
        count = int(key.max(initial=-1)) + 1
        if count > MOST_CELLS:
            return None
        _, first = np.unique(key, return_index=True)
        values = np.column_stack([c[first] for c in columns]) if columns else np.zeros((count, 0))
        sums = [np.asarray(np.bincount(key, w, count), dtype=float) for w in (rows, share)]
        return cls(names, values, *sums)


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
    cells : Cells or None
        Rows by the levels of its factors; None where there are too many combinations.
    grouped : Design or None
        Where residuals depend on each other, their groups, those alike added up.
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
    cells: Cells | None = None
    grouped: Design | None = None


@dataclass(frozen=True, eq=False)
class BuiltDesign:
    """A design, the recipe to evaluate it again, and the rows it was built from.

    Attributes
    ----------
    layout : DesignLayout
        Names, levels and structures; a `Design` while there are rows.
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

    layout: DesignLayout
    spec: DesignSpec
    row_labels: pd.Index | None
    kept: BoolArray | None
    pandas: bool
    frame: pd.DataFrame | None
    further: dict[str, FloatArray] = field(default_factory=dict)
    streamed: Streamed | None = None

    @property
    def design(self) -> Design:
        """Response, fixed and random design of the rows.

        Raises
        ------
        RemovedRowsError
            When they are gone, or were read in partitions and not kept.
        """
        return self.layout.rows("the design")

    @property
    def has_rows(self) -> bool:
        """Whether the rows are there."""
        return isinstance(self.layout, Design)

    @property
    def n(self) -> int:
        """Rows in use, kept or not; none after they were removed."""
        if self.streamed is not None:
            return self.streamed.n
        return self.design.n if self.has_rows else 0

    def without_rows(self) -> BuiltDesign:
        """The same with every row removed, names and levels kept."""
        return replace(
            self, layout=self.layout.without_rows(), row_labels=None, kept=None, frame=None,
            further={name: X[:0] for name, X in self.further.items()},
        )  # fmt: skip

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
        return replace(self, layout=design, frame=frame)

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
            return replace(self, layout=design, frame=frame)
        further = {name: X[rows] for name, X in self.further.items()}
        return replace(
            self, layout=design, frame=frame, row_labels=None, kept=None, further=further
        )
