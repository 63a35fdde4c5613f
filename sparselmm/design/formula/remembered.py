"""What patsy remembers of a formula: held by others without looking inside, read here alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from patsy import DesignInfo, EvalEnvironment
from patsy.desc import INTERCEPT, Term

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
    "term_columns",
    "term_factors",
    "term_levels",
]


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


def term_levels(info: DesignInfo, name: str) -> list[Any] | None:
    """Levels of the term that is one factor of this name; None when there is none."""
    for factor, memory in info.factor_infos.items():
        if memory.type == "categorical" and factor.name() == name:
            return list(memory.categories)
    return None


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
