"""Traces that are exact to second order in E, so that probes estimate a rest of third order.

With ``F_l = R_l'Y_l``, ``N = sum_l F_l'F_l`` and its diagonal blocks ``N_jj``, where E has none,

    trailing:  sum_j T_j^-T (I + E E)_jj T_j^-1 + [B(Ez, x - z - Ez)]
    leading:   the exact sum + sum_l F_l E F_l' + sum_j tr N_jj (E E)_jj
               + [sum_l (F_l E z)(F_l (x - z))' - sum_j tr N_jj (Ez)_j (Ez)_j']

where what stands in brackets is summed over V and averaged over probes, as in
:mod:`sparselmm.factor.krylov.solver`. The exact terms take E row by row, formed from the couplings:
a pass over all pairs of entries of a leading level, as many as the products that its Schur
complement is summed from.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from sparselmm.base import kernels_krylov as kernels
from sparselmm.base.types import FloatArray
from sparselmm.factor.krylov.crossing import Crossing
from sparselmm.factor.krylov.iterations import dots
from sparselmm.factor.krylov.operator import ScaledComplement
from sparselmm.factor.krylov.solver import KrylovSolver, Traced, column_sums

FINE = 1e-7
"""Residual of the solves, which may not show beside a rest of third order."""

PER_PAIR = 2e-9
"""Seconds per pair of entries of a leading level and coefficient of the leading term."""


def seconds(crossing: Crossing, k: int) -> float:
    """Predicted time of the exact terms; infinite where couplings are stored with their zeros."""
    if crossing.full:
        return np.inf
    own = np.diff(crossing.indptr).astype(float)
    return float(PER_PAIR * (0.5 * k * (own @ own) + 0.5 * crossing.n_trailing**2))


def refined(solver: KrylovSolver) -> Traced:
    """What V and the probes say at the factored theta, exact to second order in E."""
    scaled, W = solver.scaled, solver.traced().W
    s, EW = solver.space.V.shape[1], solver.traced().EW
    found = solver.iterated(W, FINE, product=EW)
    old = solver.solved(W, found)
    assert found.product is not None
    EW, more = found.product, old.X - W
    squares, crossed, own = exact_terms(scaled)
    near, far = scaled.scale(EW, True), scaled.scale(more - EW, True)
    fixed, each = {}, {}
    lead = scaled.crossing.leading
    blocks = solver.leading_sums(EW, more)
    for t, part in scaled.crossing.parts.items():
        k, l = scaled.pattern.sizes[t]
        Q, N = squares[t], own[t]
        crossed += np.einsum("jcdab,jcd->ab", N, Q)
        blocks -= _weighted(N, EW[part].reshape(l, k, -1))
        if t not in solver.big:
            fixed[t], each[t] = old.fixed[t], old.each[t]
            continue
        Ti, levels = scaled.Ti[t], (l, k, EW.shape[1])
        rest = column_sums(near[part].reshape(levels), far[part].reshape(levels))
        exact = np.einsum("jba,jbc,jcd->ad", Ti, Q + np.eye(k), Ti, optimize=True)
        fixed[t], each[t] = exact + rest[:s].sum(axis=0), rest[s:]
    crossed += solver.leading_sum()
    fixed[lead], each[lead] = crossed + blocks[:s].sum(axis=0), blocks[s:]
    return Traced(fixed, each, W, EW, old.X)


def exact_terms(
    scaled: ScaledComplement,
) -> tuple[dict[int, FloatArray], FloatArray, dict[int, FloatArray]]:
    """``(E E)_jj`` of every trailing term, ``sum_l F_l E F_l'`` and every ``N_jj``.

    Shapes (l, k, k), (k1, k1) and (l, k, k, k1, k1).
    """
    crossing, sizes = scaled.crossing, scaled.pattern.sizes
    r, counts = scaled.n_trailing, np.diff(crossing.indptr)
    levels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    F = np.matmul(scaled.Y[:, None], scaled.R[levels])[:, 0]
    numbered = np.arange(len(levels)), crossing.cols, crossing.indptr
    places = sp.csr_array(numbered, shape=(len(counts), r)).tocsc()
    first, widest = np.empty(r, dtype=np.int64), 1
    for t, part in crossing.parts.items():
        k, l = sizes[t]
        first[part] = np.repeat(np.arange(part.start, part.stop, k), k)
        widest = max(widest, k)
    squares, crossed = np.zeros((r, widest)), np.zeros((F.shape[1],) * 2)
    order = places.data
    inner = scaled.H.indptr, scaled.H.indices
    kernels.second_order(
        crossing.indptr, crossing.cols, scaled.Y, F, order, levels[order],
        places.indptr.astype(np.int64), first, inner, scaled.H.data, squares, crossed,
    )  # fmt: skip
    own = np.zeros((r, widest, *crossed.shape))
    kernels.own_products(crossing.indptr, crossing.cols, F, first, own)
    Q, N = {}, {}
    for t, part in crossing.parts.items():
        k, l = sizes[t]
        low = np.tril(np.ones((k, k), dtype=bool), -1)
        Q[t] = np.ascontiguousarray(squares[part, :k].reshape(l, k, k))
        N[t] = np.ascontiguousarray(own[part, :k].reshape(l, k, k, *crossed.shape))
        Q[t] = Q[t] + np.where(low, Q[t], 0.0).transpose(0, 2, 1)
    return Q, crossed + crossed.T, N


def _weighted(N: FloatArray, v: FloatArray) -> FloatArray:
    """``sum_j v_j'N_jj v_j`` of every column; N (l, k, k, k1, k1), v (l, k, m), out (m, k1, k1)."""
    l, k, m = v.shape
    k1 = N.shape[-1]
    out = np.empty((m, k1, k1))
    for a in range(k1):
        for b in range(a + 1):
            Nv = N[:, 0, 0, a, b, None, None] * v if k == 1 else N[..., a, b] @ v
            out[:, a, b] = out[:, b, a] = dots(v.reshape(l * k, m), Nv.reshape(l * k, m))
    return out
