"""Compiled loops of conjugate gradients on a Schur complement.

The coupling of leading level l with the trailing columns it meets is a list of entries
``indptr[l]:indptr[l + 1]``, each with its column ``cols[e]`` and its coefficients ``Y[e]``, (k,).
Products take columns ``begin`` to ``end`` of their right-hand sides, so that any number of threads
computes the same bits. Arrays in, arrays out, as in :mod:`sparselmm.base.kernels`.
"""

from __future__ import annotations

import numpy as np

from sparselmm.base.compiling import compiled
from sparselmm.base.types import FloatArray, IntArray
from sparselmm.base.vectors import add_narrow_product, add_product


@compiled
def gram_eight(
    indptr: IntArray, cols: IntArray, Y: FloatArray, weights: FloatArray, V: FloatArray,
    out: FloatArray, begin: int, end: int,
) -> None:  # fmt: skip
    """``out += sum_l w_l Y_l'Y_l V`` for blocks ``begin`` to ``end`` of eight columns."""
    for b in range(begin, end):
        v, o = V[b], out[b]
        for a in range(Y.shape[1]):
            for l in range(len(indptr) - 1):
                add_product(cols, Y, a, weights[l], v, o, indptr[l], indptr[l + 1])


@compiled
def gram_four(
    indptr: IntArray, cols: IntArray, Y: FloatArray, weights: FloatArray, V: FloatArray,
    out: FloatArray, begin: int, end: int,
) -> None:  # fmt: skip
    """The same for blocks of four columns."""
    for b in range(begin, end):
        v, o = V[b], out[b]
        for a in range(Y.shape[1]):
            for l in range(len(indptr) - 1):
                add_narrow_product(cols, Y, a, weights[l], v, o, indptr[l], indptr[l + 1])


@compiled
def to_leading(
    indptr: IntArray, cols: IntArray, Y: FloatArray, V: FloatArray, out: FloatArray, begin: int,
    end: int,
) -> None:  # fmt: skip
    """``out_l += Y_l V``; V (r, m), out (l, k, m)."""
    k, m = Y.shape[1], end - begin
    for l in range(len(indptr) - 1):
        for e in range(indptr[l], indptr[l + 1]):
            v = V[cols[e], begin:end]
            for a in range(k):
                y, o = Y[e, a], out[l, a, begin:end]
                for c in range(m):
                    o[c] += y * v[c]


@compiled
def to_trailing(
    indptr: IntArray, cols: IntArray, Y: FloatArray, F: FloatArray, out: FloatArray, begin: int,
    end: int,
) -> None:  # fmt: skip
    """``out += sum_l Y_l'F_l``; F (l, k, m), out (r, m)."""
    k, m = Y.shape[1], end - begin
    for l in range(len(indptr) - 1):
        for e in range(indptr[l], indptr[l + 1]):
            o = out[cols[e], begin:end]
            for a in range(k):
                y, f = Y[e, a], F[l, a, begin:end]
                for c in range(m):
                    o[c] += y * f[c]


@compiled
def couple_blocks(
    indptr: IntArray, rows: IntArray, data: FloatArray, left: FloatArray, back: FloatArray,
    first: IntArray, full: bool, Y: FloatArray,
) -> None:  # fmt: skip
    """``left' data_b back_l`` of every block, as rows of Y; back (l, k, k).

    Block b of level l starts at ``first[l]``, counted by its place in the level, or by its row
    where the coupling is stored in full.
    """
    s, k = data.shape[1], data.shape[2]
    for l in range(len(indptr) - 1):
        for b in range(indptr[l], indptr[l + 1]):
            at = first[l] + (rows[b] if full else b - indptr[l]) * s
            for c in range(s):
                for a in range(k):
                    total = 0.0
                    for i in range(s):
                        half = 0.0
                        for j in range(k):
                            half += data[b, i, j] * back[l, j, a]
                        total += left[i, c] * half
                    Y[at + c, a] = total


@compiled
def subtract_own(
    indptr: IntArray, rows: IntArray, first: IntArray, full: bool, Y: FloatArray, P: FloatArray
) -> None:
    """Subtract ``Y_b Y_b'`` of every block from its trailing level's P, (l, s, s)."""
    s, k = P.shape[1], Y.shape[1]
    for l in range(len(indptr) - 1):
        for b in range(indptr[l], indptr[l + 1]):
            at = first[l] + (rows[b] if full else b - indptr[l]) * s
            for c in range(s):
                for d in range(s):
                    total = 0.0
                    for a in range(k):
                        total += Y[at + c, a] * Y[at + d, a]
                    P[rows[b], c, d] -= total


@compiled
def scale_blocks(
    indptr: IntArray, rows: IntArray, first: IntArray, full: bool, T: FloatArray, Y: FloatArray
) -> None:
    """Multiply every block by its trailing level's lower triangle T, (l, s, s), in place."""
    s, k = T.shape[1], Y.shape[1]
    for l in range(len(indptr) - 1):
        for b in range(indptr[l], indptr[l + 1]):
            at = first[l] + (rows[b] if full else b - indptr[l]) * s
            for a in range(k):
                for c in range(s - 1, -1, -1):
                    total = 0.0
                    for d in range(c + 1):
                        total += T[rows[b], c, d] * Y[at + d, a]
                    Y[at + c, a] = total


@compiled
def level_grams(indptr: IntArray, Y: FloatArray, out: FloatArray) -> None:
    """``out_l = sum_e Y_e Y_e'`` over the entries of level l, (l, k, k)."""
    k = Y.shape[1]
    for l in range(len(indptr) - 1):
        for a in range(k):
            for c in range(k):
                total = 0.0
                for e in range(indptr[l], indptr[l + 1]):
                    total += Y[e, a] * Y[e, c]
                out[l, a, c] = total


@compiled
def gram_rows(
    indptr: IntArray, cols: IntArray, Y: FloatArray, row: int, out: FloatArray, begin: int,
    end: int,
) -> None:  # fmt: skip
    """Subtract rows ``row + begin`` to ``row + end`` of ``sum_l Y_l'Y_l``, up to their diagonal.

    ``out`` (rows, r) starts with row ``row``; the columns of every level are ascending.
    """
    k = Y.shape[1]
    for l in range(len(indptr) - 1):
        for e in range(indptr[l], indptr[l + 1]):
            i = cols[e] - row
            if i < begin:
                continue
            if i >= end:
                break
            for f in range(indptr[l], e + 1):
                total = 0.0
                for a in range(k):
                    total += Y[e, a] * Y[f, a]
                out[i, cols[f]] -= total


@compiled
def second_order(
    indptr: IntArray, cols: IntArray, Y: FloatArray, F: FloatArray, places: IntArray,
    levels: IntArray, starts: IntArray, first: IntArray, inner: tuple[IntArray, IntArray],
    data: FloatArray, squares: FloatArray, crossed: FloatArray,
) -> None:  # fmt: skip
    """Diagonal blocks of E E, and ``sum_l F_l'E F_l``, row by row of the part of E before them.

    Column j has its own entries ``places[starts[j]:starts[j + 1]]`` in leading levels ``levels``,
    and belongs to a trailing level whose columns begin with ``first[j]``. ``inner`` and ``data``
    are H by rows. ``squares[i, c]`` belongs to columns i and ``first[i] + c``; ``crossed`` (k, k)
    gets half of the sum, which is to be symmetrized.
    """
    r, k, wide = len(first), Y.shape[1], squares.shape[1]
    rows, sums = np.zeros((wide, r)), np.empty(k)
    i = 0
    while i < r:
        end = i + 1
        while end < r and first[end] == i:
            end += 1
        for c in range(end - i):
            row = rows[c]
            row[:i] = 0.0
            for e in range(inner[0][i + c], inner[0][i + c + 1]):
                if inner[1][e] < i:
                    row[inner[1][e]] -= data[e]
            for o in range(starts[i + c], starts[i + c + 1]):
                e, begin = places[o], indptr[levels[o]]
                for a in range(k):
                    y = Y[e, a]
                    for f in range(begin, e - c):
                        row[cols[f]] += y * Y[f, a]
            for o in range(starts[i + c], starts[i + c + 1]):
                e, begin = places[o], indptr[levels[o]]
                for a in range(k):
                    total = 0.0
                    for f in range(begin, e - c):
                        total += row[cols[f]] * F[f, a]
                    sums[a] = total
                for a in range(k):
                    for b in range(k):
                        crossed[a, b] += F[e, a] * sums[b]
            for d in range(c + 1):
                other, total = rows[d], 0.0
                for j in range(i):
                    total += row[j] * other[j]
                squares[i + c, d] += total
            if wide == 1:
                for j in range(i):
                    squares[j, 0] += row[j] * row[j]
            else:
                for j in range(i):
                    for d in range(j - first[j] + 1):
                        squares[j, d] += row[j] * row[first[j] + d]
        i = end


@compiled
def own_products(
    indptr: IntArray, cols: IntArray, F: FloatArray, first: IntArray, out: FloatArray
) -> None:
    """``sum_l F_l,i F_l,j'`` of columns i and j of one level; out (r, its columns, k, k)."""
    k = F.shape[1]
    for l in range(len(indptr) - 1):
        for e in range(indptr[l], indptr[l + 1]):
            i = cols[e]
            start = e - (i - first[i])
            f = start
            while f < indptr[l + 1] and first[cols[f]] == first[i]:
                for a in range(k):
                    for b in range(k):
                        out[i, f - start, a, b] += F[e, a] * F[f, b]
                f += 1
