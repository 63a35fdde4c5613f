"""Every compiled loop of the package: arrays in, arrays out.

Each function is plain Python over NumPy arrays, compiled at its first call, see
:mod:`sparselmm.base.compiling`. None of them checks its arguments: callers do.

Coupling lists. Several kernels work on a *leading* grouping factor whose part of
``M = Lambda'A Lambda + I`` is block diagonal with blocks ``D_l`` (k x k). The entries of M that
couple level ``l`` with the other columns ("trailing" columns, numbered from 0) are stored
as a list per level: ``cols[indptr[l]:indptr[l + 1]]`` ascending, and for each entry the k
coefficients ``V[:, e]`` of that trailing column.
"""

from __future__ import annotations

import numpy as np

from sparselmm.base.compiling import compiled
from sparselmm.base.types import BoolArray, FloatArray, IntArray

LEVELS = 1024
"""Levels whose products are summed up together."""

# ------------------------------------------------------------------------ cross-products


@compiled
def add_rows(codes: IntArray, rows: FloatArray, out: FloatArray) -> None:
    """``out[codes[i]] += rows[i]``; rows (m, c), out (l, c); negative codes are skipped."""
    for i in range(codes.shape[0]):
        j = codes[i]
        if j >= 0:
            for c in range(rows.shape[1]):
                out[j, c] += rows[i, c]


@compiled
def add_scaled_rows(codes: IntArray, values: FloatArray, rows: FloatArray, out: FloatArray) -> None:
    """``out[codes[i] k + r] += values[i, r] rows[i]``; values (m, k), out (l k, c)."""
    k = values.shape[1]
    for i in range(codes.shape[0]):
        j = codes[i]
        if j >= 0:
            for r in range(k):
                v = values[i, r]
                for c in range(rows.shape[1]):
                    out[j * k + r, c] += v * rows[i, c]


@compiled
def add_level_blocks(
    codes: IntArray, left: FloatArray, right: FloatArray, w: FloatArray, out: FloatArray
) -> None:
    """``out[codes[i]] += w_i left_i right_i'``; out (l, k, m), negative codes are skipped.

    ``left`` (n, k) or ``right`` (n, m) of shape (0, 1) stand for ones, ``w`` of length 0 for unit
    weights.
    """
    ones_left, ones_right, unit = left.shape[0] == 0, right.shape[0] == 0, w.shape[0] == 0
    for i in range(codes.shape[0]):
        j = codes[i]
        if j < 0:
            continue
        wi = 1.0 if unit else w[i]
        for r in range(left.shape[1]):
            v = wi if ones_left else wi * left[i, r]
            for c in range(right.shape[1]):
                out[j, r, c] += v if ones_right else v * right[i, c]


@compiled
def meets_one(inner: IntArray, outer: IntArray, met: IntArray) -> bool:
    """Whether every level in ``inner`` has one in ``outer``, that in ``met`` if there is one.

    Rows without a level deny it. Levels with -1 in ``met`` (l,) are entered there.
    """
    for i in range(inner.shape[0]):
        j, other = inner[i], outer[i]
        if j < 0 or other < 0:
            return False
        if met[j] != other:
            if met[j] >= 0:
                return False
            met[j] = other
    return True


@compiled
def mark_first(codes: IntArray, seen: BoolArray, first: BoolArray) -> None:
    """Mark the first row of every level not seen yet in ``first`` (n,), the level in ``seen``."""
    for i in range(codes.shape[0]):
        j = codes[i]
        if j >= 0 and not seen[j]:
            seen[j] = True
            first[i] = True


@compiled
def sort_pairs(codes_s: IntArray, codes_t: IntArray, n_s: int, n_t: int) -> IntArray:
    """Rows ordered by (code_t, code_s), rows without a level left out: two counting sorts."""
    n = codes_s.shape[0]
    start = np.zeros(n_s + 1, dtype=np.int64)
    m = 0
    for i in range(n):
        if codes_s[i] >= 0 and codes_t[i] >= 0:
            start[codes_s[i] + 1] += 1
            m += 1
    for j in range(n_s):
        start[j + 1] += start[j]
    by_s = np.empty(m, dtype=codes_s.dtype)
    for i in range(n):
        if codes_s[i] >= 0 and codes_t[i] >= 0:
            by_s[start[codes_s[i]]] = i
            start[codes_s[i]] += 1
    begin = np.zeros(n_t + 1, dtype=np.int64)
    for e in range(m):
        begin[codes_t[by_s[e]] + 1] += 1
    for j in range(n_t):
        begin[j + 1] += begin[j]
    order = np.empty(m, dtype=codes_s.dtype)
    for e in range(m):
        i = by_s[e]
        order[begin[codes_t[i]]] = i
        begin[codes_t[i]] += 1
    return order


@compiled
def pair_blocks(
    order: IntArray,
    codes_s: IntArray,
    codes_t: IntArray,
    values_s: FloatArray,
    values_t: FloatArray,
    w: FloatArray,
    n_t: int,
) -> tuple[IntArray, IntArray, FloatArray]:
    """``Z_s'WZ_t`` in blocks from rows sorted by (code_t, code_s).

    Returns ``indptr`` (n_t + 1,), ``rows`` (nb,) and ``data`` (nb, k_s, k_t). ``values`` of
    shape (0, 1) stand for ones, ``w`` of length 0 for unit weights.
    """
    ks, kt = values_s.shape[1], values_t.shape[1]
    ones_s, ones_t = values_s.shape[0] == 0, values_t.shape[0] == 0
    unit = w.shape[0] == 0
    m = order.shape[0]
    nb = 0
    for e in range(m):
        i = order[e]
        if e == 0 or codes_t[i] != codes_t[order[e - 1]] or codes_s[i] != codes_s[order[e - 1]]:
            nb += 1
    indptr = np.zeros(n_t + 1, dtype=np.int64)
    rows = np.empty(nb, dtype=codes_s.dtype)
    data = np.zeros((nb, ks, kt))
    b = -1
    for e in range(m):
        i = order[e]
        if e == 0 or codes_t[i] != codes_t[order[e - 1]] or codes_s[i] != codes_s[order[e - 1]]:
            b += 1
            rows[b] = codes_s[i]
            indptr[codes_t[i] + 1] += 1
        wi = 1.0 if unit else w[i]
        for r in range(ks):
            vs = wi if ones_s else wi * values_s[i, r]
            for c in range(kt):
                data[b, r, c] += vs if ones_t else vs * values_t[i, c]
    for j in range(n_t):
        indptr[j + 1] += indptr[j]
    return indptr, rows, data


# ---------------------------------------------------------------- leading-factor elimination


@compiled
def inverse_factors(D: FloatArray) -> tuple[FloatArray, float]:
    """Inverse Cholesky factors of many small matrices, and the sum of their log determinants.

    D (l, k, k), symmetric positive definite. Returns ``R`` (l, k, k) lower triangular with
    ``R D R' = I``, that is ``R = C^-1`` for ``D = C C'``. A matrix that is not positive
    definite gives NaN.
    """
    l, k = D.shape[0], D.shape[1]
    R = np.zeros((l, k, k))
    C = np.zeros((k, k))
    logdet = 0.0
    for j in range(l):
        for a in range(k):
            for b in range(a + 1):
                s = D[j, a, b]
                for c in range(b):
                    s -= C[a, c] * C[b, c]
                if a == b:
                    C[a, a] = np.sqrt(s) if s > 0 else np.nan
                else:
                    C[a, b] = s / C[b, b]
            logdet += 2.0 * np.log(C[a, a])
        for b in range(k):
            R[j, b, b] = 1.0 / C[b, b]
            for a in range(b + 1, k):
                s = 0.0
                for c in range(b, a):
                    s -= C[a, c] * R[j, c, b]
                R[j, a, b] = s / C[a, a]
    return R, logdet


@compiled
def apply_blocks(blocks: FloatArray, x: FloatArray, out: FloatArray, transpose: bool) -> None:
    """``out[l] = blocks[l] @ x[l]`` or ``blocks[l]' @ x[l]``; blocks (l, k, k), x (l, k, m).

    ``out`` may not be ``x``.
    """
    l, k, m = x.shape
    if k == 2:
        for j in range(l):
            b, d = blocks[j, 0, 1], blocks[j, 1, 0]
            if transpose:
                b, d = d, b
            for c in range(m):
                out[j, 0, c] = blocks[j, 0, 0] * x[j, 0, c] + b * x[j, 1, c]
                out[j, 1, c] = d * x[j, 0, c] + blocks[j, 1, 1] * x[j, 1, c]
        return
    for j in range(l):
        for a in range(k):
            for c in range(m):
                out[j, a, c] = 0.0
            for b in range(k):
                f = blocks[j, b, a] if transpose else blocks[j, a, b]
                if f != 0.0:
                    for c in range(m):
                        out[j, a, c] += f * x[j, b, c]


@compiled
def project_levels(
    R: FloatArray, lam: FloatArray, B: FloatArray, K: FloatArray, S: FloatArray,
    begin: int, end: int,
) -> None:  # fmt: skip
    """``f_l = R_l lam'B_l``, ``K_l = R_l'f_l`` and sums of ``f_l'f_l`` over `LEVELS` levels.

    R (l, k, k) lower triangular, lam (k, k); B, K (l, k, m); of S (sums, m, m) ``begin:end`` are
    filled.
    """
    l, k, m = B.shape
    f, g, total = np.empty((k, m)), np.empty((k, m)), np.empty((m, m))
    for block in range(begin, end):
        total[:] = 0.0
        for j in range(block * LEVELS, min((block + 1) * LEVELS, l)):
            for a in range(k):
                for c in range(m):
                    g[a, c] = lam[0, a] * B[j, 0, c]
                for b in range(1, k):
                    for c in range(m):
                        g[a, c] += lam[b, a] * B[j, b, c]
            for a in range(k):
                for c in range(m):
                    f[a, c] = R[j, a, 0] * g[0, c]
                for b in range(1, a + 1):
                    for c in range(m):
                        f[a, c] += R[j, a, b] * g[b, c]
            for a in range(k):
                for c in range(m):
                    K[j, a, c] = R[j, a, a] * f[a, c]
                for b in range(a + 1, k):
                    for c in range(m):
                        K[j, a, c] += R[j, b, a] * f[b, c]
                for c in range(m):
                    v = f[a, c]
                    for d in range(m):
                        total[c, d] += v * f[a, d]
        S[block] = total


@compiled
def scale_couplings(R: FloatArray, indptr: IntArray, V: FloatArray) -> None:
    """``V[:, e] = R_l V[:, e]`` in place for every coupling entry e of level l; V (k, ne)."""
    k = R.shape[1]
    for l in range(R.shape[0]):
        for a in range(k - 1, -1, -1):
            for e in range(indptr[l], indptr[l + 1]):
                s = 0.0
                for b in range(a + 1):
                    s += R[l, a, b] * V[b, e]
                V[a, e] = s


@compiled
def subtract_leading(
    colptr: IntArray, level: IntArray, entry: IntArray,
    Y: FloatArray, x: FloatArray, out: FloatArray, begin: int, end: int,
) -> None:  # fmt: skip
    """``out -= Y'x``: x (l, k, m) of the leading levels, out (r, m) of the trailing columns.

    For trailing columns ``begin:end``; the lists are those of `schur_dense`.
    """
    k, m = Y.shape[0], x.shape[2]
    for a in range(begin, end):
        for f in range(colptr[a], colptr[a + 1]):
            for c in range(k):
                y = Y[c, entry[f]]
                for i in range(m):
                    out[a, i] -= y * x[level[f], c, i]


@compiled
def subtract_trailing(
    indptr: IntArray, cols: IntArray, Y: FloatArray, x: FloatArray, out: FloatArray,
    begin: int, end: int,
) -> None:  # fmt: skip
    """``out -= Y x``: x (r, m) of the trailing columns, out (l, k, m) of levels ``begin:end``."""
    k, m = Y.shape[0], x.shape[1]
    for l in range(begin, end):
        for e in range(indptr[l], indptr[l + 1]):
            for c in range(k):
                y = Y[c, e]
                for i in range(m):
                    out[l, c, i] -= y * x[cols[e], i]


@compiled
def schur_dense(
    colptr: IntArray, level: IntArray, entry: IntArray,
    indptr: IntArray, cols: IntArray, Y: FloatArray, S: FloatArray, begin: int, end: int,
) -> None:  # fmt: skip
    """``S -= Y'Y``, upper triangle, for the trailing columns ``begin:end``.

    ``colptr, level, entry`` is the coupling list seen from the trailing columns: entry
    ``entry[f]`` of level ``level[f]`` for f in ``colptr[a]:colptr[a + 1]``. S (r, r) C order,
    Y (k, ne).
    """
    k = Y.shape[0]
    work = np.empty(colptr.shape[0] - 1)
    for a in range(begin, end):
        for f in range(colptr[a], colptr[a + 1]):
            e = entry[f]
            stop = indptr[level[f] + 1]
            y = Y[0, e]
            if k == 1:
                for g in range(e, stop):
                    S[a, cols[g]] -= y * Y[0, g]
                continue
            for g in range(e, stop):
                work[g - e] = y * Y[0, g]
            for c in range(1, k):
                y = Y[c, e]
                for g in range(e, stop):
                    work[g - e] += y * Y[c, g]
            for g in range(e, stop):
                S[a, cols[g]] -= work[g - e]


@compiled
def schur_sparse(
    colptr: IntArray, level: IntArray, entry: IntArray,
    indptr: IntArray, cols: IntArray, Y: FloatArray,
    s_indptr: IntArray, s_rows: IntArray, s_data: FloatArray, begin: int, end: int,
) -> None:  # fmt: skip
    """``S -= Y'Y`` for a sparse S: lower triangle by columns, rows ascending, in place.

    For the trailing columns ``begin:end``.
    """
    k = Y.shape[0]
    work = np.zeros(colptr.shape[0] - 1)
    for a in range(begin, end):
        for f in range(colptr[a], colptr[a + 1]):
            e = entry[f]
            for c in range(k):
                y = Y[c, e]
                for g in range(e, indptr[level[f] + 1]):
                    work[cols[g]] += y * Y[c, g]
        for h in range(s_indptr[a], s_indptr[a + 1]):
            s_data[h] -= work[s_rows[h]]
            work[s_rows[h]] = 0.0


@compiled
def couple_inverse_dense(
    colptr: IntArray, level: IntArray, entry: IntArray,
    indptr: IntArray, cols: IntArray, Y: FloatArray, G: FloatArray, P: FloatArray,
    begin: int, end: int,
) -> None:  # fmt: skip
    """``P += Y G`` on the coupling pattern, (k, ne), for the leading levels ``begin:end``.

    G (r, r) symmetric, upper triangle read, row by row so that the row in use stays in cache.
    """
    k = Y.shape[0]
    work = np.empty(G.shape[0])
    for a in range(colptr.shape[0] - 1):
        first = colptr[a] + np.searchsorted(level[colptr[a] : colptr[a + 1]], begin)
        for f in range(first, colptr[a + 1]):
            if level[f] >= end:
                break
            e = entry[f]
            stop = indptr[level[f] + 1]
            for g in range(e, stop):
                work[g - e] = G[a, cols[g]]
            for c in range(k):
                y = Y[c, e]
                s = y * work[0]
                for g in range(e + 1, stop):
                    s += Y[c, g] * work[g - e]
                    P[c, g] += y * work[g - e]
                P[c, e] += s


@compiled
def couple_inverse_sparse(
    colptr: IntArray, level: IntArray, entry: IntArray,
    indptr: IntArray, cols: IntArray, Y: FloatArray,
    s_indptr: IntArray, s_rows: IntArray, g_data: FloatArray, P: FloatArray,
    begin: int, end: int,
) -> None:  # fmt: skip
    """``P += Y G`` on the coupling pattern for the leading levels ``begin:end``.

    G is given on the (lower, by columns) pattern of S.
    """
    k = Y.shape[0]
    work = np.zeros(colptr.shape[0] - 1)
    for a in range(colptr.shape[0] - 1):
        for h in range(s_indptr[a], s_indptr[a + 1]):
            work[s_rows[h]] = g_data[h]
        first = colptr[a] + np.searchsorted(level[colptr[a] : colptr[a + 1]], begin)
        for f in range(first, colptr[a + 1]):
            if level[f] >= end:
                break
            e = entry[f]
            for c in range(k):
                y = Y[c, e]
                s = y * work[a]
                for g in range(e + 1, indptr[level[f] + 1]):
                    x = work[cols[g]]
                    s += Y[c, g] * x
                    P[c, g] += y * x
                P[c, e] += s


@compiled
def leading_products(indptr: IntArray, Y: FloatArray, P: FloatArray) -> FloatArray:
    """``sum_e Y[:, e] P[:, e]'`` per level, (l, k, k)."""
    k = Y.shape[0]
    out = np.zeros((indptr.shape[0] - 1, k, k))
    for l in range(indptr.shape[0] - 1):
        for c in range(k):
            for d in range(k):
                s = 0.0
                for e in range(indptr[l], indptr[l + 1]):
                    s += Y[c, e] * P[d, e]
                out[l, c, d] = s
    return out
