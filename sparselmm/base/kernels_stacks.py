"""Compiled loops over stacks of small matrices; see :mod:`sparselmm.base.kernels` for the rules."""

from __future__ import annotations

import numpy as np

from sparselmm.base.compiling import compiled
from sparselmm.base.types import BoolArray, FloatArray


@compiled
def invert_stack(
    S: FloatArray, lead: int, inverse: FloatArray, logdets: FloatArray, good: BoolArray
) -> None:
    """Inverse and log determinants of symmetric positive definite matrices, (m, n, n).

    The sweep operator (Goodnight 1979) on the lower triangle, in place: sweeping pivot after pivot
    turns S into ``-S^-1``, and the pivots are those of the Cholesky factor, squared. Every inner
    loop subtracts a multiple of one contiguous row from another.

    Parameters
    ----------
    S : ndarray, (m, n, n)
        Only the lower triangle is read.
    lead : int
        Order of the leading minor whose log determinant is wanted as well.
    inverse : ndarray, (m, n, n)
        Overwritten; not aliased with S.
    logdets : ndarray, (m, 2)
        Overwritten: of the leading minor, of the whole matrix.
    good : ndarray of bool, (m,)
        Overwritten: False where a pivot was not positive; the other outputs are NaN there.

    References
    ----------
    Goodnight, J. H. (1979). A tutorial on the SWEEP operator. *The American Statistician* 33(3),
    149-158.
    """
    m, n = S.shape[0], S.shape[1]
    v, w = np.empty(n), np.empty(n)
    for b in range(m):
        A = inverse[b]
        for i in range(n):
            for j in range(i + 1):
                A[i, j] = S[b, i, j]
        good[b] = True
        total = 0.0
        for p in range(n):
            if p == lead:
                logdets[b, 0] = total
            pivot = A[p, p]
            if not pivot > 0.0:
                good[b] = False
                break
            total += np.log(pivot)
            for j in range(p):
                v[j] = A[p, j]
            for j in range(p + 1, n):
                v[j] = A[j, p]
            v[p] = 0.0
            for j in range(n):
                w[j] = v[j] / pivot
            for i in range(n):
                x = w[i]
                for j in range(i + 1):
                    A[i, j] -= x * v[j]
            for j in range(p):
                A[p, j] = w[j]
            for j in range(p + 1, n):
                A[j, p] = w[j]
            A[p, p] = -1.0 / pivot
        if not good[b]:
            logdets[b] = np.nan
            inverse[b] = np.nan
            continue
        if lead >= n:
            logdets[b, 0] = total
        logdets[b, 1] = total
        for i in range(n):
            for j in range(i + 1):
                x = -A[i, j]
                A[i, j] = x
                A[j, i] = x


@compiled
def mirror(S: FloatArray) -> None:
    """Copy the lower triangle of every matrix (m, n, n) to the upper one, in place."""
    for b in range(S.shape[0]):
        for i in range(S.shape[1]):
            for j in range(i):
                S[b, j, i] = S[b, i, j]


@compiled
def unpack_rest(rest: FloatArray, packed: FloatArray, out: FloatArray) -> None:
    """``rest - packed`` as full symmetric matrices.

    Parameters
    ----------
    rest : ndarray, (n, n)
        Symmetric.
    packed : ndarray, (m, n (n + 1) / 2)
        Lower triangles row by row.
    out : ndarray, (m, n, n)
        Overwritten.
    """
    for b in range(out.shape[0]):
        start = 0
        for i in range(out.shape[1]):
            for j in range(i + 1):
                x = rest[i, j] - packed[b, start + j]
                out[b, i, j] = x
                out[b, j, i] = x
            start += i + 1


@compiled
def pack_scaled(S: FloatArray, scales: FloatArray, packed: FloatArray) -> None:
    """Lower triangles of ``diag(scales) S diag(scales)`` row by row, off-diagonal entries twice.

    Its product with another packed symmetric matrix is the sum over all entries of the full ones.

    Parameters
    ----------
    S : ndarray, (m, n, n)
        Symmetric.
    scales : ndarray, (m, n)
    packed : ndarray, (m, n (n + 1) / 2)
        Overwritten.
    """
    for b in range(S.shape[0]):
        start = 0
        for i in range(S.shape[1]):
            x = 2.0 * scales[b, i]
            for j in range(i):
                packed[b, start + j] = x * scales[b, j] * S[b, i, j]
            packed[b, start + i] = scales[b, i] * scales[b, i] * S[b, i, i]
            start += i + 1
