"""Arguments of the length of the data, and the rows of the data in use."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from patsy import EvalEnvironment

from sparselmm._typing import AnyArray, BoolArray, FloatArray
from sparselmm.exceptions import DataError
from sparselmm.formula.arrays import complete_rows, group_labels, kept_rows, optional_vector, take
from sparselmm.formula.matrices import UserMatrix, user_matrices
from sparselmm.formula.validate import (
    Rows,
    aligned,
    check_length,
    check_some_rows,
    shown,
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
    kept = None if subset is None else _subset_mask(frame, subset, env)
    n = len(frame)
    rows = kept_rows(n, frame.index, kept, "subset")
    if missing == "drop":
        complete = complete_rows(n, [*(frame[name] for name in names), *given.sources()])
        if complete is not None:
            before, kept = rows.n, complete if kept is None else kept & complete
            check_some_rows(int(kept.sum()), before, "missing='drop'")
            rows = kept_rows(n, frame.index, kept, "missing='drop'")
    return rows, None if kept is None or kept.all() else kept


def _subset_mask(frame: pd.DataFrame, subset: Any, env: EvalEnvironment) -> BoolArray:
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
        return np.asarray(subset)
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


def _query_mask(frame: pd.DataFrame, query: str, env: EvalEnvironment) -> BoolArray:
    namespace = env.namespace
    local = {n: namespace[n] for n in re.findall(r"@(\w+)", query) if n in namespace}
    try:
        unique = frame if frame.columns.is_unique else frame.loc[:, ~frame.columns.duplicated()]
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
