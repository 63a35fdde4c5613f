"""Compiled loops of conjugate gradients on a Schur complement.

The coupling of leading level l with the trailing columns it meets is a list of entries
``indptr[l]:indptr[l + 1]``, each with its column ``cols[e]`` and its coefficients ``Y[e]``, (k,).
Products take columns ``begin`` to ``end`` of their right-hand sides, so that any number of threads
computes the same bits. Arrays in, arrays out, as in :mod:`sparselmm.base.kernels`.
"""

from __future__ import annotations

from sparselmm.base.compiling import compiled
from sparselmm.base.types import FloatArray, IntArray


@compiled
def gram_eight(
    indptr: IntArray, cols: IntArray, Y: FloatArray, V: FloatArray, out: FloatArray, begin: int,
    end: int,
) -> None:  # fmt: skip
    """``out += sum_l Y_l'Y_l V`` for blocks ``begin`` to ``end`` of eight columns, (blocks, r, 8).

    Written out, so that the sums of a level stay in registers: a loop takes twice as long.
    """
    for b in range(begin, end):
        v, o = V[b], out[b]
        for a in range(Y.shape[1]):
            for l in range(len(indptr) - 1):
                t0 = t1 = t2 = t3 = t4 = t5 = t6 = t7 = 0.0
                for e in range(indptr[l], indptr[l + 1]):
                    j, y = cols[e], Y[e, a]
                    t0 += y * v[j, 0]
                    t1 += y * v[j, 1]
                    t2 += y * v[j, 2]
                    t3 += y * v[j, 3]
                    t4 += y * v[j, 4]
                    t5 += y * v[j, 5]
                    t6 += y * v[j, 6]
                    t7 += y * v[j, 7]
                for e in range(indptr[l], indptr[l + 1]):
                    j, y = cols[e], Y[e, a]
                    o[j, 0] += y * t0
                    o[j, 1] += y * t1
                    o[j, 2] += y * t2
                    o[j, 3] += y * t3
                    o[j, 4] += y * t4
                    o[j, 5] += y * t5
                    o[j, 6] += y * t6
                    o[j, 7] += y * t7


@compiled
def gram_four(
    indptr: IntArray, cols: IntArray, Y: FloatArray, V: FloatArray, out: FloatArray, begin: int,
    end: int,
) -> None:  # fmt: skip
    """The same for blocks of four columns, (blocks, r, 4)."""
    for b in range(begin, end):
        v, o = V[b], out[b]
        for a in range(Y.shape[1]):
            for l in range(len(indptr) - 1):
                t0 = t1 = t2 = t3 = 0.0
                for e in range(indptr[l], indptr[l + 1]):
                    j, y = cols[e], Y[e, a]
                    t0 += y * v[j, 0]
                    t1 += y * v[j, 1]
                    t2 += y * v[j, 2]
                    t3 += y * v[j, 3]
                for e in range(indptr[l], indptr[l + 1]):
                    j, y = cols[e], Y[e, a]
                    o[j, 0] += y * t0
                    o[j, 1] += y * t1
                    o[j, 2] += y * t2
                    o[j, 3] += y * t3


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
