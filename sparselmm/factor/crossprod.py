"""Cross-products of the design: the only thing a fit ever needs from the rows.

With ``W`` the prior weights and ``[Xy]`` the fixed-effects design with the response as its
last column, a fit at any theta uses only

    A = Z'WZ (q, q) sparse,   B = Z'W[Xy] (q, p+1),   C = [Xy]'W[Xy] (p+1, p+1),   n,  sum log w.

``A`` is kept as blocks per pair of terms, so that ``Lambda'A Lambda`` is a small matrix
product per block and its pattern never depends on values of theta. ``B`` and ``C`` are formed
in a *working basis*: the independent columns of X made orthonormal and the response replaced
by its least-squares residual. The deviance does not change, but nothing of the accuracy is
lost to a response with a large mean or to nearly collinear columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy.sparse as sp

from sparselmm.base import kernels
from sparselmm.base.exceptions import DataError
from sparselmm.base.smallmatrix import SecondMoments
from sparselmm.base.threads import one_thread
from sparselmm.base.types import CSR, FloatArray, IntArray, Snapshot
from sparselmm.design.rows import GroupRows, blocks, response, term_z
from sparselmm.design.terms import Design, RandomTerm, term_slices
from sparselmm.factor.basis import Basis, working_basis
from sparselmm.factor.pattern import Pair, PairPattern, Pattern, Values

NEARLY_DENSE = 0.2
"""Share of nonzeros from which a product of user-made blocks is quicker by dense BLAS."""

DENSE_CHUNK = 8_000_000
"""Numbers of such blocks in one dense piece (64 MB)."""

FEW_COEFFICIENTS = 6
"""Coefficients per level up to which products row by row beat a matrix product per level."""

TABLE, TABLE_FROM = 4, 4096
"""Pairs of levels, by row and at least, up to which all of them are counted in a table."""

EPS = float(np.finfo(float).eps)

SMALL_ROWS = 20_000
"""Below this many rows SciPy's products are quick enough and no compiled kernel is loaded."""


@dataclass(frozen=True, eq=False)
class PairBlocks(Snapshot):
    """``Z_s'WZ_t`` as k_s x k_t blocks.

    Attributes
    ----------
    pattern : PairPattern
        Where they stand.
    data : ndarray, (nb, k_s, k_t)
        The blocks.
    """

    pattern: PairPattern
    data: FloatArray

    @classmethod
    def of(cls, indptr: IntArray, rows: IntArray, data: FloatArray, n_rows: int) -> PairBlocks:
        """Blocks on a new pattern."""
        return cls(PairPattern(indptr, rows, n_rows), data)

    @property
    def indptr(self) -> IntArray:
        """Where the blocks of every level of term t begin, (l_t + 1,)."""
        return self.pattern.indptr

    @property
    def rows(self) -> IntArray:
        """Level of term s of each block, (nb,)."""
        return self.pattern.rows

    @property
    def cols(self) -> IntArray:
        """Level of term t of each block, (nb,)."""
        return self.pattern.cols

    @property
    def n_rows(self) -> int:
        """Levels of term s."""
        return self.pattern.n_rows

    @property
    def is_block_diagonal(self) -> bool:
        """Whether every level meets only itself (only meaningful for s = t)."""
        return self.pattern.is_block_diagonal

    def transposed(self) -> PairBlocks:
        """The same numbers as ``Z_t'WZ_s``."""
        return PairBlocks(self.pattern.transposed(), self.pattern.turned(self.data))


Pairs = Mapping[Pair, PairBlocks]


def apart(sizes: tuple[tuple[int, int], ...], pairs: Pairs) -> tuple[Pattern, Values]:
    """Blocks of every pair as one pattern and the numbers on it."""
    pattern = Pattern(sizes, {pair: blocks.pattern for pair, blocks in pairs.items()})
    return pattern, {pair: blocks.data for pair, blocks in pairs.items()}


@dataclass(frozen=True, eq=False)
class CrossProducts(Snapshot):
    """Sufficient statistics of a linear mixed model in a working basis.

    Attributes
    ----------
    pattern : Pattern
        Where A has blocks.
    values : dict
        ``values[s, t]`` are the numbers of ``Z_s'WZ_t`` for every ``s >= t``, (nb, k_s, k_t).
    B : ndarray, (q, r + 1)
        ``Z'W[Q, y - X shift]``.
    C : ndarray, (r + 1, r + 1)
        ``[Q, y - X shift]'W[Q, y - X shift]``.
    basis : Basis
        The working basis.
    n : int
        Rows of positive weight.
    sum_log_w : float
        Sum of the log weights over those rows.
    bases : tuple of ndarray (k, k) or None, or None
        F of every term whose columns are not the model's but ``Z_t (I (x) F^-1)``, see
        :mod:`sparselmm.factor.bases`; None when all columns are the model's.
    """

    pattern: Pattern
    values: Values
    B: FloatArray
    C: FloatArray
    basis: Basis
    n: int
    sum_log_w: float
    bases: tuple[FloatArray | None, ...] | None = None

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Coefficients per level and levels of each term."""
        return self.pattern.sizes

    @property
    def q(self) -> int:
        """Columns of Z."""
        return self.pattern.q

    @property
    def slices(self) -> list[slice]:
        """Rows of B (and of u and b) that belong to each term."""
        return self.pattern.slices

    @cached_property
    def pairs(self) -> dict[Pair, PairBlocks]:
        """``Z_s'WZ_t`` for every ``s >= t``."""
        return {
            pair: PairBlocks(self.pattern.pairs[pair], data) for pair, data in self.values.items()
        }

    def with_pairs(
        self, sizes: tuple[tuple[int, int], ...], pairs: Pairs, B: FloatArray,
        bases: tuple[FloatArray | None, ...] | None,
    ) -> CrossProducts:  # fmt: skip
        """The same rows with other columns of Z."""
        pattern, values = apart(sizes, pairs)
        return replace(self, pattern=pattern, values=values, B=B, bases=bases)

    def pair(self, s: int, t: int) -> PairBlocks:
        """``Z_s'WZ_t`` for any order of s and t."""
        return self.pairs[s, t] if s >= t else self.pairs[t, s].transposed()

    @cached_property
    def moments(self) -> list[SecondMoments]:
        """Weighted means over the rows of the products of every term's covariates."""
        return [SecondMoments(sums / max(self.n, 1)) for sums in self.diagonal_sums]

    def second_moments(self, t: int) -> FloatArray:
        """The same of term t, (k, k)."""
        return self.moments[t].mean

    @cached_property
    def diagonal_sums(self) -> list[FloatArray]:
        """Sums of the diagonal blocks of every ``Z_t'WZ_t``, (k, k)."""
        pairs = [self.pairs[t, t] for t in range(len(self.sizes))]
        return [
            (p.data if p.is_block_diagonal else p.data[p.rows == p.cols]).sum(axis=0) for p in pairs
        ]

    def rms(self, t: int) -> FloatArray:
        """Weighted root mean square over the rows of each covariate of term t, (k,)."""
        return self.moments[t].rms

    def model_moments(self, t: int) -> FloatArray:
        """The same as `second_moments` of the model's covariates, (k, k)."""
        F = None if self.bases is None else self.bases[t]
        moments = self.second_moments(t)
        return moments if F is None else F.T @ moments @ F

    def model_rms(self, t: int) -> FloatArray:
        """Root mean square of the model's covariates of term t, (k,)."""
        return np.sqrt(np.diag(self.model_moments(t)))

    @cached_property
    def A(self) -> CSR:
        """``Z'WZ``, sparse (q, q), both triangles."""
        grid = [
            [_to_bsr(self.pair(s, t)) for t in range(len(self.sizes))]
            for s in range(len(self.sizes))
        ]
        if not grid:
            return sp.csr_array((0, 0))
        if len(grid) == 1:
            return sp.csr_array(grid[0][0])
        return sp.csr_array(sp.block_array(grid, format="csr"))

    def shifted(self, design: Design, gamma: FloatArray) -> CrossProducts:
        """With other coefficients of X taken off the response, by a pass over the design.

        Parameters
        ----------
        design : Design
            With the columns that these cross-products were made of.
        gamma : ndarray, (r,)
            What is added to the coefficients, in the working basis.
        """
        basis = replace(self.basis, shift=self.basis.shift + self.basis.T @ gamma)
        B, C = _fixed_products(design, response(design), basis)
        return replace(self, B=B, C=C, basis=basis)

    @classmethod
    def from_design(cls, design: Design) -> CrossProducts:
        """Cross-products of a design that is in memory.

        Parameters
        ----------
        design : Design
            Response, fixed and random design, weights and offset.
        """
        y = response(design)
        with one_thread() if design.n > SMALL_ROWS else nullcontext():  # narrow blocks of rows
            basis = working_basis(design.X, y, design.weights)
            B, C = _fixed_products(design, y, basis)
        w = design.weights
        positive = None if w is None else w > 0
        n = design.n if positive is None else int(positive.sum())
        squares = float(y @ y if w is None else y @ (w * y))
        check_residual(n, basis.rank, design.y_name, squares, float(C[-1, -1]))
        sizes = tuple((term.k, term.n_levels) for term in design.terms)
        pattern, values = apart(sizes, all_pairs(design.terms, w))
        return cls(
            pattern=pattern,
            values=values,
            B=B,
            C=C,
            basis=basis,
            n=n,
            sum_log_w=0.0 if w is None else float(np.log(w[positive]).sum()),
        )


def _to_bsr(blocks: PairBlocks) -> sp.bsr_array:
    """SciPy's block-sparse form of a pair, (l_s * k_s, l_t * k_t)."""
    turned = blocks.transposed()
    data = np.ascontiguousarray(turned.data.transpose(0, 2, 1))
    _, ks, kt = blocks.data.shape
    shape = (blocks.n_rows * ks, (len(blocks.indptr) - 1) * kt)
    return sp.bsr_array((data, turned.rows, turned.indptr), shape=shape)


# --------------------------------------------------------------------------- working basis


def check_residual(n: int, rank: int, y_name: str, squares: float, residual: float) -> None:
    """Refuse a response that leaves nothing to estimate a variance from.

    Parameters
    ----------
    n, rank : int
        Rows of positive weight and independent fixed effects.
    y_name : str
        Name of the response.
    squares, residual : float
        Its weighted sum of squares, and what the fixed effects leave of it.
    """
    if n <= rank:
        raise DataError(
            f"{n} rows and {rank} independent fixed effects leave no degrees of freedom for "
            "the residual variance; use fewer fixed effects or more rows"
        )
    if residual <= (n * EPS) ** 2 * squares:
        raise DataError(
            f"the fixed effects explain the response {y_name!r} exactly: the residual "
            "variance is zero and no variance component can be estimated"
        )


# ----------------------------------------------------------------------------- products


def _fixed_products(design: Design, y: FloatArray, basis: Basis) -> tuple[FloatArray, FloatArray]:
    """B and C, one block of rows at a time."""
    m = basis.rank + 1
    B, C = np.zeros((design.q, m)), np.zeros((m, m))
    parts = term_slices(design.terms)
    for rows in blocks(design.n):
        Xy = basis.apply(design.X[rows], y[rows])
        weighted = Xy if design.weights is None else Xy * design.weights[rows, None]
        C += Xy.T @ weighted
        for term, part in zip(design.terms, parts, strict=True):
            add_term_product(B[part], term, rows, weighted)
    return B, C


def add_term_product(out: FloatArray, term: RandomTerm, rows: slice, weighted: FloatArray) -> None:
    """Add ``Z_t[rows]' weighted`` to ``out``, (l * k, r + 1)."""
    if term.block is not None:
        out += term.block[rows].T @ weighted
        return
    assert term.codes is not None
    values = None if term.values is None else term.values[rows]
    if len(term.codes) < SMALL_ROWS:
        codes = term.codes[rows]
        if not term.is_everywhere:
            present = codes >= 0
            codes, weighted = codes[present], weighted[present]
            values = None if values is None else values[present]
        columns = weighted.T if values is None else _products_by_row(values, weighted)
        out += _level_sums(codes, columns, term.n_levels).reshape(out.shape)
    elif values is None:
        kernels.add_rows(term.codes[rows], weighted, out)
    else:
        kernels.add_scaled_rows(term.codes[rows], values, weighted, out)


def _products_by_row(x: FloatArray, y: FloatArray) -> FloatArray:
    """Products of every two columns of x (n, k) and y (n, m), one after the other, (k * m, n)."""
    products = np.multiply(x.T[:, None], y.T[None], order="C")
    return products.reshape(-1, len(x))


def _level_sums(codes: IntArray, columns: FloatArray, l: int) -> FloatArray:
    """Sums over the rows of every level of some columns (m, n), (l, m)."""
    codes = codes.astype(np.intp)
    out = np.empty((l, len(columns)))
    for j, column in enumerate(columns):
        out[:, j] = np.bincount(codes, column, l)
    return out


def all_pairs(terms: Sequence[RandomTerm], w: FloatArray | None) -> dict[Pair, PairBlocks]:
    """``Z_s'WZ_t`` in blocks for every s >= t."""
    return {
        (s, t): pair_blocks(terms[s], terms[t], w) for s in range(len(terms)) for t in range(s + 1)
    }


def pair_blocks(s: RandomTerm, t: RandomTerm, w: FloatArray | None) -> PairBlocks:
    """``Z_s'WZ_t`` in blocks."""
    if s.codes is None or t.codes is None or len(s.codes) < SMALL_ROWS:
        return _pair_blocks_scipy(s, t, w)
    if s is t:
        data = np.zeros((s.n_levels, s.k, s.k))
        kernels.add_level_blocks(s.codes, _values(s), _values(s), _weights(w), data)
        return PairBlocks.of(np.arange(s.n_levels + 1), np.arange(s.n_levels), data, s.n_levels)
    order = kernels.sort_pairs(s.codes, t.codes, s.n_levels, t.n_levels)
    indptr, rows, data = kernels.pair_blocks(
        order, s.codes, t.codes, _values(s), _values(t), _weights(w), t.n_levels
    )
    return PairBlocks.of(indptr, rows, data, s.n_levels)


def _values(term: RandomTerm) -> FloatArray:
    """Covariate values of a term; (0, 1) stands for a column of ones."""
    return np.zeros((0, 1)) if term.values is None else term.values


def _weights(w: FloatArray | None) -> FloatArray:
    return np.zeros(0) if w is None else w


def _pair_blocks_scipy(s: RandomTerm, t: RandomTerm, w: FloatArray | None) -> PairBlocks:
    """The same without compiled kernels: user-made blocks and small data."""
    if s is t and s.codes is not None:
        return _diagonal_blocks_numpy(s, w)
    if s.codes is not None and t.codes is not None and _is_small_table(s, t, len(s.codes)):
        return _pair_table(s, t, w)
    Zt = term_z(t)
    if w is not None:
        Zt = sp.csr_array(Zt.multiply(w[:, None]))
    product = _products(Zt, term_z(s))
    if s is t:  # a level always meets itself, also when its column of Z is all zero
        product = _with_diagonal(product)
    product = product.tobsr(blocksize=(t.k, s.k))
    product.sort_indices()
    data = np.ascontiguousarray(product.data.transpose(0, 2, 1))
    return PairBlocks.of(product.indptr, product.indices, data, s.n_levels)


def _is_small_table(s: RandomTerm, t: RandomTerm, n: int) -> bool:
    return s.k == t.k == 1 and s.n_levels * t.n_levels <= TABLE_FROM + TABLE * n


def _pair_table(s: RandomTerm, t: RandomTerm, w: FloatArray | None) -> PairBlocks:
    """``Z_s'WZ_t`` of two terms of one coefficient, by counting."""
    assert s.codes is not None and t.codes is not None
    l_s, l_t = s.n_levels, t.n_levels
    key = t.codes.astype(np.int64) * l_s + s.codes
    factors = [v for v in (s.values, t.values) if v is not None]
    values = None if w is None else w
    for v in factors:
        values = v[:, 0] if values is None else values * v[:, 0]
    if not (s.is_everywhere and t.is_everywhere):
        present = (s.codes >= 0) & (t.codes >= 0)
        key = key[present]
        values = None if values is None else values[present]
    counts = np.bincount(key, minlength=l_s * l_t)
    met = counts.nonzero()[0]
    data = (counts if values is None else np.bincount(key, values, l_s * l_t))[met]
    indptr = met.searchsorted(np.arange(l_t + 1) * l_s)
    return PairBlocks.of(indptr, met % l_s, data.astype(float).reshape(-1, 1, 1), l_s)


def _products(left: CSR, right: CSR) -> CSR:
    """``left'right``, by dense blocks of rows where few entries are zero (a kinship matrix)."""
    full = [part.nnz > NEARLY_DENSE * part.shape[0] * part.shape[1] for part in (left, right)]
    if not all(full):
        return sp.csr_array((left.T @ right).tocsr())
    out = np.zeros((left.shape[1], right.shape[1]))
    height = max(DENSE_CHUNK // (left.shape[1] + right.shape[1]), 1)
    for start in range(0, left.shape[0], height):
        rows = slice(start, start + height)
        out += left[rows].toarray().T @ right[rows].toarray()
    return sp.csr_array(out)


def _with_diagonal(matrix: CSR) -> CSR:
    """The same matrix with its diagonal stored, zeros included."""
    coo, diagonal = matrix.tocoo(), np.arange(matrix.shape[0])
    rows, cols = np.concatenate([coo.row, diagonal]), np.concatenate([coo.col, diagonal])
    data = np.concatenate([coo.data, np.zeros(len(diagonal))])
    return sp.csr_array((data, (rows, cols)), shape=matrix.shape)


def _diagonal_blocks_numpy(term: RandomTerm, w: FloatArray | None) -> PairBlocks:
    """``Z_t'WZ_t`` of a coded term: one block per level, also for levels without rows."""
    assert term.codes is not None
    l, k, v, codes = term.n_levels, term.k, term.values, term.codes
    if not term.is_everywhere:
        present = codes >= 0
        codes, v = codes[present], None if v is None else v[present]
        w = None if w is None else w[present]
    if v is None:
        data = np.bincount(codes, w, l).astype(float)
    elif k > FEW_COEFFICIENTS:  # no array of rows by k^2
        weighted = v if w is None else v * w[:, None]
        rows = GroupRows.of(codes, l)
        data = np.array([v[own].T @ weighted[own] for own in rows])
    else:
        weighted = v if w is None else v * w[:, None]
        data = _level_sums(codes, _products_by_row(v, weighted), l)
    levels = np.arange(l + 1)
    return PairBlocks.of(levels, levels[:-1], data.reshape(l, k, k), l)
