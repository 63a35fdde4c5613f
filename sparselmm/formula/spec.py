"""What a fitted design remembers, and how it is evaluated on new data."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from patsy import DesignInfo, EvalEnvironment

from sparselmm._typing import CSR, AnyArray, BoolArray, FloatArray
from sparselmm.exceptions import DataError, NoRandomEffectsError
from sparselmm.formula.coded import NewRows, TermSpec, new_matrix
from sparselmm.formula.expressions import names_in
from sparselmm.formula.factors import match
from sparselmm.formula.namespace import (
    PATSY_NAMES,
    Namespace,
    info_codes,
    is_known,
    rebuild,
    refuse_unseen,
    take_columns,
)
from sparselmm.formula.pickling import dumps
from sparselmm.formula.validate import (
    Rows,
    aligned,
    check_finite,
    check_length,
    check_names,
    check_response,
    check_term,
    check_weights,
    unknown_column,
)
from sparselmm.terms import Design, RandomTerm, assemble_z


@dataclass(frozen=True, eq=False)
class NewDesign:
    """A design evaluated on new data.

    Attributes
    ----------
    X : ndarray, (m, p)
        Fixed-effects design; NaN where the new data are missing.
    terms : tuple of RandomTerm
        Columns aligned with the levels of the fit; code -1 where the level is new or missing.
        Empty when only the fixed part was asked for.
    offset : ndarray, (m,), or None
        Known part of the linear predictor.
    row_labels : Index or None
        Index of the new data.
    """

    X: FloatArray
    terms: tuple[RandomTerm, ...]
    offset: FloatArray | None
    row_labels: pd.Index | None

    @cached_property
    def Z(self) -> CSR:
        """Random-effects design, sparse (m, q)."""
        return assemble_z(self.terms, len(self.X))


@dataclass(frozen=True, eq=False)
class GroupsSpec:
    """Memory of the ``groups`` argument.

    Attributes
    ----------
    name : str
        Name of the grouping factor in results.
    column : str or None
        Column of the data it came from, when known.
    labels : ndarray, (n_groups,)
        Sorted labels.
    """

    name: str
    column: str | None
    labels: AnyArray


@dataclass(frozen=True, eq=False)
class DesignSpec:
    """Frozen recipe of a design: configuration and learned state, no data.

    Attributes
    ----------
    formula : str or None
        The main formula; None for a model built from arrays.
    x_names : tuple of str
        Names of the columns of X.
    terms : tuple
        Memory of each random-effects term, in the order of the design.
    groups : GroupsSpec or None
        Memory of the ``groups`` argument.
    design_info : patsy.DesignInfo or None
        patsy's memory of X; None for a model built from arrays.
    offsets : tuple of str
        Expressions inside ``offset(...)``.
    offset_column : str or None
        Column given as ``offset=``.
    offset_array : bool
        Whether ``offset=`` was an array, to be given anew with new data.
    categories : dict
        Labels of the factors that patsy has seen.
    env : EvalEnvironment or None
        Variables the formulas take from outside the data.
    """

    formula: str | None
    x_names: tuple[str, ...]
    terms: tuple[TermSpec, ...]
    groups: GroupsSpec | None = None
    design_info: DesignInfo | None = None
    offsets: tuple[str, ...] = ()
    offset_column: str | None = None
    offset_array: bool = False
    categories: dict[str, pd.Index] = field(default_factory=dict)
    env: EvalEnvironment | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _thawed, (dumps(dict(vars(self))),)

    def evaluate(
        self,
        data: Any,
        *,
        random: bool = True,
        groups: Any = None,
        exog_re: Any = None,
        exog_vc: Any = None,
        offset: Any = None,
        z_terms: Mapping[str, Any] | None = None,
    ) -> NewDesign:
        """Evaluate the design on new data with the state learned in the fit.

        Parameters
        ----------
        data : DataFrame or mapping
            New data. The response and the weights need not be among the columns. For a model
            built from arrays: the new ``exog``, (m, p).
        random : bool
            Whether to evaluate the random-effects terms too.
        groups : array-like, (m,), optional
            Groups of the new rows, when the model's ``groups`` was not a column of the data.
        exog_re, exog_vc : optional
            New arrays, for a model built from arrays.
        offset : array-like, (m,), optional
            New offset, when the model's ``offset`` was an array.
        z_terms : mapping, optional
            New matrices (m, l) of the model's ``z_terms``.

        Returns
        -------
        NewDesign

        Raises
        ------
        FormulaError
            When a column is missing.
        DataError
            When a fixed-effects factor has a label the fit has not seen, or an array that must
            be given anew is missing or has the wrong length.
        """
        arrays = {"exog_re": exog_re, "exog_vc": exog_vc, "z_terms": z_terms or {}}
        if self.design_info is None:
            X, index = new_matrix(data, self.x_names)
            rows, frame, space = Rows(len(X), index), None, None
        else:
            frame = as_frame(data)
            rows = Rows(len(frame), frame.index)
            space = self._space(frame, rows, random)
            X = rebuild(self.design_info, space)
        terms: tuple[RandomTerm, ...] = ()
        if random:
            new = self._new_rows(frame, rows, space, groups, arrays)
            terms = tuple(term.evaluate(new) for term in self.terms)
        return NewDesign(X, terms, self._offset(space, rows, offset), rows.index)

    def _space(self, frame: pd.DataFrame, rows: Rows, random: bool) -> Namespace:
        assert self.env is not None
        codes = [*info_codes(self.design_info), *self.offsets]
        if random:
            codes += [code for term in self.terms for code in term.codes_used()]
        names = dict.fromkeys(name for code in codes for name in names_in(code))
        if self.offset_column is not None:
            names[self.offset_column] = None
        for name in [name for name in names if name not in frame.columns]:
            if not is_known(name, self.env):
                raise unknown_column(name, frame.columns, "the formula, in the new data")
            del names[name]
        known = {name: self.categories[name] for name in names if name in self.categories}
        refuse_unseen(frame, known, rows)
        return Namespace(frame, self.env, rows, take_columns(frame, names, codes, known))

    def variables(self) -> tuple[str, ...]:
        """Names of the data's columns that the formulas use, the response and weights left out."""
        codes = [] if self.design_info is None else info_codes(self.design_info)
        codes += [*self.offsets, *(code for term in self.terms for code in term.codes_used())]
        names = dict.fromkeys(name for code in codes for name in names_in(code))
        others = (self.offset_column, None if self.groups is None else self.groups.column)
        names |= dict.fromkeys(name for name in others if name is not None)
        outside = {} if self.env is None else self.env.namespace
        return tuple(name for name in names if name not in outside and name not in PATSY_NAMES)

    def labels(self, data: Any, code: str) -> Any:
        """Values of an expression that names a grouping factor, on new data, (m,)."""
        assert self.env is not None
        frame = as_frame(data)
        names = [name for name in names_in(code) if name in frame.columns]
        columns = take_columns(frame, names, [code])
        return Namespace(frame, self.env, Rows(len(frame), frame.index), columns).labels(code)

    def _new_rows(
        self,
        frame: pd.DataFrame | None,
        rows: Rows,
        space: Namespace | None,
        groups: Any,
        arrays: dict[str, Any],
    ) -> NewRows:
        if self.groups is None:
            return NewRows(rows, space, None, None, arrays)
        column = self.groups.column
        if groups is None and frame is not None and column is not None:
            if column not in frame.columns:
                raise unknown_column(column, frame.columns, "groups, in the new data")
            groups = frame[column]
        if groups is None:
            raise DataError(
                "random effects of new data need their groups; pass groups=, one label per row"
            )
        check_length(len(groups), rows.n, "groups", "the new data")
        groups = aligned(groups, rows.index, "groups", "the new data")
        return NewRows(rows, space, match(self.groups.labels, groups), groups, arrays)

    def _offset(self, space: Namespace | None, rows: Rows, given: Any) -> FloatArray | None:
        if self.offset_array and given is None:
            raise DataError(
                "the model has an offset given as an array; pass offset= for the new data, "
                "one value per row"
            )
        parts = [] if space is None else [space.vector(code) for code in self.offsets]
        if given is not None:
            check_length(np.size(given), rows.n, "offset", "the new data")
            given = aligned(given, rows.index, "offset", "the new data")
            value = np.asarray(given, dtype=float).reshape(rows.n)
            parts.append(value)
        elif self.offset_column is not None and space is not None:
            parts.append(np.asarray(space.columns[self.offset_column], dtype=float))
        return total(parts)


def _thawed(frozen: bytes) -> DesignSpec:
    return DesignSpec(**pickle.loads(frozen))


def total(parts: Sequence[FloatArray]) -> FloatArray | None:
    """Sum of several offsets, None of none."""
    if not parts:
        return None
    first, *others = parts
    for other in others:
        first = first + other
    return first


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
        The rows kept; the user's own object when all are.
    """

    design: Design
    spec: DesignSpec
    row_labels: pd.Index | None
    kept: BoolArray | None
    pandas: bool
    frame: pd.DataFrame | None


def as_frame(data: Any) -> pd.DataFrame:
    """The data as a DataFrame, without a copy when they are one."""
    if isinstance(data, pd.DataFrame):
        return data
    try:
        return pd.DataFrame(data)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"data must be a DataFrame or a mapping of columns, not {type(data).__name__}"
        ) from error


def keep_mask(n: int, masks: Sequence[BoolArray]) -> BoolArray | None:
    """Rows kept by all of some masks; None when every row is."""
    kept = None
    for mask in masks:
        kept = mask.copy() if kept is None else kept & mask
    return None if kept is None or kept.all() else kept


def check_design(design: Design, rows: Rows) -> None:
    """Refuse a design that cannot be fitted."""
    if not design.terms:
        raise NoRandomEffectsError(
            "the model has no random effects; add a term such as '+ (1|g)' or groups=, or fit "
            "ordinary least squares instead"
        )
    check_finite(design.y, [design.y_name], "the response", rows)
    check_finite(design.X, design.x_names, "the fixed-effects column", rows)
    if design.offset is not None:
        check_finite(design.offset, ["offset"], "the argument", rows)
    if design.weights is not None:
        check_finite(design.weights, ["weights"], "the argument", rows)
        check_weights(design.weights, rows)
    check_response(design.y, design.y_name, design.offset)
    check_names([term.name for term in design.terms], "random-effects terms")
    for term in design.terms:
        check_term(term, design.n, design.weights is not None)
