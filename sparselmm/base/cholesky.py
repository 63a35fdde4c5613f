"""Sparse Cholesky factorization of a fixed pattern.

The pattern is analysed once; afterwards only values change. The numbers come from whichever
provider :mod:`sparselmm.base.providers` finds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from scipy.linalg import lapack

from sparselmm.base import kernels_cholesky
from sparselmm.base.providers import Backend, Mode, NotPositiveDefiniteError, Ordering, provider
from sparselmm.base.threads import one_thread
from sparselmm.base.types import CSC, FloatArray, IntArray, index_dtype

__all__ = [
    "CholeskyFactor",
    "Mode",
    "NotPositiveDefiniteError",
    "Ordering",
    "Pattern",
    "dense_root",
]

WIDEST_SUPERNODE = 96
"""Columns handled together in the selected inverse: wider blocks copy less, narrower ones stay
in cache."""


@dataclass(frozen=True, eq=False)
class Pattern:
    """Lower triangle of a symmetric sparse matrix, by columns, rows ascending.

    Attributes
    ----------
    indptr : ndarray of int, (n + 1,)
    rows : ndarray of int, (nnz,)
        Every column starts with its diagonal entry.
    """

    indptr: IntArray
    rows: IntArray

    @classmethod
    def of(cls, rows: IntArray, cols: IntArray, n: int) -> Pattern:
        """Pattern that holds the given entries (either triangle) and the diagonal."""
        low, high = np.minimum(rows, cols), np.maximum(rows, cols)
        diagonal = np.arange(n)
        low, high = np.concatenate([low, diagonal]), np.concatenate([high, diagonal])
        flags = sp.csc_array((np.ones(len(low), dtype=np.int8), (high, low)), shape=(n, n))
        flags.sort_indices()
        itype = index_dtype(flags.nnz)
        return cls(flags.indptr.astype(itype), flags.indices.astype(itype))

    def long(self) -> Pattern:
        """The same with 64-bit indices, which CHOLMOD then uses for the factor as well."""
        return Pattern(self.indptr.astype(np.int64), self.rows.astype(np.int64))

    @property
    def n(self) -> int:
        """Order of the matrix."""
        return len(self.indptr) - 1

    @property
    def nnz(self) -> int:
        """Stored entries."""
        return len(self.rows)

    def keys(self) -> IntArray:
        """Ascending key ``col * n + row`` of every stored entry, (nnz,)."""
        cols = np.repeat(np.arange(self.n, dtype=np.int64), np.diff(self.indptr))
        return cols * self.n + self.rows

    def positions(self, rows: IntArray, cols: IntArray) -> IntArray:
        """Where entries (either triangle) are stored, same shape as ``rows``."""
        low, high = np.minimum(rows, cols), np.maximum(rows, cols)
        return np.searchsorted(self.keys(), low.astype(np.int64) * self.n + high)

    def matrix(self, data: FloatArray) -> CSC:
        """SciPy matrix with these values in the lower triangle."""
        matrix = sp.csc_array((data, self.rows, self.indptr), shape=(self.n, self.n))
        matrix.indices, matrix.indptr = self.rows, self.indptr  # SciPy narrows them when it can
        return matrix


class CholeskyFactor:
    """``P M P' = L L'`` for matrices M of one pattern: analysed once, factorized many times.

    The numeric factor inside is the only mutable state of the package.

    Parameters
    ----------
    pattern : Pattern
        Structural pattern of M; values never change it.
    ordering : {"amd", "metis", "nesdis", "natural"}
        Fill-reducing ordering.
    mode : {"simplicial", "supernodal"}
        Column by column, or dense blocks through BLAS.
    """

    def __init__(self, pattern: Pattern, ordering: Ordering = "amd", mode: Mode = "supernodal"):
        self.pattern = pattern
        self.ordering: Ordering = ordering
        self.mode: Mode = mode
        self._backend: Backend = provider().backend(
            pattern.matrix(np.ones(pattern.nnz)), ordering, mode
        )
        self._inverse_map: IntArray | None = None
        self._starts: IntArray | None = None

    @property
    def permutation(self) -> IntArray:
        """Column of M at each place of the elimination order, (n,)."""
        return self._backend.permutation()

    def column_counts(self) -> IntArray:
        """Nonzeros per column of L, (n,), known before anything is factorized."""
        place = np.empty(self.pattern.n, dtype=np.int64)
        place[self.permutation] = np.arange(self.pattern.n)
        full = self.pattern.matrix(np.ones(self.pattern.nnz)).tocoo()
        a, b = place[full.row], place[full.col]
        off = a != b
        upper = sp.csc_array(
            (np.ones(off.sum(), np.int8), (np.minimum(a, b)[off], np.maximum(a, b)[off])),
            shape=full.shape,
        )
        return kernels_cholesky.column_counts(upper.indptr, upper.indices)

    def factorize(self, data: FloatArray) -> float:
        """Factorize the matrix with these values on the pattern; returns ``log det M``.

        Raises
        ------
        NotPositiveDefiniteError
            If M is not positive definite to working precision.
        """
        logdet = self._backend.factorize(self.pattern.matrix(data))
        if not np.isfinite(logdet):
            raise NotPositiveDefiniteError(f"log determinant {logdet}")
        return logdet

    def solve(self, rhs: FloatArray) -> FloatArray:
        """``M^-1 rhs``, (n, m)."""
        return self._backend.solve(rhs)

    def lower(self) -> CSC:
        """L, lower triangular in elimination order, structural zeros kept."""
        return self._backend.lower()

    def selected_inverse(self) -> FloatArray:
        """Entries of ``M^-1`` on the pattern, (nnz,), in the order of ``pattern.rows``."""
        L = self.lower()
        if self._inverse_map is None or self._starts is None:
            place = np.empty(self.pattern.n, dtype=np.int64)
            place[self.permutation] = np.arange(self.pattern.n)
            cols = np.repeat(np.arange(self.pattern.n), np.diff(self.pattern.indptr))
            root = dense_root(np.diff(L.indptr))
            self._inverse_map = _places(L, root, place[self.pattern.rows], place[cols])
            self._starts = kernels_cholesky.supernodes(L.indptr, L.indices, WIDEST_SUPERNODE)
            self._starts = np.append(self._starts[self._starts < root], root)
        inverse = np.empty(len(L.data))
        _invert_root(L, int(self._starts[-1]), inverse)
        with one_thread():  # its products are small
            kernels_cholesky.selected_inverse(L.indptr, L.indices, L.data, self._starts, inverse)
        return inverse[self._inverse_map]


def dense_root(counts: IntArray) -> int:
    """First of the last columns of L below which no entry is zero, from the nonzeros of each."""
    full = counts[::-1] == np.arange(1, len(counts) + 1)
    return 0 if full.all() else len(counts) - int(np.argmin(full))


def _places(L: CSC, root: int, rows: IntArray, cols: IntArray) -> IntArray:
    """Where L, whose columns from the root on have no zeros, holds entries of either triangle.

    Nearly all of a factor with much fill is its root: keys of the other columns are enough.
    """
    low, high = np.minimum(rows, cols), np.maximum(rows, cols)
    out = np.asarray(L.indptr[low] + (high - low))
    sparse, n = low < root, L.shape[0]
    stored = np.repeat(np.arange(root, dtype=np.int64), np.diff(L.indptr[: root + 1]))
    keys = stored * n + L.indices[: L.indptr[root]]
    out[sparse] = np.searchsorted(keys, low[sparse].astype(np.int64) * n + high[sparse])
    return out


def _invert_root(L: CSC, start: int, inverse: FloatArray) -> None:
    """Inverse of the dense last columns, which L holds in LAPACK's packed format, by LAPACK."""
    at = L.indptr[start]
    full, _ = lapack.dtpttr(L.shape[0] - start, L.data[at:], uplo="L")
    lapack.dpotri(full, lower=1, overwrite_c=1)
    inverse[at:], _ = lapack.dtrttp(full, uplo="L")
