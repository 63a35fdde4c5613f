"""Arguments of the length of the data, and the rows of the data in use."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base.arguments import shown, unmasked
from sparselmm.base.exceptions import DataError, FormulaError
from sparselmm.base.types import AnyArray, BoolArray, FloatArray
from sparselmm.design.exact_labels import objects
from sparselmm.design.factors import Crossing, Factor, cross, factorize
from sparselmm.design.formula.remembered import EvalEnvironment
from sparselmm.design.kinds.matrices import UserMatrix, user_matrices
from sparselmm.design.spec import row_vector
from sparselmm.design.terms import Grouping
from sparselmm.design.validate import (
    Rows,
    aligned,
    check_codes,
    check_length,
    check_some_rows,
    missing_rows,
    unknown_column,
)


@dataclass(frozen=True, eq=False)
class Given:
    """Arguments that are columns of the data or of their length.

    Attributes
    ----------
    groups : array-like, (n,), or None
        Group labels.
    groups_name, groups_column : str
        How results call the groups, and the column they came from when known.
    weights, offset : ndarray, (n,), or None
        Prior weights and offset.
    offset_column : str or None
        Column given as offset.
    matrices : list of UserMatrix
        The ``z_terms``.
    columns : list of str
        Columns these arguments name.
    """

    groups: Any
    groups_name: str
    groups_column: str | None
    weights: FloatArray | None
    offset: FloatArray | None
    offset_column: str | None
    matrices: list[UserMatrix]
    columns: list[str]

    @classmethod
    def of(cls, frame: pd.DataFrame, groups: Any, weights: Any, offset: Any, z_terms: Any) -> Given:
        """Read the arguments, each checked against the length of the data."""
        n = len(frame)
        name, column, labels = "Group", None, None
        if isinstance(groups, str):
            name = column = groups
            labels = _column(frame, groups, "groups")
        elif groups is not None:
            labels = group_labels(groups, n, frame.index)
            column = _origin(groups, frame)
        vectors = {}
        for argument, value in (("weights", weights), ("offset", offset)):
            if isinstance(value, str):
                value = _column(frame, value, argument)
            vectors[argument] = optional_vector(value, n, argument, frame.index)
        columns = [value for value in (groups, weights, offset) if isinstance(value, str)]
        offset_column = offset if isinstance(offset, str) else None
        matrices = user_matrices(z_terms, n, frame.index)
        return cls(
            labels,
            name,
            column,
            vectors["weights"],
            vectors["offset"],
            offset_column,
            matrices,
            columns,
        )

    def kept(self, kept: BoolArray) -> Given:
        """Only the rows kept."""
        return replace(
            self,
            groups=take(self.groups, kept),
            weights=take(self.weights, kept),
            offset=take(self.offset, kept),
            matrices=[matrix.kept(kept) for matrix in self.matrices],
        )

    def sources(self) -> list[Any]:
        """Whatever may hold missing values."""
        blocks = [matrix.block for matrix in self.matrices]
        return [self.groups, self.weights, self.offset, *blocks]


def _origin(groups: Any, frame: pd.DataFrame) -> str | None:
    """The column of the data a Series was taken from, unchanged; then new data have it too."""
    name = getattr(groups, "name", None)
    if not isinstance(groups, pd.Series) or not isinstance(name, str):
        return None
    same = name in frame.columns and groups.equals(frame[name])
    return name if same else None


def _column(frame: pd.DataFrame, name: str, argument: str) -> Any:
    if name not in frame.columns:
        if argument == "weights" and name.startswith("var") and "(" in name:
            raise FormulaError(
                f"weights = {name!r} is not available; variances that follow a factor or a "
                "covariate are dispersion='~ factor' or dispersion='~ log(x)'"
            )
        raise unknown_column(name, frame.columns, f"{argument}=")
    column: Any = frame[name]
    if isinstance(column, pd.DataFrame):
        raise DataError(f"the data have {column.shape[1]} columns called {name!r}; keep one")
    return column


def rows_in_use(
    frame: pd.DataFrame,
    names: Sequence[str],
    given: Given,
    subset: Any,
    missing: str,
    env: EvalEnvironment,
) -> tuple[Rows, BoolArray | None]:
    """Rows left by ``subset`` and ``missing``, and their mask (None for all).

    Parameters
    ----------
    frame : DataFrame
        All rows.
    names : sequence of str
        Columns in use.
    given : Given
        Arguments that may miss values too.
    subset, missing
        As in ``from_formula``.
    env : EvalEnvironment
        Where ``@name`` in a query is looked up.
    """
    kept = None if subset is None else subset_mask(frame, subset, env)
    n = len(frame)
    rows = kept_rows(n, frame.index, kept, "subset")
    if missing == "drop":
        complete = complete_rows([*(frame[name] for name in names), *given.sources()])
        if complete is not None:
            before, kept = rows.n, complete if kept is None else kept & complete
            check_some_rows(int(kept.sum()), before, "missing='drop'")
            rows = kept_rows(n, frame.index, kept, "missing='drop'")
    return rows, None if kept is None or kept.all() else kept


def subset_mask(frame: pd.DataFrame, subset: Any, env: EvalEnvironment) -> BoolArray:
    """Rows that ``subset`` keeps: a mask, a query, or index labels."""
    if isinstance(subset, str):
        return _query_mask(frame, subset, env)
    values = subset if isinstance(subset, (pd.Series, pd.Index)) else _listed(subset)
    if np.ndim(values) != 1:
        raise _not_a_subset(subset)
    if pd.api.types.infer_dtype(values, skipna=True) == "boolean":
        check_length(len(values), len(frame), "the mask subset")
        values = aligned(values, frame.index, "subset")
        if pd.isna(values).any():
            raise DataError("the mask subset has missing values; say which rows to use with True")
        return np.asarray(values, dtype=bool)
    try:
        return _labelled_rows(frame, values)
    except TypeError as error:  # labels that cannot be hashed
        raise _not_a_subset(subset) from error


def _listed(subset: Any) -> AnyArray:
    if isinstance(subset, (set, frozenset, range)):
        subset = list(subset)
    try:
        return np.asarray(unmasked(subset))
    except ValueError as error:
        raise _not_a_subset(subset) from error


def _not_a_subset(subset: Any) -> DataError:
    return DataError(
        f"subset must be a boolean mask, index labels or a query string, got {subset!r:.100}"
    )


def _labelled_rows(frame: pd.DataFrame, values: Any) -> BoolArray:
    """Rows with some index labels."""
    labels = pd.Index(values)
    if not labels.is_unique:
        twice = labels[labels.duplicated()][0]
        raise DataError(
            f"subset names the label {shown(twice)} more than once; pass each label once, or a "
            "mask of True and False"
        )
    unknown = labels[~labels.isin(frame.index)]
    if len(unknown):
        raise DataError(
            f"subset has {len(unknown)} label(s) that are not in the index of the data, the first "
            f"is {shown(unknown[0])}; pass index labels, a boolean mask or a query string"
        )
    return np.asarray(frame.index.isin(labels))


_QUERY = Lock()
"""pandas changes the filters of warnings while it evaluates, which threads share."""


def _query_mask(frame: pd.DataFrame, query: str, env: EvalEnvironment) -> BoolArray:
    namespace = env.namespace
    local = {n: namespace[n] for n in re.findall(r"@(\w+)", query) if n in namespace}
    try:
        unique = frame if frame.columns.is_unique else frame.loc[:, ~frame.columns.duplicated()]
        with _QUERY:
            mask = np.asarray(unique.eval(query, local_dict=local))
    except Exception as error:  # whatever pandas makes of the user's expression
        raise DataError(
            f"cannot evaluate subset={query!r}: {type(error).__name__}: {error}"
        ) from error
    if mask.dtype != bool or mask.shape != (len(frame),):
        raise DataError(
            f"subset={query!r} must give True or False for every row; it gives {mask.dtype}"
        )
    return mask


def group_labels(groups: Any, n: int, index: pd.Index | None) -> Any:
    """The ``groups`` argument as one label per row, or an error that tells how to write two."""
    if getattr(groups, "ndim", 1) != 1 or isinstance(groups, (list, tuple)):
        if isinstance(groups, (list, tuple)) and len(groups) != n:
            _refuse_several(groups, n)
        if isinstance(groups, (list, tuple)) and groups and all(map(_is_label, groups)):
            return objects(list(groups))
        shape = np.shape(groups) if not isinstance(groups, (list, tuple)) else _shape(groups)
        if len(shape) == 2 and shape[1] != 1:
            _refuse_two(shape[1])
        if len(shape) == 2:
            groups = groups.iloc[:, 0] if isinstance(groups, pd.DataFrame) else np.ravel(groups)
    if isinstance(groups, (list, tuple)):
        groups = objects(list(groups))
    if isinstance(groups, (str, bytes)) or np.ndim(groups) != 1:
        raise DataError(f"groups must hold one label per row ({n}), got {groups!r}")
    check_length(len(groups), n, "groups")
    groups = aligned(groups, index, "groups")
    return groups if hasattr(groups, "dtype") else objects(list(groups))


def _is_label(value: Any) -> bool:
    """A tuple, which is a label of its own as in an index of several levels."""
    return isinstance(value, tuple)


def _shape(rows: Sequence[Any]) -> tuple[int, ...]:
    nested = bool(rows) and all(isinstance(row, (list, tuple, np.ndarray)) for row in rows)
    widths = {len(row) for row in rows} if nested else set()
    return (len(rows), *widths) if len(widths) == 1 else (len(rows),)


def _refuse_several(groups: Sequence[Any], n: int) -> None:
    if groups and all(isinstance(name, str) for name in groups):
        bars = " + ".join(f"(1|{name})" for name in groups[:4])
        raise DataError(
            f"groups is a list of {len(groups)} name(s) for {n} rows; it takes one grouping "
            f"factor. Several are written in the formula, '... + {bars}'"
        )


def _refuse_two(count: int) -> None:
    raise DataError(
        f"groups has {count} columns; it takes one grouping factor. Several are written in the "
        "formula: '... + (1|a) + (1|b)' for crossed factors, '... + (1|a/b)' for b within a"
    )


def optional_vector(
    values: Any, n: int, argument: str, index: pd.Index | None
) -> FloatArray | None:
    """Weights or offset as floats, one per row in the order of ``index``, when there are any."""
    return None if values is None else row_vector(aligned(values, index, argument), n, argument)


def make_grouping(name: str, labels: Any, rows: Rows) -> Grouping:
    """Sorted groups; missing labels are an error."""
    factor = factorize(labels, sort=True)
    check_codes(factor.codes, name, "groups", rows)
    return Grouping(name, factor.labels, factor.codes)


def group_crossing(grouping: Grouping) -> Crossing:
    """The groups as a crossing of one factor."""
    return cross([Factor(grouping.codes, grouping.labels)])


def complete_rows(sources: Sequence[Any]) -> BoolArray | None:
    """Rows without a missing value in any source; None when all are."""
    return keep_mask([~missing_rows(source) for source in sources if source is not None])


def take(values: Any, kept: BoolArray | None) -> Any:
    """The rows kept, without a copy when all are."""
    if values is None or kept is None:
        return values
    return values[kept] if hasattr(values, "dtype") else np.asarray(values)[kept]


def kept_rows(n: int, index: pd.Index | None, kept: BoolArray | None, step: str) -> Rows:
    """Positions of the rows kept; none left is an error."""
    rows = Rows(n, index, None if kept is None else np.flatnonzero(kept))
    check_some_rows(rows.n, n, step)
    return rows


def keep_mask(masks: Sequence[BoolArray]) -> BoolArray | None:
    """Rows kept by all of some masks; None when every row is."""
    kept = None
    for mask in masks:
        kept = mask.copy() if kept is None else kept & mask
    return None if kept is None or kept.all() else kept
