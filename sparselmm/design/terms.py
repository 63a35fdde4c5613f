"""Random-effects terms, the design they belong to, and the assembly of the sparse Z.

The random-effects part of a linear mixed model is ``Z b`` with ``b = Lambda u``. A term
``t`` contributes ``l`` levels of ``k`` coefficients, that is ``l * k`` adjacent columns of
``Z``, the ``k`` coefficients of one level side by side. All three ways to write a model
(statsmodels arguments, lme4 bars, arrays) end as the same :class:`RandomTerm`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
import scipy.sparse as sp

from sparselmm.base.exceptions import RemovedRowsError
from sparselmm.base.smallmatrix import one_after_the_other
from sparselmm.base.types import (
    CSR,
    AnyArray,
    BoolArray,
    FloatArray,
    IntArray,
    Snapshot,
    index_dtype,
)
from sparselmm.design.levels import Levels
from sparselmm.design.residual import ResidualRows

Origin = Literal["re", "vc", "bar", "array"]
Form = Literal["levels", "covariates", "block"]
Structure = Literal[
    "unstructured",
    "diagonal",
    "homogeneous diagonal",
    "compound symmetry",
    "homogeneous compound symmetry",
    "autoregressive",
    "homogeneous autoregressive",
]


@dataclass(frozen=True, eq=False)
class TermLayout(Snapshot):
    """A random-effects term without its rows: ``l`` levels of ``k`` coefficients, one covariance.

    Attributes
    ----------
    name : str
        Unique within the model: ``"Pig"``, ``"cask:batch"``, a ``vc_formula`` key.
    origin : {"re", "vc", "bar", "array"}
        Which spelling wrote the term: groups/re_formula, vc_formula/exog_vc, lme4 bar, or
        a user-made sparse block.
    columns : tuple of str
        Names of the ``k`` coefficients.
    levels : Levels
        Labels of the ``l`` levels.
    structure : Structure
        Covariance of the ``k`` coefficients within one level.
    positions : tuple of int, (k,), or None
        Where the coefficients of an autoregressive term stand, in steps; None for one after the
        other.
    root : csr_array, (l, l), or None
        R with ``R R'`` the known covariance between levels. Then the effects of the levels are
        ``R`` times those of the columns of Z (see :mod:`sparselmm.design.known_covariance`).
    form : {"levels", "covariates", "block"}
        Whether a row of Z has a one at its level, covariates there, or anything.
    empty_rows : bool
        Of a block: whether some rows of Z are empty.
    """

    name: str
    origin: Origin
    columns: tuple[str, ...]
    levels: Levels
    structure: Structure = field(default="unstructured", kw_only=True)
    positions: tuple[int, ...] | None = field(default=None, kw_only=True)
    root: CSR | None = field(default=None, kw_only=True)
    form: Form = field(default="levels", kw_only=True)
    empty_rows: bool = field(default=False, kw_only=True)

    @property
    def k(self) -> int:
        """Number of coefficients per level."""
        return len(self.columns)

    @property
    def n_levels(self) -> int:
        """Number of levels, l."""
        return len(self.levels)

    @property
    def is_uncorrelated(self) -> bool:
        """Whether the coefficients are independent of each other by the term's structure."""
        return self.structure in ("diagonal", "homogeneous diagonal")

    @property
    def q(self) -> int:
        """Number of columns of Z, ``l * k``."""
        return self.n_levels * self.k

    def on_rows(
        self, codes: IntArray | None = None, values: FloatArray | None = None,
        block: CSR | None = None,
    ) -> RandomTerm:  # fmt: skip
        """The term of some rows."""
        return RandomTerm(
            self.name, self.origin, self.columns, self.levels, codes, values, block,
            structure=self.structure, positions=self.positions, root=self.root,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class RandomTerm(TermLayout):
    """A random-effects term of some rows.

    Row ``i`` of its part of Z holds ``values[i]`` in the ``k`` columns of level ``codes[i]``. A
    term with ``block`` instead has any sparse Z_t and one variance, unless it comes from a known
    covariance between levels: then ``block`` is ``Z_t (R (x) I_k)``.

    Attributes
    ----------
    codes : ndarray of int32 or int64, (n,), or None
        Level of each row; -1 marks a row that belongs to no level (its Z row is zero).
    values : ndarray, (n, k), or None
        Coefficients' covariate values; None stands for a single column of ones.
    block : csr_array, (n, l * k), or None
        Z_t of a term that is not of the ``codes`` form; ``k == 1`` without a ``root``.
    """

    codes: IntArray | None = None
    values: FloatArray | None = None
    block: CSR | None = None

    def __post_init__(self) -> None:
        coded: Form = "levels" if self.values is None else "covariates"
        empty = self.block is not None and bool((np.diff(self.block.indptr) == 0).any())
        object.__setattr__(self, "form", coded if self.block is None else "block")
        object.__setattr__(self, "empty_rows", empty)

    @cached_property
    def is_everywhere(self) -> bool:
        """Whether every row belongs to a level."""
        return self.codes is not None and (not len(self.codes) or bool(self.codes.min() >= 0))

    def kept(self, rows: BoolArray | IntArray) -> RandomTerm:
        """Of some of the rows; levels keep their codes."""
        return replace(
            self, codes=None if self.codes is None else self.codes[rows],
            values=None if self.values is None else self.values[rows],
            block=None if self.block is None else sp.csr_array(self.block[rows]),
        )  # fmt: skip

    @property
    def layout(self) -> TermLayout:
        """The term without its rows."""
        return TermLayout(
            self.name, self.origin, self.columns, self.levels, structure=self.structure,
            positions=self.positions, root=self.root, form=self.form, empty_rows=self.empty_rows,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class GroupLabels:
    """The statsmodels ``groups`` argument without the rows.

    Attributes
    ----------
    name : str
        Column name when ``groups`` was given as a string, otherwise ``"Group"``.
    labels : ndarray, (n_groups,)
        Sorted group labels.
    """

    name: str
    labels: AnyArray


@dataclass(frozen=True, eq=False)
class Grouping(GroupLabels):
    """The statsmodels ``groups`` argument: label and code of every row's group.

    Attributes
    ----------
    codes : ndarray of int, (n,)
        Index into ``labels`` for each row.
    """

    codes: IntArray


@dataclass(frozen=True, eq=False)
class RowSums:
    """What is left of rows that were read in partitions; all of rows of positive weight.

    Attributes
    ----------
    n : int
        How many.
    root : ndarray, (m, p)
        Some matrix with ``root'root = X'X``.
    constant : ndarray, (p,)
        The value of columns of X that have one; NaN for the others.
    mean, cov : ndarray, (p,) and (p, p)
        Mean and covariance (n - 1) of the columns of X.
    inverse_weight : float
        Mean of ``1 / w``.
    moments : tuple of ndarray, (k, k)
        Of every term the mean of ``z_i z_i'``.
    sizes : tuple of ndarray, (l,), or None
        Of every term the rows of each level; None where rows do not belong to one level.
    """

    n: int
    root: FloatArray
    constant: FloatArray
    mean: FloatArray
    cov: FloatArray
    inverse_weight: float
    moments: tuple[FloatArray, ...]
    sizes: tuple[IntArray | None, ...]


@dataclass(frozen=True, eq=False)
class DesignLayout(Snapshot):
    """A design without its rows: names, levels and structures; nothing as long as the data.

    Attributes
    ----------
    x_names : tuple of str
        Names of the columns of X, dependent ones included.
    terms : tuple of TermLayout
        In the order of their columns in Z.
    y_name : str
        Name of the response.
    groups : GroupLabels or None
        The statsmodels ``groups`` argument, when given.
    residual : ResidualRows or None
        Covariance structure of the residuals, of no rows; None where they are independent.
    sums : RowSums or None
        What is left of rows that were read in partitions and not kept.
    """

    x_names: tuple[str, ...]
    terms: tuple[TermLayout, ...]
    y_name: str = "y"
    groups: GroupLabels | None = None
    residual: ResidualRows | None = None
    sums: RowSums | None = field(default=None, kw_only=True)

    @property
    def p(self) -> int:
        """Number of columns of X."""
        return len(self.x_names)

    @property
    def q(self) -> int:
        """Number of columns of Z."""
        return sum(term.q for term in self.terms)

    def without_rows(self) -> DesignLayout:
        """The layout alone."""
        return self

    def rows(self, what: str) -> Design:
        """The rows as well.

        Raises
        ------
        RemovedRowsError
            When they are gone; ``what`` is what needs them.
        """
        raise RemovedRowsError.of(what, self.sums is None)

    def row_space(self, what: str) -> FloatArray:
        """A few rows with the products of X, (m, p), or X itself.

        Raises
        ------
        RemovedRowsError
            When neither is there; ``what`` is what needs them.
        """
        return self.rows(what).X if self.sums is None else self.sums.root

    def with_constant(self, what: str) -> FloatArray:
        """A few rows with the products of ``[X 1]`` of rows that count, (m, p + 1), or these."""
        if self.sums is None:
            return self.rows(what).with_constant(what)
        root, n = self.sums.root, float(self.sums.n)
        size = np.linalg.norm(root, axis=0)
        size[size == 0.0] = 1.0
        c = np.linalg.lstsq((root / size).T, n * self.sums.mean / size, rcond=None)[0]
        corner = np.sqrt(max(n - float(c @ c), 0.0))
        return np.block([[root, c[:, None]], [np.zeros(self.p), corner]])


@dataclass(frozen=True, eq=False, kw_only=True)
class Design(DesignLayout):
    """Everything a fit needs from the rows of the data.

    Attributes
    ----------
    y : ndarray, (n,)
        Response.
    X : ndarray, (n, p)
        Fixed-effects design, all columns, dependent ones included.
    terms : tuple of RandomTerm
    weights : ndarray, (n,), or None
        Prior weights w_i >= 0; Var(e_i) = sigma^2 / w_i. Rows of weight zero do not count.
    offset : ndarray, (n,), or None
        Known part of the linear predictor.
    groups : Grouping or None
    residual : ResidualRows or None
        Of the rows.
    """

    y: FloatArray
    X: FloatArray
    terms: tuple[RandomTerm, ...]
    weights: FloatArray | None = None
    offset: FloatArray | None = None
    groups: Grouping | None = None

    def without_rows(self) -> DesignLayout:
        """The layout alone."""
        groups, residual = self.groups, self.residual
        return DesignLayout(
            self.x_names, tuple(term.layout for term in self.terms), self.y_name,
            None if groups is None else GroupLabels(groups.name, groups.labels),
            None if residual is None else residual.kept(np.zeros(0, dtype=int)), sums=self.sums,
        )  # fmt: skip

    def rows(self, what: str) -> Design:
        """The design itself."""
        return self

    def with_constant(self, what: str) -> FloatArray:
        """``[X 1]`` of the rows that count, (m, p + 1)."""
        X = self.X if self.weights is None else self.X[self.weights > 0]
        return np.column_stack([X, np.ones(len(X))])

    def __repr__(self) -> str:
        terms = ", ".join(f"{term.name} ({term.n_levels} x {term.k})" for term in self.terms)
        return f"Design: {self.n:,} rows, {self.p} fixed effects, terms {terms or 'none'}"

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.y)

    @property
    def counted(self) -> BoolArray | slice:
        """The rows of positive weight."""
        return slice(None) if self.weights is None else self.weights > 0

    @property
    def n_counted(self) -> int:
        """How many these are."""
        return self.n if self.weights is None else int(np.count_nonzero(self.weights > 0))

    def kept(self, rows: BoolArray | IntArray) -> Design:
        """Of some of the rows; levels and groups keep their codes."""
        return replace(
            self, y=self.y[rows], X=self.X[rows], terms=tuple(t.kept(rows) for t in self.terms),
            weights=None if self.weights is None else self.weights[rows],
            offset=None if self.offset is None else self.offset[rows],
            groups=None if self.groups is None else replace(
                self.groups, codes=self.groups.codes[rows]
            ),
            residual=None if self.residual is None else self.residual.kept(rows),
        )  # fmt: skip

    @cached_property
    def Z(self) -> CSR:
        """Random-effects design, sparse (n, q), all terms side by side."""
        return assemble_z(self.terms, self.n)


def term_slices(terms: Sequence[TermLayout]) -> list[slice]:
    """Columns of Z that belong to each term."""
    return one_after_the_other(term.q for term in terms)


def assemble_z(terms: tuple[RandomTerm, ...], n: int) -> CSR:
    """Put all terms side by side into one sparse matrix, straight from the level codes.

    Parameters
    ----------
    terms : tuple of RandomTerm
        Terms in the order of their columns.
    n : int
        Number of rows.

    Returns
    -------
    csr_array, (n, q)
        Nothing else of size n is allocated when every term has codes for all its rows.
    """
    if any(term.block is not None for term in terms):
        parts = [_term_block(term, n) for term in terms]
        return sp.csr_array(sp.hstack(parts, format="csr"))
    return _assemble_coded(terms, n)


def _term_block(term: RandomTerm, n: int) -> CSR:
    return term.block if term.block is not None else _assemble_coded((term,), n)


def _assemble_coded(terms: tuple[RandomTerm, ...], n: int) -> CSR:
    width = sum(term.k for term in terms)
    q = sum(term.q for term in terms)
    itype = index_dtype(max(q, n * width))
    indices = np.empty((n, width), dtype=itype)
    data = np.empty((n, width))
    at, first = 0, 0
    for term in terms:
        for c in range(term.k):
            np.multiply(_coded(term), term.k, out=indices[:, at], casting="unsafe")
            indices[:, at] += first + c
            data[:, at] = 1.0 if term.values is None else term.values[:, c]
            at += 1
        first += term.q
    if any(np.any(_coded(term) < 0) for term in terms):
        return _drop_absent(terms, indices, data, (n, q))
    indptr = np.arange(0, n * width + 1, width, dtype=itype) if width else np.zeros(n + 1, itype)
    return sp.csr_array((data.ravel(), indices.ravel(), indptr), shape=(n, q))


def _coded(term: RandomTerm) -> IntArray:
    assert term.codes is not None
    return term.codes


def _drop_absent(
    terms: tuple[RandomTerm, ...], indices: IntArray, data: FloatArray, shape: tuple[int, int]
) -> CSR:
    """CSR without the entries of rows that belong to no level of a term."""
    present = np.concatenate(
        [np.repeat((_coded(term) >= 0)[:, None], term.k, axis=1) for term in terms], axis=1
    )
    indptr = np.concatenate([[0], np.cumsum(present.sum(axis=1))]).astype(indices.dtype)
    return sp.csr_array((data[present], indices[present], indptr), shape=shape)
