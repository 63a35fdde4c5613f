"""Compiled loops over stacks of small matrices; see :mod:`sparselmm.kernels` for the rules."""

from __future__ import annotations

import numpy as np

from sparselmm._typing import BoolArray, FloatArray
from sparselmm.kernels import compiled


@compiled
def invert_stack(
    S: FloatArray, lead: int, inverse: FloatArray, logdets: FloatArray, good: BoolArray
) -> None:
    """Inverse and log determinants of symmetric positive definite matrices, (m, n, n).

    With ``S = L L'`` and ``R = L^-1``, ``S^-1 = R'R``; every inner loop is a product of two
    contiguous rows. Only the lower triangle of S is read.

    Parameters
    ----------
    S : ndarray, (m, n, n)
    lead : int
        Order of the leading minor whose log determinant is wanted as well.
    inverse : ndarray, (m, n, n)
        Overwritten; not aliased with S.
    logdets : ndarray, (m, 2)
        Overwritten: of the leading minor, of the whole matrix.
    good : ndarray of bool, (m,)
        Overwritten: False where a pivot was not positive; the other outputs are NaN there.
    """
    m, n = S.shape[0], S.shape[1]
    L = np.empty((n, n))
    Rt = np.empty((n, n))
    for b in range(m):
        good[b] = True
        total = 0.0
        for i in range(n):
            if i == lead:
                logdets[b, 0] = total
            for j in range(i):
                x = 0.0
                for c in range(j):
                    x += L[i, c] * L[j, c]
                L[i, j] = (S[b, i, j] - x) * L[j, j]
            x = 0.0
            for c in range(i):
                x += L[i, c] * L[i, c]
            pivot = S[b, i, i] - x
            if not pivot > 0.0:
                good[b] = False
                break
            total += np.log(pivot)
            L[i, i] = 1.0 / np.sqrt(pivot)  # the reciprocal
        if not good[b]:
            logdets[b] = np.nan
            inverse[b] = np.nan
            continue
        if lead >= n:
            logdets[b, 0] = total
        logdets[b, 1] = total
        for j in range(n):
            Rt[j, j] = L[j, j]
            for i in range(j + 1, n):
                x = 0.0
                for c in range(j, i):
                    x += L[i, c] * Rt[j, c]
                Rt[j, i] = -x * L[i, i]
        for i in range(n):
            for j in range(i + 1):
                x = 0.0
                for c in range(i, n):
                    x += Rt[i, c] * Rt[j, c]
                inverse[b, i, j] = x
                inverse[b, j, i] = x


@compiled
def mirror(S: FloatArray) -> None:
    """Copy the lower triangle of every matrix (m, n, n) to the upper one, in place."""
    for b in range(S.shape[0]):
        for i in range(S.shape[1]):
            for j in range(i):
                S[b, j, i] = S[b, i, j]
