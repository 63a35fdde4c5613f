"""Sparse Cholesky factorization of a fixed pattern: the only file that names scikit-sparse.

The pattern is analysed once; afterwards only values change. scikit-sparse 0.4 (SuiteSparse
5) and 0.5 (SuiteSparse 7) have different interfaces, both are served here.
"""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
from scipy.linalg import lapack
from sksparse import cholmod

from sparselmm.base import kernels
from sparselmm.base.exceptions import SparseLMMError
from sparselmm.base.threads import one_thread
from sparselmm.base.types import CSC, FloatArray, IntArray, index_dtype

Ordering = Literal["amd", "metis", "nesdis", "natural"]
Mode = Literal["simplicial", "supernodal"]

WIDEST_SUPERNODE = 96
"""Columns handled together in the selected inverse: wider blocks copy less, narrower ones stay
in cache."""


class NotPositiveDefiniteError(SparseLMMError, ArithmeticError):
    """The matrix handed to the factorization is not positive definite."""


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
        self._backend = _backend()(pattern.matrix(np.ones(pattern.nnz)), ordering, mode)
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
        return kernels.column_counts(upper.indptr, upper.indices)

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
            in_l = Pattern(L.indptr, L.indices)
            self._inverse_map = in_l.positions(place[self.pattern.rows], place[cols])
            self._starts = kernels.supernodes(L.indptr, L.indices, WIDEST_SUPERNODE)
            root = dense_root(np.diff(L.indptr))
            self._starts = np.append(self._starts[self._starts < root], root)
        inverse = np.empty(len(L.data))
        _invert_root(L, int(self._starts[-1]), inverse)
        with one_thread():  # its products are small
            kernels.selected_inverse(L.indptr, L.indices, L.data, self._starts, inverse)
        return inverse[self._inverse_map]


def dense_root(counts: IntArray) -> int:
    """First of the last columns of L below which no entry is zero, from the nonzeros of each."""
    full = counts[::-1] == np.arange(1, len(counts) + 1)
    return 0 if full.all() else len(counts) - int(np.argmin(full))


def _invert_root(L: CSC, start: int, inverse: FloatArray) -> None:
    """Inverse of the dense last columns, which L holds in LAPACK's packed format, by LAPACK."""
    at = L.indptr[start]
    full, _ = lapack.dtpttr(L.shape[0] - start, L.data[at:], uplo="L")
    lapack.dpotri(full, lower=1, overwrite_c=1)
    inverse[at:], _ = lapack.dtrttp(full, uplo="L")


# ------------------------------------------------------------------ scikit-sparse versions


class _SkSparse04:
    """scikit-sparse 0.4: ``analyze`` and ``Factor``."""

    def __init__(self, matrix: CSC, ordering: Ordering, mode: Mode):
        self._factor: Any = cholmod.analyze(
            matrix,
            mode=mode,
            ordering_method=ordering,
            use_long=matrix.indices.dtype == np.int64,
        )

    def permutation(self) -> IntArray:
        order: IntArray = self._factor.P()
        return order

    def factorize(self, matrix: CSC) -> float:
        try:
            self._factor.cholesky_inplace(matrix)
        except cholmod.CholmodNotPositiveDefiniteError as error:
            raise NotPositiveDefiniteError(str(error)) from error
        D = self._factor.D()
        if not (D > 0).all():  # the simplicial LDL' does not refuse negative pivots
            raise NotPositiveDefiniteError(f"smallest pivot {D.min():.3g}")
        return float(np.log(D).sum())

    def solve(self, rhs: FloatArray) -> FloatArray:
        solution: FloatArray = self._factor.solve_A(rhs)
        return solution

    def lower(self) -> CSC:
        return _sorted(self._factor.L())


class _SkSparse05:
    """scikit-sparse 0.5: ``CholeskyFactor``.

    A factorization turns the supernodal factor it was given into a simplicial one, and the next
    on the same object would go column by column. So what was analysed is kept and every
    factorization happens in a copy of it.
    """

    def __init__(self, matrix: CSC, ordering: Ordering, mode: Mode):
        self._analysed: Any = cholmod.CholeskyFactor(
            matrix, lower=True, order=ordering, supernodal_mode=mode
        )
        self._numeric: Any = None
        self._L: CSC | None = None

    def permutation(self) -> IntArray:
        order: IntArray = np.asarray(self._analysed.perm)
        return order

    def factorize(self, matrix: CSC) -> float:
        self._numeric = self._L = None  # frees its memory before the next takes as much
        numeric = self._analysed.copy()
        try:
            with _SILENCE:
                numeric.factorize(matrix, ldl=False)
        except cholmod.CholmodNotPositiveDefiniteError as error:
            raise NotPositiveDefiniteError(str(error)) from error
        # the view, not get_factor(), which drops numerical zeros and with them the pattern
        view = numeric.factor
        self._L = _sorted(view)
        # The factor keeps the view and the view's arrays the factor: a cycle through arrays, which
        # Python cannot collect.
        view.data, view.indices, view.indptr = np.zeros(0), np.zeros(0, int), np.zeros(1, int)
        self._numeric = numeric
        return float(2.0 * np.log(self._L.data[self._L.indptr[:-1]]).sum())

    def solve(self, rhs: FloatArray) -> FloatArray:
        if self._numeric.rcond >= self._numeric.N * np.finfo(float).eps:
            solution: FloatArray = self._numeric.solve(rhs)
            return solution
        # An estimate from the diagonal of L alone: levels with many rows next to levels with none
        # are enough to make it small.
        with _FILTERS, warnings.catch_warnings():
            warnings.simplefilter("ignore", cholmod.CholmodWarning)
            solution = self._numeric.solve(rhs)
        return solution

    def lower(self) -> CSC:
        assert self._L is not None
        return self._L


_FILTERS = Lock()
"""Python's warning filters belong to all threads."""


class _Silence:
    """Context in which SuiteSparse 7 does not print.

    CHOLMOD writes to the terminal what scikit-sparse 0.5 raises as well, and its print level is out
    of reach. The function that prints is one for the whole process: it comes back when the last
    thread leaves.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._inside = 0
        self._print: int | None = None
        library = ctypes.CDLL(cholmod.__file__)  # with what it is linked to
        self._get = getattr(library, "SuiteSparse_config_printf_func_get", None)
        self._set = getattr(library, "SuiteSparse_config_printf_func_set", None)
        if self._get is not None and self._set is not None:
            self._get.restype, self._set.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
            self._get.argtypes, self._set.restype = [], None

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0 and self._get is not None and self._set is not None:
                self._print = self._get()
                self._set(None)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._set is not None:
                self._set(self._print)


_SILENCE = _Silence()


def _sorted(L: Any) -> CSC:
    matrix = sp.csc_array(L)
    if not matrix.has_sorted_indices:
        matrix = matrix.copy()
        matrix.sort_indices()
    return matrix


def _backend() -> Callable[[CSC, Ordering, Mode], _SkSparse04 | _SkSparse05]:
    return _SkSparse05 if hasattr(cholmod, "CholeskyFactor") else _SkSparse04
