"""Design matrices of plain columns and their interactions, some rows at a time.

patsy passes over all rows several times for every column it makes. What it has learned, the
codings of the terms, is enough to make the same numbers in blocks of rows that stay in the cache.
Whatever is more than a plain column is left to patsy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from patsy import DesignInfo
from patsy.desc import EvalFactor
from patsy.design_info import FactorInfo

from sparselmm._typing import FloatArray
from sparselmm.formula.expressions import plain_column

BLOCK_ROWS = 8_192
"""Rows made at a time."""

Column = tuple[Any, FloatArray | None]
"""Numbers, or codes and what each of them stands for in one column of the design."""


def plain_design(info: DesignInfo, columns: Mapping[str, Any], n: int) -> FloatArray | None:
    """The design matrix, (n, columns), or None where patsy must make it.

    Parameters
    ----------
    info : DesignInfo
        What patsy learned of the design.
    columns : mapping
        Series and arrays of length n.
    n : int
        Rows.
    """
    if n <= BLOCK_ROWS:
        return None
    values = {}
    for factor, about in info.factor_infos.items():
        found = _values(factor, about, columns)
        if found is None or len(found) != n:
            return None
        values[factor] = found
    parts = list(_products(info, values))
    out = np.ones((n, len(parts)))
    for start in range(0, n, BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        for j, factors in enumerate(parts):
            for numbers, coding in factors:
                out[rows, j] *= numbers[rows] if coding is None else coding[numbers[rows]]
    return out


def _values(factor: EvalFactor, about: FactorInfo, columns: Mapping[str, Any]) -> Any:
    """Codes of a categorical factor or the numbers of a numerical one, or None."""
    use = plain_column(factor.code)
    column = None if use is None else columns.get(use[0])
    if column is None or np.ndim(column) != 1:
        return None
    if about.type == "categorical":
        if not isinstance(column.dtype, pd.CategoricalDtype):
            return None
        codes = np.asarray(column.array.codes)
        known = tuple(column.array.categories) == tuple(about.categories)
        return codes if known and codes.min(initial=0) >= 0 else None
    if getattr(column.dtype, "kind", "") not in "fiu":
        return None
    numbers = np.asarray(column, dtype=float)
    return None if np.isnan(numbers).any() else numbers


def _products(info: DesignInfo, values: Mapping[EvalFactor, Any]) -> Iterator[list[Column]]:
    """The factors that every column of the design is the product of."""
    for subterms in info.term_codings.values():
        for subterm in subterms:
            choices = []
            for factor in subterm.factors:
                coding = subterm.contrast_matrices.get(factor)
                table = [None] if coding is None else list(np.ascontiguousarray(coding.matrix.T))
                choices.append([(values[factor], column) for column in table])
            for combination in product(*reversed(choices)):  # the first factor varies fastest
                yield list(combination)
