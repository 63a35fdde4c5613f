"""Levels and coefficients by their labels, and differences between them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from sparselmm.base.arguments import (
    check_choice,
    check_hashable,
    check_list,
    check_mapping,
    check_numbers,
    shown,
)
from sparselmm.base.exceptions import DataError, MemoryLimitError
from sparselmm.base.types import CSR, IntArray
from sparselmm.design.factors import match
from sparselmm.design.levels import apart
from sparselmm.inference import effects
from sparselmm.inference.effects import FactorTable
from sparselmm.inference.prediction import contrasts as blup_contrasts
from sparselmm.results.print import labels


def check_size(c: int) -> None:
    """Refuse a joint covariance matrix that is too large."""
    if c * c > labels.MAX_COVARIANCES:
        raise MemoryLimitError(
            f"the joint covariance of {c:,} random effects would hold {float(c) ** 2:.3g} numbers "
            f"({8e-9 * c * c:.3g} GB); name the levels you want, or use ranef_se, ranef_contrasts "
            "or rank(method='marginal')"
        )


def level_places(table: FactorTable, levels: Iterable[Any], argument: str = "levels") -> IntArray:
    """Rows of a table that belong to some labels.

    Raises
    ------
    DataError
        When a label is unknown.
    """
    wanted = check_list(levels, argument, "a list of levels")
    check_hashable(wanted, argument)
    at = match(table.labels, wanted)
    if (at < 0).any():
        first = shown(wanted[int(np.argmax(at < 0))])
        known = ", ".join(map(shown, table.labels[:5]))
        raise DataError(
            f"{argument}: {table.name!r} has no level {first}; its {len(table.labels):,} levels "
            f"are {known}" + (", ..." if len(table.labels) > 5 else "")
        )
    return at


def coefficient_columns(
    table: FactorTable, terms: Sequence[Any], coefficient: str | None
) -> IntArray:
    """Column of Z of one coefficient of every level, (l,).

    Raises
    ------
    DataError
        When the coefficient is unknown, or must be named.
    """
    return effects.table_columns(table, terms)[:, _coefficient_place(table, coefficient)]


def _coefficient_place(table: FactorTable, coefficient: str | None) -> int:
    names = list(table.columns)
    if coefficient is None and len(names) > 1 and "Intercept" not in names:
        raise DataError(f"say which coefficient of {table.name!r}: {', '.join(names)}")
    if coefficient is None:
        coefficient = names[0] if len(names) == 1 else "Intercept"
    coefficient = check_choice(coefficient, "coefficient", names, "coefficient")
    return names.index(coefficient)


def contrast_rows(table: FactorTable, contrasts: Any, pairs: Any) -> tuple[list[str], CSR]:
    """Labels of the contrasts and their weights, (m, l)."""
    if (contrasts is None) == (pairs is None):
        raise DataError("give contrasts, weights of the levels, or pairs, differences; not both")
    l = len(table.labels)
    if pairs is not None:
        return _pairs(table, pairs)
    if isinstance(contrasts, pd.DataFrame):
        weights = np.zeros((len(contrasts), l))
        numbers = check_numbers(contrasts, "contrasts")
        weights[:, level_places(table, contrasts.columns, "contrasts")] = numbers
        return [str(name) for name in contrasts.index], sp.csr_array(weights)
    if isinstance(contrasts, Mapping):
        for weights in contrasts.values():
            check_mapping(weights, "contrasts", "{'label': {level: weight, ...}}")
        sizes = [len(weights) for weights in contrasts.values()]
        flat = [level for weights in contrasts.values() for level in weights]
        weighted = [w for weights in contrasts.values() for w in weights.values()]
        data = check_numbers(weighted, "contrasts")
        indptr = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        rows = sp.csr_array(
            (data, level_places(table, flat, "contrasts"), indptr), shape=(len(sizes), l)
        )
        return [str(name) for name in contrasts], rows
    if sp.issparse(contrasts):
        check_numbers(contrasts.data, "contrasts")
        rows = sp.csr_array(contrasts)
    else:
        rows = sp.csr_array(np.atleast_2d(check_numbers(contrasts, "contrasts")))
    if rows.ndim != 2 or rows.shape[1] != l:
        raise DataError(
            f"contrasts have {rows.shape[-1]} columns, but {table.name!r} has {l:,} levels"
        )
    return [f"c{i}" for i in range(rows.shape[0])], rows.astype(float)


def _pairs(table: FactorTable, pairs: Any) -> tuple[list[str], CSR]:
    l = len(table.labels)
    first: IntArray
    second: IntArray
    if isinstance(pairs, str):
        if pairs != "all":
            raise DataError(f"pairs must be 'all' or pairs of levels, got {pairs!r}")
        check_size(l)
        first, second = np.triu_indices(l, 1)
    else:
        given = check_list(pairs, "pairs", "'all' or a list of pairs of levels")
        if any(not isinstance(pair, (tuple, list)) or len(pair) != 2 for pair in given):
            raise DataError("pairs must be pairs of levels, for example [('a', 'b'), ('a', 'c')]")
        first = level_places(table, [pair[0] for pair in given], "pairs")
        second = level_places(table, [pair[1] for pair in given], "pairs")
    names = apart([table.labels[first], table.labels[second]], " - ".join)
    return names, blup_contrasts.pair_rows(first, second, l)
