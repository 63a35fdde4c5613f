"""What a fitted design remembers, and how it is evaluated on new data."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base.exceptions import DataError
from sparselmm.base.types import CSR, AnyArray, FloatArray
from sparselmm.design.column_types import (
    as_array,
    as_float,
    check_kinds,
    check_numeric,
    without_dtype,
)
from sparselmm.design.factors import match
from sparselmm.design.formula import remembered
from sparselmm.design.formula.columns import take_columns
from sparselmm.design.formula.expressions import names_in, plain_column
from sparselmm.design.formula.namespace import (
    PATSY_NAMES,
    Namespace,
    is_known,
    rebuild,
    refuse_unseen,
)
from sparselmm.design.formula.pickling import dumps
from sparselmm.design.formula.remembered import DesignInfo, EvalEnvironment
from sparselmm.design.kinds.coded import NewRows, TermSpec, new_matrix
from sparselmm.design.kinds.residual import ResidualSpec
from sparselmm.design.residual import ResidualRows
from sparselmm.design.sources.recognised import frame_with, is_source
from sparselmm.design.terms import RandomTerm, assemble_z
from sparselmm.design.validate import (
    Rows,
    aligned,
    check_length,
    unknown_column,
)


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
    further : dict
        Designs (m, c) of the predictors besides the mean's.
    """

    X: FloatArray
    terms: tuple[RandomTerm, ...]
    offset: FloatArray | None
    row_labels: pd.Index | None
    further: dict[str, FloatArray] = field(default_factory=dict)

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
    kinds : dict
        What the columns in use held, numbers or dates for example.
    further : dict
        patsy's memory of the predictors besides the mean's.
    residual : ResidualSpec or None
        Memory of the covariance structure of the residuals.
    states : dict
        Memory of the transforms in offsets, grouping factors and that structure.
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
    kinds: dict[str, str] = field(default_factory=dict)
    further: dict[str, DesignInfo] = field(default_factory=dict)
    residual: ResidualSpec | None = None
    states: dict[str, Any] = field(default_factory=dict)

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
        others = {} if space is None else {k: rebuild(v, space) for k, v in self.further.items()}
        terms: tuple[RandomTerm, ...] = ()
        if random:
            new = self._new_rows(frame, rows, space, groups, arrays)
            terms = tuple(term.evaluate(new) for term in self.terms)
        return NewDesign(X, terms, self._offset(space, rows, offset), rows.index, others)

    def codes(self, random: bool = True, groupings: bool = True) -> list[str]:
        """Expressions evaluated on the data, the response apart; if asked, no plain groupings."""
        codes = [] if self.design_info is None else remembered.expressions(self.design_info)
        codes += [code for info in self.further.values() for code in remembered.expressions(info)]
        codes += self.offsets
        for term in self.terms if random else ():
            left_out = () if groupings else term.groupings()
            codes += [code for code in term.codes_used() if code not in left_out]
        return codes

    def _space(self, frame: pd.DataFrame, rows: Rows, random: bool) -> Namespace:
        assert self.env is not None
        codes = self.codes(random)
        names = dict.fromkeys(name for code in codes for name in names_in(code))
        if self.offset_column is not None:
            names[self.offset_column] = None
        plain = {found[0] for code in codes if (found := plain_column(code))}
        outside = self.env.namespace
        for name in [name for name in names if name not in frame.columns]:
            if name not in outside and (name in plain or not is_known(name, self.env)):
                where = "offset=" if name == self.offset_column else "the formula"
                raise unknown_column(name, frame.columns, f"{where}, in the new data")
            del names[name]
        twice = [name for name in names if isinstance(frame[name], pd.DataFrame)]
        if twice:
            raise DataError(f"the new data have several columns called {twice[0]!r}; keep one")
        held = {name: self.kinds[name] for name in names if name in self.kinds}
        frame = without_dtype(frame, held)
        check_kinds(frame, held)
        known = {name: self.categories[name] for name in names if name in self.categories}
        refuse_unseen(frame, known, rows)
        read = self.codes(random, groupings=False)
        columns = take_columns(frame, names, read, known)
        return Namespace(frame, self.env, rows, columns, states=dict(self.states))

    def term_columns(self) -> dict[str, list[int]] | None:
        """Columns of X of every term, by its name; None for a model built from arrays."""
        return None if self.design_info is None else remembered.term_columns(self.design_info)

    def term_factors(self) -> dict[str, frozenset[str]]:
        """Variables of every term of the fixed part, the intercept left out."""
        return {} if self.design_info is None else remembered.term_factors(self.design_info)

    def term_variables(self) -> list[set[str]]:
        """Columns of the data in every term of the fixed part, the intercept left out."""
        terms = self.term_factors().values()
        return [{name for code in term for name in names_in(code)} for term in terms]

    def factor_levels(self, name: str) -> list[Any] | None:
        """Levels of a column that enters the fixed part as a factor; None for a covariate."""
        if name in self.categories:
            return list(self.categories[name])
        return (
            None if self.design_info is None else remembered.column_levels(self.design_info, name)
        )

    def term_coding(self, name: str) -> tuple[list[Any], FloatArray] | None:
        """Levels and coding of a term of the fixed part that is one factor, see `remembered`."""
        return None if self.design_info is None else remembered.term_coding(self.design_info, name)

    def fixed_variables(self) -> list[str]:
        """Names in the expressions of the fixed part and its offsets."""
        codes = [] if self.design_info is None else remembered.expressions(self.design_info)
        names = dict.fromkeys(name for code in (*codes, *self.offsets) for name in names_in(code))
        if self.offset_column is not None:
            names[self.offset_column] = None
        return list(names)

    def variables(self) -> tuple[str, ...]:
        """Names of the data's columns that the formulas use, the response and weights left out."""
        names = dict.fromkeys(name for code in self.codes() for name in names_in(code))
        others = (self.offset_column, None if self.groups is None else self.groups.column)
        names |= dict.fromkeys(name for name in others if name is not None)
        outside = {} if self.env is None else self.env.namespace
        return tuple(name for name in names if name not in outside and name not in PATSY_NAMES)

    def texts(self) -> list[str]:
        """Whatever names columns of new data, for `as_frame`."""
        memory = () if self.residual is None else self.residual.codes_used()
        bar = None if self.residual is None else self.residual.bar
        coords = () if bar is None else bar.coords
        if self.residual is not None and self.residual.dispersion is not None:
            coords = (*coords, *remembered.expressions(self.residual.dispersion))
        formula = [] if self.formula is None else [self.formula]
        return [*formula, *self.variables(), *self.x_names, *memory, *coords]

    def residual_rows(self, data: Any, every_visit: bool = False) -> ResidualRows:
        """The covariance structure of the residuals on new data; unseen groups are -1."""
        assert self.env is not None and self.residual is not None
        frame, memory = as_frame(data), self.residual
        info = memory.dispersion
        read = [] if info is None else remembered.expressions(info)
        spread = dict.fromkeys(name for code in read for name in names_in(code))
        if memory.bar is not None:
            read = [*read, *memory.bar.read]
        codes = [*memory.codes_used(), *read]
        names = dict.fromkeys(name for code in codes for name in names_in(code))
        for name in [name for name in names if name not in frame.columns]:
            if not is_known(name, self.env):
                raise unknown_column(name, frame.columns, "residual= or dispersion=")
            del names[name]
        rows = Rows(len(frame), frame.index)
        known = {name: self.categories[name] for name in names if name in self.categories}
        refuse_unseen(frame, {n: known[n] for n in spread if n in known}, rows, "a variance")
        columns = take_columns(frame, names, read, known)
        space = Namespace(frame, self.env, rows, columns, states=dict(self.states))
        return memory.evaluate(space, every_visit)

    def labels(self, data: Any, code: str) -> Any:
        """Values of an expression that names a grouping factor, on new data, (m,)."""
        assert self.env is not None
        frame = as_frame(data)
        names = [name for name in names_in(code) if name in frame.columns]
        columns = take_columns(frame, names, [code])
        rows = Rows(len(frame), frame.index)
        return Namespace(frame, self.env, rows, columns, states=dict(self.states)).labels(code)

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
            given = aligned(given, rows.index, "offset", "the new data")
            parts.append(row_vector(given, rows.n, "offset", "the new data"))
        elif self.offset_column is not None and space is not None:
            column = space.columns[self.offset_column]
            parts.append(row_vector(column, rows.n, f"offset column {self.offset_column!r}"))
        return total(parts)


def _thawed(frozen: bytes) -> DesignSpec:
    return DesignSpec(**pickle.loads(frozen))


def row_vector(values: Any, n: int, argument: str, against: str = "data") -> FloatArray:
    """Weights or offset as floats, one per row."""
    values = values if isinstance(values, pd.Series) else as_array(values, argument)
    if np.ndim(values) != 1:
        raise DataError(f"{argument} must hold one number per row, got shape {np.shape(values)}")
    check_length(len(values), n, argument, against)
    check_numeric(values, argument)
    return as_float(values)


def total(parts: Sequence[FloatArray]) -> FloatArray | None:
    """Sum of several offsets, None of none."""
    if not parts:
        return None
    first, *others = parts
    for other in others:
        first = first + other
    return first


def is_table(data: Any) -> bool:
    """Whether data have named columns: a data frame, a mapping, a list of mappings, records."""
    if is_source(data) or isinstance(data, Mapping):
        return True
    if hasattr(data, "columns") or hasattr(data, "to_pandas"):
        return True
    if isinstance(data, (list, tuple)):
        return len(data) > 0 and all(isinstance(row, Mapping) for row in data)
    return getattr(getattr(data, "dtype", None), "names", None) is not None


def as_frame(data: Any, texts: Iterable[Any] | None = None) -> pd.DataFrame:
    """The data as a DataFrame, without a copy when they are one.

    Of what is read by columns, such as files, only those that some of the ``texts`` mention.
    """
    frame = frame_with(data, texts)
    if frame is not None:
        return frame
    if hasattr(data, "to_pandas"):
        return as_frame(data.to_pandas())
    index = None
    if isinstance(data, Mapping):
        index = _check_mapping(data)
        if data and all(_is_scalar(value) for value in data.values()):
            return pd.DataFrame({name: [value] for name, value in data.items()})
    try:
        return pd.DataFrame(data, index)
    except Exception as error:  # whatever pandas makes of what it cannot read
        raise DataError(
            f"data must be a DataFrame or a mapping of columns, not {type(data).__name__} "
            f"({type(error).__name__}: {error})"
        ) from error


def _is_scalar(value: Any) -> bool:
    if isinstance(value, (str, bytes)):
        return True
    return not hasattr(value, "__len__") and np.ndim(value) == 0


def _check_mapping(data: Mapping[Any, Any]) -> pd.Index | None:
    """Refuse columns of different lengths, and Series of different rows, which pandas would pad.

    Where Series have the same rows in different orders, that of the first is returned: pandas
    would sort them, and leave what has no index as it is.
    """
    columns = {name: value for name, value in data.items() if not _is_scalar(value)}
    lengths = {name: len(value) for name, value in columns.items() if hasattr(value, "__len__")}
    if len(set(lengths.values())) > 1:
        seen = ", ".join(f"{name!r} has {n}" for name, n in list(lengths.items())[:5])
        raise DataError(f"the columns of the data differ in length: {seen}; give one value per row")
    indices = [(n, value.index) for n, value in columns.items() if isinstance(value, pd.Series)]
    for name, index in indices[1:]:
        first, known = indices[0]
        both_unique = index.is_unique and known.is_unique
        if not index.equals(known) and not (both_unique and index.isin(known).all()):
            raise DataError(
                f"the columns {first!r} and {name!r} of the data are Series with different "
                "indices; give them one index, or make a DataFrame of them"
            )
    orders = [index for _, index in indices]
    return orders[0] if any(not other.equals(orders[0]) for other in orders[1:]) else None
