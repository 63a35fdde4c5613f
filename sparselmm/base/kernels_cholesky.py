"""Compiled loops over the columns of a sparse Cholesky factor.

L is lower triangular, by columns ``indptr[j]:indptr[j + 1]`` with ascending ``rows``, each from its
diagonal on. Arrays in, arrays out, as in :mod:`sparselmm.base.kernels`.
"""

from __future__ import annotations

import numpy as np

from sparselmm.base.compiling import compiled
from sparselmm.base.types import FloatArray, IntArray

PANEL = 64
"""Rows of an inverse that are collected at a time, few enough to stay in cache."""


@compiled
def supernodes(indptr: IntArray, rows: IntArray, widest: int) -> IntArray:
    """First column of each supernode of L (lower, by columns, rows ascending), and n.

    Neighbouring columns belong together when the later one's pattern is the earlier one's
    without its first row.
    """
    n = indptr.shape[0] - 1
    starts = np.empty(n + 1, dtype=np.int64)
    count, j = 0, 0
    while j < n:
        starts[count] = j
        count += 1
        c = j
        while c + 1 < n and c + 1 - j < widest:
            a, b = indptr[c] + 1, indptr[c + 1]
            size = indptr[c + 2] - b
            if indptr[c + 1] - a != size:
                break
            same = True
            for i in range(size):
                if rows[a + i] != rows[b + i]:
                    same = False
                    break
            if not same:
                break
            c += 1
        j = c + 1
    starts[count] = n
    return starts[: count + 1]


@compiled
def selected_inverse(
    indptr: IntArray, rows: IntArray, L: FloatArray, starts: IntArray, G: FloatArray
) -> None:
    """Entries of ``(L L')^-1`` on the pattern of L, supernode by supernode, into G.

    With J the columns of a supernode, R the rows below them and G the inverse, the
    recurrence of Takahashi, Fagan & Chen (1973) and Erisman & Tinney (1975) in blocks is

        Y = L_RJ L_JJ^-1,   G_RJ = -G_RR Y,   G_JJ = L_JJ^-T L_JJ^-1 - Y' G_RJ,

    from the last supernode to the first. ``G_RR`` is on the pattern because the rows below
    J are a clique of L L'. L: lower triangle by columns, rows ascending, diagonal first;
    columns from ``starts[-1]`` on, a dense triangle, are done already.
    """
    n = indptr.shape[0] - 1
    owner = np.empty(n, dtype=np.int64)
    for s in range(starts.shape[0] - 1):
        owner[starts[s] : starts[s + 1]] = s
    owner[starts[-1] :] = starts.shape[0] - 1
    ends = np.append(starts[1:], n)
    place = np.empty(n, dtype=np.int64)
    for s in range(starts.shape[0] - 2, -1, -1):
        c0, m = starts[s], starts[s + 1] - starts[s]
        r = indptr[c0 + 1] - indptr[c0] - m
        inv = np.zeros((m, m))
        for b in range(m):
            inv[b, b] = 1.0 / L[indptr[c0 + b]]
            for a in range(b + 1, m):
                x = 0.0
                for c in range(b, a):
                    x -= L[indptr[c0 + c] + a - c] * inv[c, b]
                inv[a, b] = x / L[indptr[c0 + a]]
        block = np.dot(np.ascontiguousarray(inv.T), inv)
        if r > 0:
            below = rows[indptr[c0] + m : indptr[c0 + 1]]
            LR = np.empty((r, m))
            for b in range(m):
                at = indptr[c0 + b] + m - b
                for i in range(r):
                    LR[i, b] = L[at + i]
            Y = np.dot(LR, inv)
            GRJ = np.zeros((r, m))
            i = 0
            while i < r:  # the rows of one supernode K at a time, they share their pattern
                K = owner[below[i]]
                last = ends[K] - 1
                stop = i + 1
                while stop < r and below[stop] <= last and stop - i < PANEL:
                    stop += 1
                at, end = indptr[last] + 1, indptr[last + 1]  # rows below K
                p = at
                for h in range(stop, r):
                    row = below[h]
                    if row <= last or end - at == n - 1 - last:  # in K, or K has all rows below
                        place[h] = row - last - 1
                    else:
                        while rows[p] < row:
                            p += 1
                        place[h] = p - at
                inner, outer = np.empty((stop - i, stop - i)), np.empty((stop - i, r - stop))
                for g in range(i, stop):
                    col = below[g]
                    base = indptr[col] - col
                    for h in range(g, stop):
                        inner[g - i, h - i] = G[base + below[h]]
                        inner[h - i, g - i] = inner[g - i, h - i]
                    base += last + 1
                    for h in range(stop, r):
                        outer[g - i, h - stop] = G[base + place[h]]
                GRJ[i:stop] += np.dot(inner, Y[i:stop]) + np.dot(outer, Y[stop:])
                GRJ[stop:] += np.dot(outer.T, Y[i:stop])
                i = stop
            block += np.dot(np.ascontiguousarray(Y.T), GRJ)
            for b in range(m):
                at = indptr[c0 + b] + m - b
                for i in range(r):
                    G[at + i] = -GRJ[i, b]
        for b in range(m):
            for a in range(b, m):
                G[indptr[c0 + b] + a - b] = block[a, b]


@compiled
def solve_sparse(indptr: IntArray, rows: IntArray, data: FloatArray, x: FloatArray) -> None:
    """Overwrite ``x``, (n, m), with ``(L L')^-1 x``.

    L by columns, the diagonal first in each.
    """
    n, m = x.shape
    for j in range(n):
        for c in range(m):
            x[j, c] /= data[indptr[j]]
        for e in range(indptr[j] + 1, indptr[j + 1]):
            for c in range(m):
                x[rows[e], c] -= data[e] * x[j, c]
    for j in range(n - 1, -1, -1):
        for e in range(indptr[j] + 1, indptr[j + 1]):
            for c in range(m):
                x[j, c] -= data[e] * x[rows[e], c]
        for c in range(m):
            x[j, c] /= data[indptr[j]]


@compiled
def column_counts(indptr: IntArray, rows: IntArray) -> IntArray:
    """Nonzeros per column of the Cholesky factor of a matrix in its elimination order, (n,).

    ``indptr, rows`` hold the strict upper triangle by columns (row < column). Rows of L
    are row subtrees of the elimination tree (Liu 1990): time nnz(L), memory n.
    """
    n = indptr.shape[0] - 1
    parent = np.full(n, -1, dtype=np.int64)
    mark = np.full(n, -1, dtype=np.int64)
    counts = np.ones(n, dtype=np.int64)
    for i in range(n):
        mark[i] = i
        for e in range(indptr[i], indptr[i + 1]):
            j = rows[e]
            while mark[j] != i:
                mark[j] = i
                counts[j] += 1
                if parent[j] == -1:
                    parent[j] = i
                j = parent[j]
    return counts
