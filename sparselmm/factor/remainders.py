"""What is left of M when the leading factor is eliminated, dense or sparse."""

from __future__ import annotations

from functools import partial
from typing import Protocol

import numpy as np
from scipy.linalg import lapack

from sparselmm.base import kernels
from sparselmm.base.cholesky import CholeskyFactor, NotPositiveDefiniteError
from sparselmm.base.threads import in_parts
from sparselmm.base.types import FloatArray, IntArray
from sparselmm.factor.coupling import Coupling
from sparselmm.factor.layout import Layout
from sparselmm.factor.pattern import Pair


class Remainder(Protocol):
    """What is left of M after the leading factor, as LAPACK or CHOLMOD hold it."""

    def assemble(self, blocks: dict[Pair, FloatArray]) -> None:
        """Start from ``Lambda'A Lambda + I`` among the trailing columns."""

    def subtract(self, coupling: Coupling, Y: FloatArray) -> None:
        """Subtract ``Y'Y``, what the leading columns explain."""

    def factorize(self) -> float:
        """Factor the remainder; returns its log determinant."""

    def solve(self, rhs: FloatArray) -> FloatArray:
        """``S^-1 rhs``, (r, m)."""

    def invert(self) -> None:
        """Have ``S^-1`` on the pattern ready."""

    def couple(self, coupling: Coupling, Y: FloatArray) -> FloatArray:
        """``Y S^-1`` on the coupling pattern, (k, ne)."""

    def entries(self, pair: Pair) -> FloatArray:
        """``S^-1`` where a pair of trailing terms has blocks, (nb, k_s, k_t)."""


class DenseRemainder:
    """LAPACK on the upper triangle of a C-ordered array (LAPACK sees its lower triangle)."""

    def __init__(self, layout: Layout):
        n = layout.n_trailing
        self._n, self._inner = n, layout.inner
        self._S = np.zeros((n, n))
        self._G: FloatArray | None = None
        self._index = {}
        for (s, t), pair in layout.inner.items():
            ks, kt = layout.pattern.orders(s, t)
            first = pair.cols * np.int64(kt * n) + pair.rows * np.int64(ks)
            first += layout.starts[t] * n + layout.starts[s]
            index = first[:, None, None]
            if ks * kt > 1:
                index = index + (np.arange(ks)[:, None] + n * np.arange(kt))
            self._index[s, t] = index
        self._upper: dict[Pair, IntArray] = {}

    def assemble(self, blocks: dict[Pair, FloatArray]) -> None:
        """Start from ``Lambda'A Lambda + I`` among the trailing columns."""
        self._S[...] = 0.0
        self._G = None
        flat = self._S.reshape(-1)
        for pair, data in blocks.items():
            flat[self._index[pair]] = data
        flat[:: self._n + 1] += 1.0

    def subtract(self, coupling: Coupling, Y: FloatArray) -> None:
        """Subtract ``Y'Y``, what the leading columns explain."""
        coupling.subtract_gram(Y, self._S)

    def factorize(self) -> float:
        """Factor the remainder; returns its log determinant."""
        _, info = lapack.dpotrf(self._S.T, lower=1, clean=0, overwrite_a=1)
        if info:
            raise NotPositiveDefiniteError(f"dense remainder, LAPACK dpotrf info={info}")
        return float(2.0 * np.log(self._S.diagonal()).sum())

    def solve(self, rhs: FloatArray) -> FloatArray:
        """``S^-1 rhs``, (r, m)."""
        solution, _ = lapack.dpotrs(self._S.T, rhs, lower=1)
        return np.ascontiguousarray(solution)

    def invert(self) -> None:
        """Have ``S^-1`` on the pattern ready."""
        if self._G is None:
            inverse, _ = lapack.dpotri(self._S.T, lower=1)
            self._G = inverse.T

    def couple(self, coupling: Coupling, Y: FloatArray) -> FloatArray:
        """``Y S^-1`` on the coupling pattern, (k, ne)."""
        assert self._G is not None
        return coupling.times_symmetric(Y, self._G)

    def entries(self, pair: Pair) -> FloatArray:
        """``S^-1`` where a pair of trailing terms has blocks, (nb, k_s, k_t)."""
        assert self._G is not None
        if pair not in self._upper:
            index, (s, t) = self._index[pair], pair
            lone = index.shape[1] == 1 and self._inner[pair].is_block_diagonal
            if s == t and not lone:  # half of it is below the diagonal
                col, row = np.divmod(index, self._n)
                index = np.minimum(index, row * self._n + col)
            self._upper[pair] = index
        return self._G.reshape(-1)[self._upper[pair]]


class SparseRemainder:
    """CHOLMOD on a fixed pattern."""

    def __init__(self, layout: Layout, factor: CholeskyFactor):
        self.pattern, self.factor = factor.pattern, factor
        self._index = {
            pair: self.pattern.positions(*layout.coordinates(pair)) for pair in layout.inner
        }
        self._data = np.zeros(self.pattern.nnz)
        self._G: FloatArray | None = None

    def assemble(self, blocks: dict[Pair, FloatArray]) -> None:
        """Start from ``Lambda'A Lambda + I`` among the trailing columns."""
        self._data[:] = 0.0
        self._G = None
        for pair, data in blocks.items():
            self._data[self._index[pair]] = data
        self._data[self.pattern.indptr[:-1]] += 1.0

    def subtract(self, coupling: Coupling, Y: FloatArray) -> None:
        """Subtract ``Y'Y``, what the leading columns explain."""
        pattern = self.pattern.indptr, self.pattern.rows
        loop = partial(kernels.schur_sparse, *coupling.lists, Y, *pattern, self._data)
        in_parts(loop, coupling.column_parts)

    def factorize(self) -> float:
        """Factor the remainder; returns its log determinant."""
        return self.factor.factorize(self._data)

    def solve(self, rhs: FloatArray) -> FloatArray:
        """``S^-1 rhs``, (r, m)."""
        return self.factor.solve(rhs)

    def invert(self) -> None:
        """Have ``S^-1`` on the pattern ready."""
        if self._G is None:
            self._G = self.factor.selected_inverse()

    def couple(self, coupling: Coupling, Y: FloatArray) -> FloatArray:
        """``Y S^-1`` on the coupling pattern, (k, ne)."""
        assert self._G is not None
        P, pattern = np.zeros(Y.shape), (self.pattern.indptr, self.pattern.rows)
        loop = partial(kernels.couple_inverse_sparse, *coupling.lists, Y, *pattern, self._G, P)
        in_parts(loop, coupling.level_parts)
        return P

    def entries(self, pair: Pair) -> FloatArray:
        """``S^-1`` where a pair of trailing terms has blocks, (nb, k_s, k_t)."""
        assert self._G is not None
        return self._G[self._index[pair]]
