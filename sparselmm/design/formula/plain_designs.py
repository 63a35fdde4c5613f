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

from sparselmm.base.types import AnyArray, FloatArray
from sparselmm.design.formula.expressions import plain_column

BLOCK_ROWS = 8_192
"""Rows made at a time."""

Part = tuple[EvalFactor, FloatArray | None]
"""A factor and what each of its codes stands for in one column; None for a numerical one."""


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
    values = {}
    for factor, about in info.factor_infos.items():
        found = _values(factor, about, columns)
        if found is None or len(found) != n:
            return None
        values[factor] = found
    parts = list(_products(info))
    out = np.empty((n, len(parts)))
    for start in range(0, n, BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        here = {factor: _block(found, rows) for factor, found in values.items()}
        for j, factors in enumerate(parts):
            column: Any = 1.0
            for factor, coding in factors:
                column = column * (here[factor] if coding is None else coding[here[factor]])
            out[rows, j] = column
    return out


def _block(found: AnyArray, rows: slice) -> AnyArray:
    """Numbers, or codes as NumPy indexes fastest."""
    return found[rows] if found.dtype == float else found[rows].astype(np.intp)


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


def _products(info: DesignInfo) -> Iterator[list[Part]]:
    """The factors that every column of the design is the product of."""
    for subterms in info.term_codings.values():
        for subterm in subterms:
            choices = []
            for factor in subterm.factors:
                coding = subterm.contrast_matrices.get(factor)
                table = [None] if coding is None else list(np.ascontiguousarray(coding.matrix.T))
                choices.append([(factor, column) for column in table])
            for combination in product(*reversed(choices)):  # the first factor varies fastest
                yield list(combination)
