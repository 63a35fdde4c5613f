"""Responses of generalized models: successes and failures, categories, numbers."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base.arguments import check_number, check_numbers, shown
from sparselmm.base.exceptions import DataError, FormulaError
from sparselmm.base.types import AnyArray, FloatArray
from sparselmm.design.column_types import BOOLEANS, CATEGORIES, TEXT, kind_of
from sparselmm.design.factors import factorize
from sparselmm.design.formula.bars import parse_formula
from sparselmm.design.formula.columns import used_columns
from sparselmm.design.formula.expressions import plain_column
from sparselmm.design.formula.namespace import Namespace, with_r_names
from sparselmm.design.formula.remembered import EvalEnvironment
from sparselmm.design.formula.tokens import unquoted
from sparselmm.design.spec import as_frame
from sparselmm.design.validate import Rows, aligned

MOST_CATEGORIES = 100
"""Categories of an ordinal response; more are not meant."""


@dataclass(frozen=True, eq=False)
class GeneralResponse:
    """A response as numbers.

    Attributes
    ----------
    formula : str
        The formula with the response named as a column of ``frame``.
    frame : DataFrame
        The data, with the response as numbers.
    name : str
        The response as the user wrote it.
    trials : ndarray, (n,), or None
        Numbers of trials, of a response of two columns.
    categories : ndarray, (J,), or None
        Labels of the categories 0, ..., J - 1.
    """

    formula: str
    frame: pd.DataFrame
    name: str
    trials: FloatArray | None = None
    categories: AnyArray | None = None


def read_response(
    formula: str, data: Any, family: str, trials: Any, env: EvalEnvironment
) -> GeneralResponse:
    """Make numbers of the response of a formula.

    Parameters
    ----------
    formula : str
        ``"cbind(success, failure) ~ x + (1 | g)"``, ``"y ~ x + (1 | g)"``.
    family : str
        Decides what labels mean: categories of an ordinal, failure and success of a binomial
        response.
    trials : str, array-like or None
        Numbers of trials.

    Raises
    ------
    DataError, FormulaError
        When the response cannot be read.
    """
    frame = as_frame(data)
    parsed = parse_formula(formula, frame.columns)
    code, right = parsed.response, formula.partition("~")[2]
    pair = _pair(code)
    if pair is not None:
        _refuse_trials(family, "cbind(success, failure)")
        if trials is not None:
            raise DataError("trials= is given besides cbind(success, failure); leave one out")
        success, failure = (_numbers(part, frame, env) for part in pair)
        name = unquoted(code).replace('"', "'")
        frame = frame.assign(**{name: success + 0.0 * failure})
        return GeneralResponse(f"`{name}` ~{right}", frame, name, success + failure)
    m = _trials(trials, frame, family)
    plain = plain_column(code)
    if plain is None or plain[0] not in frame.columns:
        return GeneralResponse(formula, frame, unquoted(code), m)
    column = frame[plain[0]]
    if not isinstance(column, pd.Series):
        return GeneralResponse(formula, frame, unquoted(code), m)
    numbers, categories = coded_response(column, plain[0], family)
    if numbers is None:
        return GeneralResponse(formula, frame, unquoted(code), m)
    frame = frame.copy(deep=False)
    frame[plain[0]] = numbers
    return GeneralResponse(f"`{plain[0]}` ~{right}" if plain[1] else formula, frame, plain[0], m,
                           categories)  # fmt: skip


def _pair(code: str) -> tuple[str, str] | None:
    """The two columns of ``cbind(success, failure)``."""
    if not code.replace(" ", "").startswith("cbind("):
        return None
    try:
        call = ast.parse(code.strip(), mode="eval").body
    except SyntaxError as error:
        raise FormulaError(f"cannot read the response {code!r}: {error.msg}") from error
    if not isinstance(call, ast.Call) or len(call.args) != 2 or call.keywords:
        raise FormulaError(
            f"the response {code!r} must be cbind(successes, failures), with two columns"
        )
    return ast.unparse(call.args[0]), ast.unparse(call.args[1])


def _numbers(code: str, frame: pd.DataFrame, env: EvalEnvironment) -> FloatArray:
    """Values of a numeric expression on all rows."""
    env = with_r_names(env)
    names, used = used_columns({code: "the response"}, frame, env)
    columns = {name: frame[name] for name in names}
    return Namespace(frame, used, Rows(len(frame), frame.index), columns).vector(code)


def _trials(trials: Any, frame: pd.DataFrame, family: str) -> FloatArray | None:
    if not isinstance(trials, str):
        return row_trials(trials, len(frame), frame.index, family)
    _refuse_trials(family)
    try:
        return _numbers(trials, frame, EvalEnvironment([{}]))
    except FormulaError as error:
        raise FormulaError(f"trials: {error}") from error


def row_trials(
    trials: Any, n: int, index: pd.Index | None, family: str
) -> FloatArray | None:  # fmt: skip
    """Numbers of trials of every row, in the order of ``index``, when there are any.

    Parameters
    ----------
    trials : float or array-like, (n,), or None
    index : Index or None
        Of the data.

    Raises
    ------
    DataError, ArgumentError
        When they are no numbers, not one per row, or the family has none.
    """
    if trials is None:
        return None
    _refuse_trials(family)
    if isinstance(trials, Real):
        return np.full(n, check_number(trials, "trials"))
    values = check_numbers(aligned(trials, index, "trials"), "trials", finite=False)
    if values.shape != (n,):
        raise DataError(f"trials has shape {values.shape}; give one number per row ({n})")
    return values


def _refuse_trials(family: str, what: str = "trials=") -> None:
    if family not in ("binomial", "betabinomial"):
        raise DataError(f"{what} is for binomial responses, not for family {family!r}")


def coded_response(
    column: pd.Series, name: str, family: str
) -> tuple[FloatArray | None, AnyArray | None]:
    """Numbers and labels of a response that is not numeric, or ordinal; None as it is.

    Raises
    ------
    DataError
        When its labels are no response of the family.
    """
    kind = kind_of(column)
    if family == "ordinal":
        return _ordinal(column, name, kind)
    if kind not in (BOOLEANS, TEXT, CATEGORIES):
        return None, None
    if family not in ("binomial", "betabinomial"):
        return None, None
    if kind == BOOLEANS:
        values = column.astype(object)
        out = np.array([np.nan if pd.isna(v) else float(bool(v)) for v in values])
        return out, np.array([False, True])
    codes, labels = _codes(column, kind)
    if len(labels) != 2:
        shown = ", ".join(map(repr, labels[:6]))
        raise DataError(
            f"the response {name!r} has {len(labels)} label(s) ({shown}); a binomial response has "
            "two, the first for failure and the second for success. Make it 0 and 1, or use "
            "family='ordinal'"
        )
    return codes, labels


def _codes(column: pd.Series, kind: str) -> tuple[FloatArray, AnyArray]:
    """Codes, NaN where missing, and labels that occur, in the order of the categories."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        codes = column.cat.codes.to_numpy().astype(float)
        labels = np.asarray(column.cat.categories, dtype=object)
        if kind == CATEGORIES and not column.cat.ordered:
            seen = np.unique(codes[codes >= 0]).astype(int)
            place = np.full(len(labels) + 1, np.nan)
            place[seen] = np.arange(len(seen))
            return place[codes.astype(int)], labels[seen]
    else:
        factor = factorize(column, sort=True)
        codes, labels = factor.codes.astype(float), np.asarray(factor.labels, dtype=object)
    return np.where(codes < 0, np.nan, codes), labels


def _ordinal(column: pd.Series, name: str, kind: str) -> tuple[FloatArray | None, AnyArray | None]:
    """Categories from 0; every category between the lowest and the highest occurs."""
    if kind in (TEXT, CATEGORIES, BOOLEANS):
        codes, labels = _codes(column, kind)
        if kind == TEXT and len(labels) > 2:
            raise DataError(
                f"the response {name!r} is text without an order; make it ordered, with "
                f"pd.Categorical(data[{name!r}], categories=[...], ordered=True)"
            )
        if isinstance(column.dtype, pd.CategoricalDtype) and not column.cat.ordered:
            raise DataError(
                f"the response {name!r} is categorical without an order; write "
                f"data[{name!r}].cat.as_ordered() if its categories {list(labels[:6])} ascend"
            )
    else:
        values = pd.to_numeric(column).to_numpy(dtype=float, na_value=np.nan)
        seen = np.unique(values[~np.isnan(values)])
        if not len(seen) or (seen != np.floor(seen)).any() or np.isinf(seen).any():
            raise DataError(
                f"the ordinal response {name!r} must be whole numbers or an ordered categorical; "
                f"it has {seen[:4].tolist()}"
            )
        if seen[-1] - seen[0] >= MOST_CATEGORIES:
            raise DataError(
                f"the ordinal response {name!r} has values from {seen[0]:g} to {seen[-1]:g}; at "
                f"most {MOST_CATEGORIES} categories are taken. Use family='gaussian', or cut it"
            )
        labels = np.arange(int(seen[0]), int(seen[-1]) + 1)
        codes = values - seen[0]
    counts = np.bincount(codes[~np.isnan(codes)].astype(int), minlength=len(labels))
    if len(labels) < 2:
        raise DataError(
            f"the ordinal response {name!r} has {len(labels)} categories; it needs two or more"
        )
    if (counts == 0).any():
        gap = labels[int(np.flatnonzero(counts == 0)[0])]
        raise DataError(
            f"no row of the ordinal response {name!r} is in category {shown(gap)}, so that its "
            "threshold cannot be estimated; leave the category out, or merge it with its neighbour"
        )
    return codes, labels
