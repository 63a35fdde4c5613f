"""Where the coefficients of an autoregressive term stand: the levels of its factor in steps."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from fractions import Fraction
from math import gcd, lcm
from typing import Any

import numpy as np
import pandas as pd
from patsy import DesignInfo

from sparselmm.base.arguments import shown
from sparselmm.base.exceptions import DataError, FormulaError, SpecificationWarning, warn_user
from sparselmm.design.factors import match
from sparselmm.design.formula.expressions import plain_column
from sparselmm.design.formula.namespace import Namespace

FARTHEST = 100_000
"""Most steps between the first and the last level."""


def positions(info: DesignInfo, space: Namespace, text: str) -> tuple[int, ...] | None:
    """Positions of a term's columns; None for one after the other.

    Levels that are numbers, dates or strings that read as numbers stand where these say, in
    multiples of the largest step that fits them all. Any others stand at their place among all
    categories of the column, unobserved ones included.

    Parameters
    ----------
    info : DesignInfo
        patsy's memory of the columns.
    space : Namespace
        The rows in use.
    text : str
        The term as written, for messages.

    Raises
    ------
    DataError
        When the levels have no common step.
    FormulaError
        When columns belong to the levels of several factors, whose order is not said.
    """
    _refuse_several(info, text)
    code = _only_factor(info)
    if code is None:
        return None
    (memory,) = (m for f, m in info.factor_infos.items() if f.code == code)
    labels = list(memory.categories)
    plain = plain_column(code)
    column = None if plain is None else space.frame.get(plain[0])
    ordered = isinstance(getattr(column, "dtype", None), pd.CategoricalDtype)
    values = [_number(label) for label in labels]
    if any(value is None for value in values):
        if not ordered:
            _warn_if_alphabetical(labels, text)
            return None
        assert column is not None
        categories = column.dtype.categories
        values = [Fraction(int(j)) for j in match(categories, pd.Index(labels, dtype=object))]
        return tuple(int(v - min(values)) for v in values)  # type: ignore[operator, type-var]
    return _in_steps([v for v in values if v is not None], labels, text)


def _refuse_several(info: DesignInfo, text: str) -> None:
    """Refuse a series over two factors: which of their levels are neighbours is not said."""
    names = [f.code for f, memory in info.factor_infos.items() if memory.type == "categorical"]
    if len(names) > 1:
        raise FormulaError(
            f"{text}: an autoregressive covariance is that of one series, and its columns here are "
            f"levels of {' and '.join(names)}, in no order of their own. Number the combinations "
            "in one column and write ar1(0 + C(column) | group), or let one factor be part of the "
            f"group, ar1(0 + {names[0]} | group:{_plain_name(names[-1])})"
        )


def _plain_name(code: str) -> str:
    """The column inside C(), the code itself where it is none."""
    plain = plain_column(code)
    return code if plain is None else str(plain[0])


def _only_factor(info: DesignInfo) -> str | None:
    """The factor whose levels are the columns, each once; None where they are not."""
    if len(info.term_codings) != 1:
        return None
    codings = next(iter(info.term_codings.values()))
    kinds = {f: m.type for f, m in info.factor_infos.items()}
    factors = [f for f, kind in kinds.items() if kind == "categorical"]
    wide = [m for m in info.factor_infos.values() if m.type == "numerical" and m.num_columns != 1]
    if len(codings) != 1 or len(factors) != 1 or wide:
        return None
    matrix = codings[0].contrast_matrices[factors[0]].matrix
    return str(factors[0].code) if np.array_equal(matrix, np.eye(len(matrix))) else None


def _number(label: Any) -> Fraction | None:
    """A level as an exact number; dates as days, hours and so on do, in their own unit."""
    if isinstance(label, (bool, np.bool_)):
        return None
    if isinstance(label, (np.datetime64, pd.Timestamp)):
        return Fraction(pd.Timestamp(label).as_unit("ns").value)
    if isinstance(label, (np.timedelta64, pd.Timedelta)):
        return Fraction(pd.Timedelta(label).as_unit("ns").value)
    if isinstance(label, pd.Period):
        return Fraction(int(label.ordinal))
    if isinstance(label, datetime.date):
        return Fraction(label.toordinal())
    try:
        return Fraction(str(label).strip())
    except (ValueError, ZeroDivisionError):
        return None


def _in_steps(values: list[Fraction], labels: list[Any], text: str) -> tuple[int, ...] | None:
    first = min(values)
    scale = lcm(*(v.denominator for v in values))
    places = [int((v - first) * scale) for v in values]
    step = gcd(*places) or 1
    out = tuple(place // step for place in places)
    if max(out) > FARTHEST:
        raise DataError(
            f"{text}: the levels {shown(labels[0])}, {shown(labels[1])}, ... have no common step "
            f"within 1/{FARTHEST:,} of their range, and an autoregressive covariance is by whole "
            "steps. Round them to a coarser unit, number them in a column of its own, or use "
            "cs(...) or an unstructured term"
        )
    if len(set(out)) < len(out):
        raise DataError(f"{text}: two levels are the same number; make the column numeric")
    return None if out == tuple(range(len(out))) else out


def _warn_if_alphabetical(labels: Sequence[Any], text: str) -> None:
    """Warn where "t10" stands before "t2"."""
    words = [str(label) for label in labels]
    keys = [[int(p) if p.isdigit() else p for p in re.split(r"(\d+)", word)] for word in words]
    if sorted(words) != words:
        return
    try:
        natural = [words[i] for i in sorted(range(len(words)), key=lambda i: keys[i])]
    except TypeError:
        return
    if natural != words:
        warn_user(
            f"{text}: the levels are taken in alphabetical order, {', '.join(words[:4])}, ...; "
            "make the column an ordered Categorical, or numbers, where another one is meant",
            SpecificationWarning,
        )
