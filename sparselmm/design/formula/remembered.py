"""What patsy remembers of a formula: held by others without looking inside, read here alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from patsy import DesignInfo, EvalEnvironment
from patsy.desc import INTERCEPT, Term

from sparselmm.base.types import FloatArray
from sparselmm.design.formula.expressions import plain_column

__all__ = [
    "INTERCEPT",
    "DesignInfo",
    "EvalEnvironment",
    "Term",
    "all_numerical",
    "column_levels",
    "expressions",
    "factor_columns",
    "term_coding",
    "term_columns",
    "term_factors",
    "without_factors",
]

ROUNDING = 1e-8
"""Difference from one that is rounding."""


def expressions(info: DesignInfo) -> list[str]:
    """Expressions a remembered design evaluates."""
    return [factor.code for factor in info.factor_infos]


def term_columns(info: DesignInfo) -> dict[str, list[int]]:
    """Columns of the design of every term, by its name."""
    everything = list(range(len(info.column_names)))
    return {name: everything[part] for name, part in info.term_name_slices.items()}


def term_factors(info: DesignInfo) -> dict[str, frozenset[str]]:
    """Names of the variables of every term, the intercept left out."""
    return {
        term.name(): frozenset(factor.name() for factor in term.factors)
        for term in info.terms
        if term.factors
    }


def term_coding(info: DesignInfo, name: str) -> tuple[list[Any], FloatArray] | None:
    """Levels of the term that is one factor, and its columns at each (levels, columns); or None."""
    for term, parts in info.term_codings.items():
        if term.name() != name or len(term.factors) != 1:
            continue
        (factor,) = term.factors
        memory = info.factor_infos[factor]
        if memory.type == "categorical":
            one = np.ones((len(memory.categories), 1))
            own = [p.contrast_matrices[factor].matrix if p.factors else one for p in parts]
            return list(memory.categories), np.asarray(np.hstack(own), dtype=float)
    return None


def without_factors(info: DesignInfo, name: str) -> FloatArray | None:
    """Weights, (columns,), with which a term's columns add up to what is left without its factors.

    None where that is not one column, or the term has no factor.
    """
    (parts,) = (p for term, p in info.term_codings.items() if term.name() == name)
    if len(parts) != 1 or not parts[0].contrast_matrices:
        return None
    out = np.ones(1)
    for factor in parts[0].factors:
        contrast = parts[0].contrast_matrices.get(factor)
        matrix = np.ones((1, 1)) if contrast is None else contrast.matrix
        if contrast is None and info.factor_infos[factor].num_columns != 1:
            return None
        weights = np.linalg.lstsq(matrix, np.ones(len(matrix)), rcond=None)[0]
        if np.abs(matrix @ weights - 1.0).max() > ROUNDING:
            return None
        out = np.multiply.outer(weights, out).ravel()  # the first factor varies fastest
    return out


def factor_columns(info: DesignInfo) -> Iterator[tuple[str, list[Any]]]:
    """Columns of the data that enter as factors as they stand, with their levels."""
    for factor, memory in info.factor_infos.items():
        plain = plain_column(factor.code)
        if memory.type == "categorical" and plain is not None:
            yield plain[0], list(memory.categories)


def column_levels(info: DesignInfo, column: str) -> list[Any] | None:
    """Levels of a column of the data that enters as a factor; None for a covariate."""
    return next((levels for name, levels in factor_columns(info) if name == column), None)


def all_numerical(info: DesignInfo) -> bool:
    """Whether there are variables and none is a factor."""
    return {memory.type for memory in info.factor_infos.values()} == {"numerical"}
