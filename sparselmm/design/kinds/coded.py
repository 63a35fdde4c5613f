"""Random-effects terms of the coded form: built on training rows, remembered, built on new rows.

A coded term has one level per row and ``k`` covariate values. Its :class:`CodedSpec` keeps the
level table and whatever evaluates the covariates, nothing of the length of the data.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base.exceptions import DataError
from sparselmm.base.types import FloatArray, IntArray
from sparselmm.design.column_types import float_matrix
from sparselmm.design.factors import Crossing, Factor, compact, cross, match, match_crossed
from sparselmm.design.formula import remembered
from sparselmm.design.formula.expressions import plain_column
from sparselmm.design.formula.namespace import Namespace, rebuild
from sparselmm.design.formula.remembered import DesignInfo
from sparselmm.design.terms import Origin, RandomTerm, Structure, TermLayout
from sparselmm.design.validate import Rows, aligned, check_codes, check_length, unknown_column

_MADE_UP = re.compile(r"x(_re)?\d+|const")  # names of columns that had none

GROUPS = ""  # stands for the ``groups`` argument among the expressions of a crossing


@dataclass(frozen=True, eq=False)
class NewRows:
    """New data as the specs of the terms need them.

    Attributes
    ----------
    rows : Rows
        Number and labels of the new rows.
    space : Namespace or None
        The new data's columns; None for a model built from arrays.
    group_codes : ndarray of int, (m,), or None
        Codes among the groups of the fit, -1 for a new group; None when there are none.
    group_values : array-like, (m,), or None
        Groups of the new rows as given.
    arrays : dict
        What a model built from arrays needs anew: ``exog_re``, ``exog_vc``, ``z_terms``.
    """

    rows: Rows
    space: Namespace | None
    group_codes: IntArray | None
    group_values: Any
    arrays: dict[str, Any]


@dataclass(frozen=True, eq=False)
class TermSpec(ABC):
    """What a random-effects term remembers; ``layout`` has nothing of the length of the data."""

    layout: TermLayout

    def codes_used(self) -> list[str]:
        """Expressions it evaluates on the data."""
        return []

    def groupings(self) -> list[str]:
        """Those of them that are columns read as labels and nothing else."""
        return []

    @abstractmethod
    def evaluate(self, new: NewRows) -> RandomTerm:
        """The term on new rows; rows of unseen levels belong to none."""


@dataclass(frozen=True, eq=False)
class CodedSpec(TermSpec):
    """Memory of a coded term.

    Attributes
    ----------
    factors : tuple of str
        Expressions of the crossed factors; ``GROUPS`` for the ``groups`` argument.
    crossing : Crossing
        Level table and labels, without codes.
    effects : DesignInfo, tuple of str, or None
        patsy's memory of the covariates; or expressions whose product is the one covariate;
        or None for an intercept. Without a namespace the new ``exog_re`` is taken.
    """

    factors: tuple[str, ...]
    crossing: Crossing
    effects: DesignInfo | tuple[str, ...] | None

    def codes_used(self) -> list[str]:
        """Expressions it evaluates on the data."""
        return [code for code in self.factors if code != GROUPS] + effect_codes(self.effects)

    def groupings(self) -> list[str]:
        """Those of them that are columns read as labels and nothing else."""
        plain = {code: plain_column(code) for code in self.factors if code != GROUPS}
        effects = set(effect_codes(self.effects))
        return [c for c, p in plain.items() if p and p[1] != "coded" and c not in effects]

    def effect_columns(self) -> dict[str, list[int]] | None:
        """Columns of the coefficients of every effect of the formula; None without a formula."""
        info = self.effects
        return None if info is None or isinstance(info, tuple) else remembered.term_columns(info)

    def without_factors(self, effect: str) -> FloatArray | None:
        """What is left of an effect of the formula without its factors, see `remembered`."""
        assert isinstance(self.effects, DesignInfo)
        return remembered.without_factors(self.effects, effect)

    def evaluate(self, new: NewRows) -> RandomTerm:
        """The term on new rows."""
        codes = [
            self._codes(code, labels, new)
            for code, labels in zip(self.factors, self.crossing.labels, strict=True)
        ]
        level = match_crossed(self.crossing.table, codes) if len(codes) > 1 else codes[0]
        return self.layout.on_rows(codes=level, values=self.new_values(new))

    def _codes(self, code: str, labels: Any, new: NewRows) -> IntArray:
        if code == GROUPS:
            assert new.group_codes is not None
            return new.group_codes
        assert new.space is not None
        return match(labels, new.space.labels(code))

    def new_values(self, new: NewRows) -> FloatArray | None:
        """Covariates of new rows, (m, k); None for an intercept."""
        if self.effects is None:
            return None
        if new.space is None:
            covariates, names = new.arrays["exog_re"], self.layout.columns
            if isinstance(covariates, pd.Series) and any(n in covariates.index for n in names):
                covariates = one_row(covariates)
            covariates = aligned(covariates, new.rows.index, "exog_re", "the new data")
            values = new_matrix(covariates, names, "exog_re")[0]
            check_length(len(values), new.rows.n, "exog_re", "the new data")
            return values
        if isinstance(self.effects, tuple):
            return product(self.effects, new.space)
        return rebuild(self.effects, new.space)


def new_matrix(
    data: Any, names: Sequence[str], argument: str = "exog"
) -> tuple[FloatArray, pd.Index | None]:
    """New array data with the columns of the fit, (m, p), and their index."""
    if data is None:
        raise DataError(f"{argument} must be given anew: {len(names)} column(s), one row per row")
    index = getattr(data, "index", None)
    if isinstance(data, pd.DataFrame):
        data = _by_name(data, names, argument)
    matrix = float_matrix(data, argument)
    if matrix.ndim == 0:
        raise DataError(f"{argument} must be a table with {len(names)} column(s), got a number")
    if matrix.ndim == 1:
        matrix = matrix[:, None] if len(names) == 1 else matrix[None, :]
    seen = f"{matrix.shape[1]} columns" if matrix.ndim == 2 else f"shape {matrix.shape}"
    if matrix.ndim != 2 or matrix.shape[1] != len(names):
        raise DataError(
            f"{argument} has {seen} but the fit had {len(names)} columns: {', '.join(names)}"
        )
    return matrix, index if isinstance(index, pd.Index) else None


def one_row(row: pd.Series) -> pd.DataFrame:
    """A row given as a Series as a table, each value in a column of its own type."""
    twice = row.index[row.index.duplicated()]
    if len(twice):
        raise DataError(f"the row given as a Series has two values called {twice[0]!r}; keep one")
    values = {name: [value] for name, value in zip(row.index, row, strict=True)}
    return pd.DataFrame(values, index=None if row.name is None else [row.name])


def _by_name(frame: pd.DataFrame, names: Sequence[str], argument: str) -> pd.DataFrame:
    """Columns by the names of the fit; by position where these were made up for an array."""
    columns = pd.Index(map(str, frame.columns))
    absent = [name for name in names if name not in columns]
    if not absent:
        place = [np.flatnonzero(columns == name)[0] for name in names]
        twice = len(set(names)) < len(names)
        return frame if twice else frame.iloc[:, place]
    if all(_MADE_UP.fullmatch(name) for name in names):
        return frame
    raise unknown_column(absent[0], columns, f"{argument} of the fit")


def effect_codes(effects: DesignInfo | tuple[str, ...] | None) -> list[str]:
    """Expressions the covariates are made of."""
    if effects is None:
        return []
    return list(effects) if isinstance(effects, tuple) else remembered.expressions(effects)


def product(codes: Sequence[str], space: Namespace) -> FloatArray:
    """Product of numeric expressions as one column, (n, 1)."""
    first, *others = codes
    values = space.vector(first)
    for code in others:
        values = values * space.vector(code)
    return values[:, None]


def grouping(codes: Sequence[str], space: Namespace) -> Crossing:
    """The crossing of some grouping expressions; missing labels are an error."""
    factors: list[Factor] = []
    for code in codes:
        factor = space.factor(code)
        check_codes(factor.codes, code, "the grouping factor", space.rows)
        factors.append(factor)
    return cross(factors)


def coded_term(
    name: str,
    origin: Origin,
    columns: tuple[str, ...],
    names: tuple[str, ...],
    factors: tuple[str, ...],
    crossing: Crossing,
    values: FloatArray | None,
    effects: DesignInfo | tuple[str, ...] | None,
    structure: Structure = "unstructured",
    positions: tuple[int, ...] | None = None,
) -> tuple[RandomTerm, CodedSpec]:
    """A coded term and its memory.

    Parameters
    ----------
    name, origin, columns
        As in :class:`~sparselmm.design.terms.RandomTerm`.
    names : tuple of str
        Names of the crossed factors.
    factors : tuple of str
        Their expressions.
    crossing : Crossing
        Their codes and levels.
    values : ndarray, (n, k), or None
        Covariates.
    effects
        As in :class:`CodedSpec`.
    structure, positions
        Covariance of the coefficients, and where they stand if that is autoregressive.
    """
    levels = crossing.levels(names)
    layout = TermLayout(
        name=name,
        origin=origin,
        columns=columns,
        levels=levels,
        structure=structure,
        positions=positions,
    )
    term = layout.on_rows(codes=compact(crossing.codes, len(levels)), values=values)
    memory = replace(crossing, codes=np.empty(0, dtype=np.int32))
    return term, CodedSpec(layout, factors, memory, effects)
