"""Mixed models from arrays: ``endog, exog, groups, exog_re, exog_vc``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from sparselmm._typing import BoolArray, FloatArray
from sparselmm.exceptions import DataError
from sparselmm.formula.coded import GROUPS, coded_term
from sparselmm.formula.exact import objects
from sparselmm.formula.factors import Crossing, Factor, cross, factorize
from sparselmm.formula.kinds import as_array, as_float, check_numeric, float_matrix
from sparselmm.formula.known import with_known
from sparselmm.formula.matrices import Built, VCSpec, stack_all, user_matrices
from sparselmm.formula.spec import (
    BuiltDesign,
    DesignSpec,
    GroupsSpec,
    check_design,
    keep_mask,
    row_vector,
)
from sparselmm.formula.validate import (
    Rows,
    aligned,
    check_codes,
    check_finite,
    check_length,
    check_missing_argument,
    check_names,
    check_some_rows,
    missing_rows,
)
from sparselmm.terms import Design, Grouping


def from_arrays(
    endog: Any,
    exog: Any,
    groups: Any = None,
    *,
    exog_re: Any = None,
    exog_vc: VCSpec | dict[str, Any] | None = None,
    weights: Any = None,
    offset: Any = None,
    z_terms: Mapping[str, Any] | None = None,
    covariance: Mapping[str, Any] | None = None,
    missing: str = "none",
    further: Mapping[str, Any] | None = None,
    generalized: bool = False,
) -> BuiltDesign:
    """Build a design from arrays.

    Parameters
    ----------
    endog : array-like, (n,)
        Response.
    exog : array-like, (n, p) or (n,)
        Fixed-effects design; no intercept is added.
    groups : array-like, (n,), optional
        Group labels; groups are sorted.
    exog_re : array-like, (n, k) or (n,), optional
        Covariates of the random coefficients of a group. Default: a random intercept, unless
        ``exog_vc`` is given.
    exog_vc : VCSpec, optional
        Variance components; a dict ``{name: {group: matrix}}`` is deprecated.
    weights : array-like, (n,), optional
        Prior weights >= 0; rows of weight zero are kept but do not count.
    offset : array-like, (n,), optional
        Known part of the linear predictor.
    z_terms : mapping, optional
        Name to any (n, l) matrix, sparse or dense: a term with one variance.
    covariance : mapping, optional
        ``"Group"`` to :class:`~sparselmm.KnownCovariance` between the groups.
    missing : {"none", "drop", "raise"}
        "drop" leaves rows with missing values out, otherwise they are an error.
    further : mapping, optional
        Name of a predictor besides the mean's, such as ``"dispersion"``, to its design (n, c).
    generalized : bool
        Whether the response has a variance of its own, so that no residual variance is needed.

    Returns
    -------
    BuiltDesign

    Raises
    ------
    DataError
        When arrays do not fit each other or cannot be fitted.
    MissingDataError
        When values are missing and ``missing`` is not "drop".

    Examples
    --------
    >>> built = from_arrays([1.0, 2, 3, 5], [[1], [1], [1], [1]], ["a", "a", "b", "b"])
    >>> built.design.terms[0].levels.labels().tolist()
    ['a', 'b']
    """
    check_missing_argument(missing)
    y, y_name, index = _response(endog)
    n = len(y)
    check_some_rows(n, n, "")
    order = _row_order(endog, exog, groups, exog_re, weights, offset)
    X, x_names = _exog(exog, n, order)
    labels = None if groups is None else group_labels(groups, n, order)
    _check_group_arguments(labels, exog_re=exog_re, exog_vc=exog_vc)
    re, re_names = (None, ("Group",)) if exog_re is None else _covariates(exog_re, n, order)
    weights = optional_vector(weights, n, "weights", order)
    offset = optional_vector(offset, n, "offset", order)
    stacks = [] if exog_vc is None else stack_all(exog_vc, factorize(labels, sort=True))
    matrices = user_matrices(z_terms, n, order)
    others = {
        name: _matrix(aligned(values, order, name), n, name, name)[0]
        for name, values in (further or {}).items()
    }
    blocks = [stack.block for stack in stacks] + [matrix.block for matrix in matrices]
    kept = None
    if missing == "drop":
        kept = complete_rows(n, [y, X, labels, re, weights, offset, *blocks, *others.values()])
    rows = kept_rows(n, index, kept, "missing='drop'")
    built: list[Built] = []
    grouping = None if labels is None else make_grouping("Group", take(labels, kept), rows)
    if grouping is not None and (exog_re is not None or not stacks):
        built.append(_group_term(grouping, re_names, take(re, kept), rows))
    built += [stack.kept(kept, grouping).term(rows) for stack in stacks]
    built += [matrix.kept(kept).term(rows) for matrix in matrices]
    built = with_known(built, covariance)
    terms = tuple(term for term, _ in built)
    y, X, weights, offset = (take(part, kept) for part in (y, X, weights, offset))
    design = Design(y, X, x_names, terms, y_name, weights, offset, grouping)
    check_design(design, rows, generalized)
    others = {name: take(values, kept) for name, values in others.items()}
    for name, values in others.items():
        names = [f"{name}{j + 1}" for j in range(values.shape[1])]
        check_finite(values, names, "column", rows)
    spec = DesignSpec(
        formula=None,
        x_names=x_names,
        terms=tuple(memory for _, memory in built),
        groups=None if grouping is None else GroupsSpec("Group", None, grouping.labels),
        offset_array=offset is not None,
    )
    frame = exog if isinstance(exog, pd.DataFrame) else None
    if frame is not None and kept is not None:
        frame = frame[kept]
    pandas = index is not None or isinstance(exog, (pd.Series, pd.DataFrame))
    return BuiltDesign(design, spec, rows.labels(), kept, pandas, frame, others)


def _row_order(*sources: Any) -> pd.Index | None:
    """Index of the first argument that has one: the others are put into its order."""
    given = (s.index for s in sources if isinstance(s, (pd.Series, pd.DataFrame)))
    return next(given, None)


def _response(endog: Any) -> tuple[FloatArray, str, pd.Index | None]:
    if isinstance(endog, pd.DataFrame):
        if endog.shape[1] != 1:
            raise DataError(f"endog has {endog.shape[1]} columns; give the response alone")
        endog = endog.iloc[:, 0]
    index = endog.index if isinstance(endog, pd.Series) else None
    name = "y" if index is None or endog.name is None else str(endog.name)
    values = endog if index is not None else as_array(endog, "endog")
    if np.ndim(values) == 2 and np.shape(values)[1] == 1:
        values = values[:, 0]
    if np.ndim(values) != 1:
        raise DataError(f"endog must be one column, got shape {np.shape(values)}")
    check_numeric(values, f"endog {name!r}" if index is not None else "endog")
    return as_float(values), name, index


def _exog(exog: Any, n: int, index: pd.Index | None) -> tuple[FloatArray, tuple[str, ...]]:
    if exog is None:
        raise DataError("exog is missing; for an intercept alone pass a column of ones")
    X, names = _matrix(aligned(exog, index, "exog", "endog"), n, "exog", "x")
    if names is None:
        names = _default_names(X)
    return X, names


def _default_names(X: FloatArray) -> tuple[str, ...]:
    """``const`` for the first constant column, ``x1, x2, ...`` for the others."""
    constant = np.flatnonzero([column.min() == column.max() for column in X.T])
    names = [f"x{j}" for j in range(1, X.shape[1] + 1)]
    if len(constant):
        names = [f"x{j}" for j in range(1, X.shape[1])]
        names.insert(int(constant[0]), "const")
    return tuple(names)


def _matrix(
    values: Any, n: int, argument: str, prefix: str
) -> tuple[FloatArray, tuple[str, ...] | None]:
    """Any 1-d or 2-d numbers as (n, k), with the names pandas gives them."""
    names: tuple[str, ...] | None = None
    if isinstance(values, pd.Series):
        names = (f"{prefix}1" if values.name is None else str(values.name),)
        values = values.to_frame()
    elif isinstance(values, pd.DataFrame):
        names = tuple(map(str, values.columns))
    matrix = float_matrix(values, argument)
    if matrix.ndim == 1:
        matrix = matrix[:, None]
    if matrix.ndim != 2:
        raise DataError(f"{argument} must have two dimensions, got shape {matrix.shape}")
    check_length(len(matrix), n, argument, "endog")
    return matrix, names


def _covariates(exog_re: Any, n: int, index: pd.Index | None) -> tuple[FloatArray, tuple[str, ...]]:
    values, names = _matrix(aligned(exog_re, index, "exog_re"), n, "exog_re", "x_re")
    if names is None:
        names = tuple(f"x_re{j}" for j in range(1, values.shape[1] + 1))
    if len(set(names)) < len(names):
        check_names(names, "columns of exog_re")
    return values, names


def _check_group_arguments(labels: Any, **arguments: Any) -> None:
    if labels is None:
        for name, value in arguments.items():
            if value is not None:
                raise DataError(f"{name} needs groups; pass groups=, one label per row")


def group_labels(groups: Any, n: int, index: pd.Index | None) -> Any:
    """The ``groups`` argument as one label per row, or an error that tells how to write two."""
    if getattr(groups, "ndim", 1) != 1 or isinstance(groups, (list, tuple)):
        if isinstance(groups, (list, tuple)) and len(groups) != n:
            _refuse_several(groups, n)
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


def _shape(rows: Sequence[Any]) -> tuple[int, ...]:
    nested = bool(rows) and all(isinstance(row, (list, tuple, np.ndarray)) for row in rows)
    return (len(rows), len(rows[0])) if nested else (len(rows),)


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


def _group_term(
    grouping: Grouping, columns: tuple[str, ...], values: FloatArray | None, rows: Rows
) -> Built:
    if values is not None:
        check_finite(values, columns, "exog_re column", rows)
    effects = None if values is None else columns
    crossing = group_crossing(grouping)
    return coded_term("Group", "re", columns, ("Group",), (GROUPS,), crossing, values, effects)


def complete_rows(n: int, sources: Sequence[Any]) -> BoolArray | None:
    """Rows without a missing value in any source; None when all are."""
    return keep_mask(n, [~missing_rows(source) for source in sources if source is not None])


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
