"""Checks of the data before a fit; each error says what was seen, expected and to change."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base.arguments import check_choice, shown, suggestion, unmasked
from sparselmm.base.exceptions import (
    DataError,
    FormulaError,
    MissingDataError,
    NoRandomEffectsError,
    SpecificationWarning,
    UnknownColumnError,
    UnsupportedError,
    warn_user,
)
from sparselmm.base.reduction import extremes
from sparselmm.base.types import AnyArray, BoolArray, FloatArray, IntArray
from sparselmm.design.column_types import as_float
from sparselmm.design.sources.recognised import values_of
from sparselmm.design.terms import Design, DesignLayout, RandomTerm, TermLayout

MISSING_CHOICES = ("none", "drop", "raise")
LARGEST, SMALLEST = 1e70, 1e-70
"""Sizes of columns between which products of four values, summed over rows, are in range."""

DROP_HINT = "use missing='drop' to leave such rows out"


@dataclass(frozen=True, eq=False)
class Rows:
    """Where the rows in use stand in the data the user gave.

    Attributes
    ----------
    n_all : int
        Number of rows given.
    index : Index or None
        Row labels of all rows given; None when they have none.
    positions : ndarray of int, (n,), or None
        Rows in use, ascending; None for all.
    start : int
        Rows that were read before these.
    """

    n_all: int
    index: pd.Index | None = None
    positions: IntArray | None = None
    start: int = 0

    @property
    def n(self) -> int:
        """Number of rows in use."""
        return self.n_all if self.positions is None else len(self.positions)

    def labels(self) -> pd.Index | None:
        """Labels of the rows in use."""
        if self.index is None or self.positions is None:
            return self.index
        return self.index[self.positions]

    def where(self, i: int) -> str:
        """How to name row ``i`` of those in use: ``"row 5 (label 'b')"``, counted from 0."""
        position = i if self.positions is None else int(self.positions[i])
        row = f"row {self.start + position}"
        if self.index is None or self.index[position] in (position, self.start + position):
            return row
        return f"{row} (label {shown(self.index[position])})"

    def part(self, positions: IntArray) -> Rows:
        """Only the rows at some positions among those in use."""
        if self.positions is not None:
            positions = self.positions[positions]
        return replace(self, positions=positions)


def check_missing_argument(missing: str) -> str:
    """One of the three choices."""
    return str(check_choice(missing, "missing", MISSING_CHOICES))


def unknown_column(name: str, columns: Iterable[object], used_in: str) -> UnknownColumnError:
    """The error for a name that is neither a column nor known to Python."""
    names = [str(column) for column in columns]
    known = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
    mark = next((mark for mark in ";\t|" if len(names) == 1 and mark in names[0]), None)
    if mark is not None:
        known += f". Is that one column a whole line, with {mark!r} between its values?"
    if "(" in name:
        known += f". An expression stands in the formula, as offset({name}) where it is an offset"
    return UnknownColumnError(
        f"{name!r}, used in {used_in}, is not a column of the data{suggestion(name, names)}. "
        f"Columns are: {known}".replace("?.", "?")
    )


def check_some_rows(n: int, before: int, step: str) -> None:
    """Refuse data without rows, naming the step that emptied them."""
    if n == 0:
        seen = "the data have no rows" if before == 0 else f"{step} leaves none of {before} rows"
        raise DataError(f"{seen}; a fit needs at least two")


def check_length(n_seen: int, n_expected: int, argument: str, against: str = "data") -> None:
    """Refuse an argument of the wrong length."""
    if n_seen != n_expected:
        raise DataError(
            f"{argument} has {n_seen} rows but {against} has {n_expected}; "
            "give one value per row, in the same order"
        )


def aligned(values: Any, index: pd.Index | None, argument: str, against: str = "the data") -> Any:
    """Values of the length of the data in the order of its rows.

    A Series or DataFrame with the same index labels in another order is sorted; with any other
    index it is refused. Anything without an index goes by position, and a wrong length is left to
    the caller.

    Parameters
    ----------
    values : array-like, (n,) or (n, k)
    index : Index or None
        Of the data; None where they have none.
    argument, against : str
        For the message.

    Raises
    ------
    DataError
        When the index is another one, or labels occur more than once in another order.
    """
    values = values_of(values)
    own = values.index if isinstance(values, (pd.Series, pd.DataFrame)) else None
    if own is None or index is None or own is index or own.equals(index):
        return values
    if len(own) != len(index):  # the caller says what length it needs
        return values
    by_position = f"pass {argument} as an array, .to_numpy(), if its rows are in the same order"
    if not (own.is_unique and index.is_unique):
        raise DataError(
            f"the index of {argument} differs from that of {against}, and labels in it occur more "
            f"than once, so rows cannot be matched; {by_position}"
        )
    place = own.get_indexer(index)
    absent = np.flatnonzero(place < 0)
    if len(absent):
        raise DataError(
            f"the index of {argument} differs from that of {against}: {len(absent)} of "
            f"{len(index)} label(s) are not in it, the first is {shown(index[absent[0]])}. "
            f"A Series or DataFrame is matched by its index; give it that of {against}, or "
            f"{by_position}"
        )
    return values.iloc[place]


def check_finite(values: AnyArray, names: Sequence[str], kind: str, rows: Rows) -> None:
    """Refuse NaN and infinite values in a column or a matrix, naming the column."""
    if _all_finite(values):
        return
    finite = np.isfinite(values)
    columns = finite[:, None] if finite.ndim == 1 else finite
    j = int(np.argmin(columns.all(axis=0)))
    bad = np.flatnonzero(~columns[:, j])
    column = values if values.ndim == 1 else values[:, j]
    raise not_finite(column[bad], bad, f"{kind} {names[j]!r}", rows)


def _all_finite(values: AnyArray) -> bool:
    """Whether there is no NaN and nothing infinite, without a copy."""
    return math.isfinite(values.max(initial=0)) and math.isfinite(values.min(initial=0))


def check_not_infinite(values: AnyArray, names: Sequence[str], kind: str, rows: Rows) -> None:
    """Refuse infinite values of new data, naming the column; missing ones predict nothing."""
    if _all_finite(values):
        return
    infinite = np.isinf(values).reshape(len(values), -1)
    if not infinite.any():
        return
    j = int(np.argmax(infinite.any(axis=0)))
    bad = np.flatnonzero(infinite[:, j])
    raise DataError(
        f"{kind} {names[j]!r} has {len(bad)} infinite value(s) in the new data, the first at "
        f"{rows.where(int(bad[0]))}; correct them, or leave these rows out (a missing value gives "
        "a missing prediction)"
    )


def check_size(values: AnyArray, names: Sequence[str], kind: str, root_w: float = 1.0) -> None:
    """Refuse columns whose squares, or fourth powers, overflow or vanish.

    Parameters
    ----------
    values : ndarray, (n,) or (n, c)
        Finite numbers.
    names : sequence of str, (c,)
        Names of the columns.
    kind : str
        What they are, for the message.
    root_w : float
        Square root of the largest prior weight: what counts is ``sqrt(w)`` times a value.
    """
    if not values.size:
        return
    low, high = extremes(values)
    size = np.maximum(high, -low)
    for name, seen in zip(names, size.tolist(), strict=True):
        counted = seen * root_w
        if seen and not SMALLEST < counted < LARGEST:
            much = "large" if counted >= LARGEST else "small"
            weighed = f" (times {root_w:.1g}, the root of the weights)" if root_w != 1.0 else ""
            unit = f"{10.0 ** round(np.log10(seen)):.0e}"
            raise DataError(
                f"{kind} {name!r} has values as {much} as {seen:.3g}{weighed}, too {much} for the "
                f"powers of them that a fit adds up; use another unit, such as {unit}"
            )


def not_finite(values: AnyArray, where: IntArray, what: str, rows: Rows) -> MissingDataError:
    """The error for NaN and infinite ``values`` in rows ``where``, ascending, of ``what``."""
    nan = np.isnan(values)
    seen = "missing" if nan.all() else "infinite" if not nan.any() else "missing or infinite"
    hint = DROP_HINT if nan.all() else "infinite values cannot be fitted; correct or remove them"
    return MissingDataError(
        f"{what} has {len(where)} {seen} value(s), the first at {rows.where(int(where[0]))}; {hint}"
    )


def check_codes(codes: IntArray, name: str, kind: str, rows: Rows) -> None:
    """Refuse missing labels in a grouping factor."""
    if len(codes) and codes.min() < 0:
        bad = np.flatnonzero(codes < 0)
        raise MissingDataError(
            f"{kind} {name!r} has {len(bad)} missing value(s), "
            f"the first at {rows.where(int(bad[0]))}; {DROP_HINT}"
        )


def check_response(y: FloatArray, name: str, offset: FloatArray | None) -> None:
    """Refuse a response without variation."""
    if offset is None and y.min() == y.max():
        raise DataError(
            f"the response {name!r} is constant ({y[0]:g} in all {len(y)} rows); "
            "there is no variation to explain"
        )


def check_weights(weights: FloatArray, rows: Rows) -> None:
    """Refuse negative prior weights."""
    if (weights < 0).any():
        bad = np.flatnonzero(weights < 0)
        raise DataError(
            f"weights has {len(bad)} negative value(s), the first at {rows.where(int(bad[0]))}; "
            "weights are 1/variance up to a constant and cannot be negative"
        )


def check_levels(term: TermLayout, n: int) -> None:
    """Refuse a term with a level per row, which the residual variance takes for its own."""
    if term.form == "levels" and term.n_levels >= n:
        raise _one_per_row(term, term.n_levels, f"{n} rows")


def _called(term: TermLayout) -> str:
    return f"{'component' if term.origin == 'vc' else 'grouping factor'} {term.name!r}"


def _one_per_row(term: TermLayout, l: int, rows: str) -> DataError:
    return DataError(
        f"{_called(term)} has {l} levels for {rows}: one per row, so its variance cannot be told "
        "from the residual variance. Use a factor whose levels repeat; or, where the variance v of "
        "every row is known, weights=1/v and fit(fix={'sigma': 1})"
    )


def check_counted_levels(term: RandomTerm, weights: FloatArray | None) -> None:
    """The same, and a single level, among the rows of positive weight."""
    if term.codes is None:
        return
    plain = weights is None and term.is_everywhere and 2 <= len(term.codes) > term.n_levels
    if plain and (term.codes[0] != term.codes[-1] or (term.codes != term.codes[0]).any()):
        return
    rows = term.codes >= 0 if weights is None else (term.codes >= 0) & (weights > 0)
    seen = np.zeros(term.n_levels, dtype=bool)
    seen[term.codes[rows]] = True
    check_level_counts(term, int(rows.sum()), int(seen.sum()), weights is not None)


def check_level_counts(term: TermLayout, n: int, l: int, weighted: bool) -> None:
    """The same from numbers of rows and levels."""
    counted = " of positive weight" if weighted else ""
    if term.form != "covariates" and l >= n:
        raise _one_per_row(term, l, f"{n} rows{counted}")
    if l < 2 and term.origin in ("re", "bar"):
        raise DataError(
            f"{_called(term)} has only one level with rows{counted}; the variance between levels "
            "needs at least two. Leave the term out, or use other weights"
        )


def check_term(term: TermLayout, n: int, weighted: bool, generalized: bool = False) -> None:
    """Refuse a term whose variance cannot be estimated from ``n`` rows.

    A level per row waits for the fit when there are weights: sigma may be held there.
    """
    what = _called(term)
    if term.origin in ("re", "bar") and term.n_levels < 2:
        raise DataError(
            f"{what} has only one level ({_first(term)}); the variance between levels needs at "
            "least two. Use a column that differs between groups, or leave the term out"
        )
    if generalized:
        return
    if not weighted:
        check_levels(term, n)
    if term.structure == "unstructured" and term.k * (term.k + 1) // 2 > n:
        raise DataError(
            f"{what} has {term.k} random coefficients with a free covariance: "
            f"{term.k * (term.k + 1) // 2:,} parameters for {n:,} rows. Use fewer effects, "
            "independent ones (a || before the grouping factor), or a covariance with a pattern "
            "such as cs() or ar1()"
        )
    identified = "autoregressive" in term.structure  # its correlations differ from the residual's
    if term.form == "covariates" and term.q >= n and not identified:
        warn_user(
            f"{what} has {term.q} random coefficients ({term.n_levels} levels x {term.k}) for "
            f"{n} rows; the residual variance is probably not identifiable. Use fewer effects",
            SpecificationWarning,
        )


def _first(term: TermLayout) -> str:
    return shown(term.levels.labels()[0]) if len(term.levels) else "none"


def check_names(names: Sequence[str], what: str) -> None:
    """Refuse two terms of one name."""
    if len(set(names)) < len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise FormulaError(f"two {what} are called {twice!r}; rename one of them")


def missing_rows(values: Any) -> BoolArray:
    """Rows of a column, vector or matrix with any missing value."""
    if hasattr(values, "tocoo"):
        coo = values.tocoo()
        out = np.zeros(coo.shape[0], dtype=bool)
        out[coo.row[np.isnan(coo.data)]] = True
        return out
    absent: BoolArray = np.asarray(pd.isna(unmasked(values)))
    dtype = getattr(values, "dtype", None)
    nullable = isinstance(values, pd.Series) and not isinstance(dtype, np.dtype)
    if nullable and pd.api.types.is_float_dtype(dtype):  # whose NaN is not counted as missing
        absent = absent | np.isnan(as_float(values))
    return np.asarray(absent.any(axis=1)) if absent.ndim == 2 else absent


def need_white(layout: DesignLayout, what: str) -> None:
    """Refuse what holds for independent residuals of equal variance alone."""
    if layout.residual is not None:
        raise UnsupportedError(f"{what} is not available for a model with residual= or dispersion=")


def far_from_zero(column: FloatArray, ratio: float) -> bool:
    """Whether zero is more than so many standard deviations from the mean of a covariate.

    Predictors of dispersions and zeros have no basis of their own, and its coefficient moves with
    the intercept then. Indicators and contrasts are never far.
    """
    if np.abs(column).max(initial=0.0) <= 1.0:
        return False
    return bool(abs(column.mean()) > ratio * column.std())


def origins(D: FloatArray, ratio: float) -> FloatArray:
    """Of columns far from zero round numbers near their means, zero of the others, (a,).

    Taken off, they leave every coefficient what it is and move the intercept alone, from ``c`` to
    ``c + origins @ coefficients``.
    """
    out = np.zeros(D.shape[1])
    for j, column in enumerate(D.T):
        spread = float(column.std())
        if spread > 0.0 and far_from_zero(column, ratio):
            out[j] = np.round(column.mean(), -int(np.floor(np.log10(spread))))
    return out


def _check_sizes(design: Design) -> None:
    """Refuse numbers whose squares cannot be added up."""
    root_w = 1.0
    if design.weights is not None:
        check_size(np.sqrt(design.weights), ["weights"], "the root of the argument")
        root_w = float(np.sqrt(design.weights.max()))
    check_size(design.y, [design.y_name], "the response", root_w)
    check_size(design.X, design.x_names, "the fixed-effects column", root_w)
    if design.offset is not None:
        check_size(design.offset, ["offset"], "the argument", root_w)
    for term in design.terms:
        if term.values is not None:
            check_size(term.values, term.columns, f"{term.name!r}: the covariate", root_w)
        elif term.block is not None:
            check_size(term.block.data, [term.name], "the matrix of", root_w)


def check_residual_weights(design: Design, rows: Rows) -> None:
    """Refuse rows of weight zero: their residuals have no variance that others could share."""
    if design.residual is None or design.weights is None:
        return
    zero = np.flatnonzero(design.weights == 0)
    if len(zero):
        raise DataError(
            f"weights are zero in {len(zero)} row(s), the first is {rows.where(int(zero[0]))}; "
            "with residual= or dispersion= a weight divides a variance and must be positive. Leave "
            "these rows out (subset=); times keep their distances without them"
        )


def check_rows(design: Design, rows: Rows) -> None:
    """Refuse rows that hold what no fit can use: missing or infinite values, negative weights."""
    check_finite(design.y, [design.y_name], "the response", rows)
    check_finite(design.X, design.x_names, "the fixed-effects column", rows)
    if design.offset is not None:
        check_finite(design.offset, ["offset"], "the argument", rows)
    if design.weights is not None:
        check_finite(design.weights, ["weights"], "the argument", rows)
        check_weights(design.weights, rows)


def check_design(design: Design, rows: Rows, generalized: bool = False) -> None:
    """Refuse a design that cannot be fitted; a ``generalized`` one has no residual variance."""
    if not design.terms and design.residual is None:
        raise NoRandomEffectsError(
            "the model has no random effects; add a term such as '+ (1|g)' or groups=, or fit "
            "ordinary least squares instead"
        )
    check_rows(design, rows)
    if design.weights is not None:
        if not design.weights.any():
            raise DataError("all weights are zero; at least some rows must count")
        check_residual_weights(design, rows)
    if not generalized:
        check_response(design.y, design.y_name, design.offset)
    _check_sizes(design)
    check_names([term.name for term in design.terms], "random-effects terms")
    for term in design.terms:
        check_term(term, design.n, design.weights is not None, generalized)
