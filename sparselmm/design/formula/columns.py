"""Which columns of the data a formula uses, and what they are for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from patsy import EvalEnvironment

from sparselmm.base.exceptions import DataError, FormulaError, MissingDataError, UnknownColumnError
from sparselmm.base.threads import in_threads
from sparselmm.design.column_types import (
    BOOLEANS,
    CATEGORIES,
    TEXT,
    for_patsy,
    kind_of,
    numbers,
    refuse,
)
from sparselmm.design.formula.expressions import dotted_names, functions_in, names_in, uses_of
from sparselmm.design.formula.namespace import (
    MANY_ROWS,
    Namespace,
    categorical,
    coded_labels,
    is_known,
    recoded,
)
from sparselmm.design.validate import unknown_column


def used_columns(
    codes: Mapping[str, str], frame: pd.DataFrame, env: EvalEnvironment
) -> tuple[list[str], EvalEnvironment]:
    """Columns that some expressions use, and the variables they take from elsewhere.

    Parameters
    ----------
    codes : mapping
        Expression to the place where it stands, for messages.
    frame : DataFrame
        The data.
    env : EvalEnvironment
        Variables besides the columns.

    Returns
    -------
    columns : list of str
    env : EvalEnvironment
        Restricted to the names in use, so that nothing else is kept alive.
    """
    columns: dict[str, None] = {}
    others: set[str] = set()
    for code, place in codes.items():
        if code in CONSTANTS and code not in frame.columns:
            raise FormulaError(f"{code}, used in {place}, is a constant and no variable")
        for name in names_in(code):
            if name in frame.columns:
                _check_attributes(name, code, frame, place)
                columns[name] = None
            elif is_known(name, env):
                others.add(name)
            else:
                raise _unknown(name, code, frame, place)
        for name in functions_in(code):
            if not is_known(name, env):
                raise _no_function(name, code, frame, place)
            others.add(name)
    _refuse_both(columns, others, codes)
    namespace = env.namespace
    return list(columns), env.subset([name for name in others if name in namespace])


def outside_in_order(env: EvalEnvironment, index: pd.Index) -> EvalEnvironment:
    """Variables from outside the data, Series of the rows of these in their order."""
    names = env.namespace
    values = {name: names[name] for part in env._namespaces for name in part}
    moved = {
        name: value.loc[index]
        for name, value in values.items()
        if isinstance(value, (pd.Series, pd.DataFrame)) and _reorders(value.index, index)
    }
    return EvalEnvironment([{**values, **moved}], env.flags) if moved else env


def _reorders(own: pd.Index, index: pd.Index) -> bool:
    if len(own) != len(index) or own.equals(index):
        return False
    return bool(own.is_unique and index.is_unique and own.isin(index).all())


CONSTANTS = ("TRUE", "FALSE", "NULL", "pi")
"""Names of R that are no variables; arguments of functions may be these."""

R_LETTERS = {"T": "TRUE", "F": "FALSE", "NA": "np.nan", "Inf": "np.inf"}
"""Other constants of R: what to write here."""

OTHER_FUNCTIONS = {
    "cut": "make the column beforehand with pandas.cut",
    "ordered": "make the column beforehand: pandas.Categorical(..., ordered=True)",
    "Error": "write a random intercept, (1 | g)",
    "random": "write random effects as (1 | g)",
    "un": "write us(x | g), or (x | g)",
    "ifelse": "write np.where(test, a, b)",
    "pmax": "write np.maximum(a, b)",
    "pmin": "write np.minimum(a, b)",
    "floor": "write np.floor(x)",
    "ceiling": "write np.ceil(x)",
    "lag": "make the column beforehand with groupby(...).shift()",
    "paste": "write interaction(a, b)",
    "cbind": "write k / n as the response and weights='n' (mixedglm)",
    "rcs": "write ns(x, df=...)",
    "gr": "write the grouping factor alone, (1 | g)",
    "s": "write ns(x, df=...) or cr(x, df=...) for a smooth curve",
    "mean": "write center(x) for x less its mean (remembered for new data), or np.mean(x)",
    "sd": "write scale(x) for x in standard deviations (remembered for new data), or np.std(x)",
    "median": "write np.median(x)",
    "rank": "make the column beforehand with Series.rank()",
    "dummy": 'write I(f == "b"), or 0 + f for all levels',
    "weights": "give weights= beside the formula",
    "nest": "write a/b",
    "droplevels": "levels without rows are left out anyway",
}
"""Functions of R's formulas: what to write here."""


def _check_attributes(name: str, code: str, frame: pd.DataFrame, place: str) -> None:
    """Refuse ``x.c`` where x is a column that has no c: no column is called so either."""
    dotted = dotted_names(code).get(name, "") if "." in code else ""
    parts = dotted.split(".")
    if len(parts) < 2 or hasattr(pd.Series, parts[1]):
        return
    if dotted in frame.columns:
        raise FormulaError(f"{code!r}, used in {place}, calls {dotted!r}, which is a column")
    raise unknown_column(dotted, frame.columns, place)


def _unknown(name: str, code: str, frame: pd.DataFrame, place: str) -> FormulaError:
    dotted = dotted_names(code).get(name)
    if dotted is not None and f"{dotted}(" in code.replace(" ", ""):
        lines = {"np": "import numpy as np", "pd": "import pandas as pd"}
        return FormulaError(
            f"{name!r} of {dotted!r}, used in {place}, is not defined where the model is made; "
            f"{lines.get(name, f'import {name}')} there, or make the column beforehand"
        )
    if dotted is not None:
        return unknown_column(dotted, frame.columns, place)
    if name in R_LETTERS:
        return UnknownColumnError(
            f"{name!r}, used in {place}, is not a column of the data; for R's constant write "
            f"{R_LETTERS[name]}"
        )
    return unknown_column(name, frame.columns, place)


def _no_function(name: str, code: str, frame: pd.DataFrame, place: str) -> FormulaError:
    if name in frame.columns:
        return FormulaError(f"{code!r}, used in {place}, calls {name!r}, which is a column")
    hint = OTHER_FUNCTIONS.get(name, "define it in Python, or make the column beforehand")
    return UnknownColumnError(f"unknown function {name!r}, used in {place}; {hint}")


def _refuse_both(columns: Iterable[str], others: set[str], codes: Iterable[str]) -> None:
    """Refuse a name that is a column in one place and a function in another."""
    called = others.union(*(functions_in(code) for code in codes))
    for name in columns:
        if name in called:
            raise FormulaError(
                f"{name!r} is a column of the data and a function that the formula calls; rename "
                "the column"
            )


def take_columns(
    frame: pd.DataFrame | Mapping[str, Any],
    names: Iterable[str],
    codes: Iterable[str],
    categories: Mapping[str, pd.Index] | None = None,
) -> dict[str, Any]:
    """Columns as patsy shall see them.

    Strings, and numbers that only occur as ``C(x)``, become Categoricals of sorted labels, once,
    because patsy would loop over them in Python; unused categories are dropped; nullable numbers
    become NumPy's. A column that some expression uses in any other way stays as it is.

    Parameters
    ----------
    frame : DataFrame or mapping of Series
        Rows in use.
    names : iterable of str
        Columns wanted.
    codes : iterable of str
        Every expression that uses them, but for plain grouping factors.
    categories : mapping, optional
        Labels learned before, for new data; labels not among them become missing. Other columns
        were no factors then and are none now, however few expressions are evaluated this time.

    Returns
    -------
    dict
        Name to Series.
    """
    uses = uses_of(codes)
    out, factors = {}, []
    for name in names:
        column: Any = frame[name]
        if isinstance(column, pd.DataFrame):
            raise DataError(f"the data have {column.shape[1]} columns called {name!r}; keep one")
        here, kind = uses.get(name, set()), kind_of(column)
        if here and categories is None:
            _refuse_empty(name, column)
        refuse(column, name, kind, here)
        if here and isinstance(column.dtype, np.dtype) and _is_unusual(column.dtype):
            column = numbers(column)
        if categories is not None and name in categories:
            column = recoded(column, categories[name])
        elif categories is not None and not here and kind == TEXT:
            out[name] = coded_labels(column)  # a grouping factor, matched to known labels later
            continue
        elif categories is None and _serves_as_factor(kind, here):
            factors.append(name)
        elif here:
            column = for_patsy(column, kind)
        out[name] = column
    waiting = [out[name] for name in factors]
    many = bool(waiting) and len(waiting[0]) >= MANY_ROWS
    made = (in_threads if many else map)(categorical, waiting)
    return out | dict(zip(factors, made, strict=True))


def _refuse_empty(name: str, column: pd.Series) -> None:
    """Refuse a column of a formula without any value."""
    if len(column) and pd.isna(column.array[0]) is not False and column.isna().all():
        raise MissingDataError(
            f"column {name!r} has no value in any of the {len(column)} rows: all are missing"
        )


def _is_unusual(dtype: np.dtype[Any]) -> bool:
    """Whether pandas finds no labels among such numbers: foreign byte order, long double."""
    return not dtype.isnative or (dtype.kind == "f" and dtype.itemsize > 8)


def used_columns_of(codes: Iterable[str], space: Namespace) -> dict[str, pd.Series]:
    """Columns that some expressions use."""
    return {name: space.columns[name] for name in uses_of(codes) if name in space.columns}


def _serves_as_factor(kind: str, uses: set[str]) -> bool:
    if "other" in uses:
        return False
    if kind in (CATEGORIES, TEXT):
        return True
    return kind != BOOLEANS and bool(uses) and "" not in uses
