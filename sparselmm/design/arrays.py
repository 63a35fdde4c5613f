"""Mixed models from arrays: ``endog, exog, groups, exog_re, exog_vc``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base.arguments import shown
from sparselmm.base.exceptions import DataError
from sparselmm.base.types import FloatArray
from sparselmm.design.built import BuiltDesign
from sparselmm.design.column_types import as_array, as_float, check_numeric, float_matrix
from sparselmm.design.factors import factorize
from sparselmm.design.kinds.coded import GROUPS, coded_term
from sparselmm.design.kinds.known import with_known
from sparselmm.design.kinds.matrices import Built, VCSpec, stack_all, user_matrices
from sparselmm.design.kinds.residual_arrays import residual_from_arrays
from sparselmm.design.row_arguments import (
    complete_rows,
    group_crossing,
    group_labels,
    kept_rows,
    make_grouping,
    optional_vector,
    take,
)
from sparselmm.design.spec import DesignSpec, GroupsSpec
from sparselmm.design.terms import Design, Grouping
from sparselmm.design.validate import (
    Rows,
    aligned,
    check_design,
    check_finite,
    check_length,
    check_missing_argument,
    check_names,
    check_some_rows,
)


def from_arrays(
    endog: Any, exog: Any, groups: Any = None, *, exog_re: Any = None,
    exog_vc: VCSpec | dict[str, Any] | None = None, weights: Any = None, offset: Any = None,
    z_terms: Mapping[str, Any] | None = None, covariance: Mapping[str, Any] | None = None,
    missing: str = "none", further: Mapping[str, Any] | None = None, generalized: bool = False,
    residual: Mapping[str, Any] | None = None, dispersion: Any = None,
) -> BuiltDesign:  # fmt: skip
    """Build a design from arrays; arguments as of :class:`~sparselmm.MixedLM`.

    Examples
    --------
    >>> built = from_arrays([1.0, 2, 3, 5], [[1], [1], [1], [1]], ["a", "a", "b", "b"])
    >>> built.layout.terms[0].levels.labels().tolist()
    ['a', 'b']
    """
    missing = check_missing_argument(missing)
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
        kept = complete_rows([y, X, labels, re, weights, offset, *blocks, *others.values()])
    rows = kept_rows(n, index, kept, "missing='drop'")
    grouping = None if labels is None else make_grouping("Group", take(labels, kept), rows)
    built: list[Built] = []
    if grouping is not None and (exog_re is not None or not stacks):
        built.append(_group_term(grouping, re_names, take(re, kept), rows))
    built += [stack.kept(kept, grouping).term(rows) for stack in stacks]
    built += [matrix.kept(kept).term(rows) for matrix in matrices]
    built = with_known(built, covariance)
    terms = tuple(term for term, _ in built)
    y, X, weights, offset = (take(part, kept) for part in (y, X, weights, offset))
    wide = _dispersion(dispersion, n, order)
    structure, memory = residual_from_arrays(residual, wide, n, kept, order, rows)
    design = Design(
        y=y, X=X, x_names=x_names, terms=terms, y_name=y_name, weights=weights, offset=offset,
        groups=grouping, residual=structure,
    )  # fmt: skip
    check_design(design, rows, generalized)
    others = {name: _finite(name, take(values, kept), rows) for name, values in others.items()}
    spec = DesignSpec(
        formula=None, x_names=x_names, terms=tuple(memory for _, memory in built),
        groups=None if grouping is None else GroupsSpec("Group", None, grouping.labels),
        offset_array=offset is not None, residual=memory,
    )  # fmt: skip
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
    if isinstance(endog, str):
        raise DataError(
            f"endog is the text {shown(endog)}; a formula goes to sparselmm.mixedlm(formula, data) "
            "or mixedglm, or to from_formula()"
        )
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


def _dispersion(
    values: Any, n: int, index: pd.Index | None
) -> tuple[FloatArray, tuple[str, ...] | None] | None:
    """Columns of the dispersion, where they are given."""
    if values is None:
        return None
    return _matrix(aligned(values, index, "dispersion"), n, "dispersion", "d")


def _finite(name: str, values: FloatArray, rows: Rows) -> FloatArray:
    """The columns of a further design, checked."""
    check_finite(values, [f"{name}{j + 1}" for j in range(values.shape[1])], "column", rows)
    return values


def _covariates(exog_re: Any, n: int, index: pd.Index | None) -> tuple[FloatArray, tuple[str, ...]]:
    values, names = _matrix(aligned(exog_re, index, "exog_re"), n, "exog_re", "x_re")
    if not values.shape[1]:
        raise DataError("exog_re has no columns; leave it out for a random intercept")
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


def _group_term(
    grouping: Grouping, columns: tuple[str, ...], values: FloatArray | None, rows: Rows
) -> Built:
    if values is not None:
        check_finite(values, columns, "exog_re column", rows)
    effects = None if values is None else columns
    crossing = group_crossing(grouping)
    return coded_term("Group", "re", columns, ("Group",), (GROUPS,), crossing, values, effects)
