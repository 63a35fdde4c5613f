"""The gradient near a singular ``lambda_t``, where dividing by it would cost digits."""

from __future__ import annotations

import numpy as np

from sparselmm.base.types import FloatArray
from sparselmm.factor.crossprod import CrossProducts
from sparselmm.factor.factorization import Factorization
from sparselmm.factor.solver import apply_lambda
from sparselmm.likelihood.evaluations import State


def slope_at_boundary(
    cross: CrossProducts, solver: Factorization, state: State, t: int, precision: float, reml: bool
) -> FloatArray:
    """Derivative of the deviance in the entries of ``lambda_t`` (k, k), without its inverse.

    ``precision`` is ``1 / sigma^2``.
    """
    k, l = cross.sizes[t]
    part = cross.slices[t]
    total = _trace_blocks(cross, solver, state, t)
    LK = apply_lambda(cross, state.lams, state.K, transpose=False)
    D = cross.B[part] - cross.A[part] @ LK
    d, u = (D @ state.residual).reshape(l, k), state.u[part].reshape(l, k)
    total -= precision * (d.T @ u)
    if reml and len(state.gamma):
        Dx = D[:, :-1] @ state.inverse_root
        Dx = Dx.reshape(l, k, -1).transpose(1, 0, 2).reshape(k, -1)
        Kx = state.Kx[part].reshape(l, k, -1).transpose(1, 0, 2).reshape(k, -1)
        total -= Dx @ Kx.T
    return 2.0 * total


def _trace_blocks(cross: CrossProducts, solver: Factorization, state: State, t: int) -> FloatArray:
    """``sum_j (A Lambda G)_jj`` over the levels of term t from G on the pattern of A."""
    k = cross.sizes[t][0]
    total = np.zeros((k, k))
    for s in range(len(cross.sizes)):
        pair = (max(s, t), min(s, t))
        A, G = cross.pairs[pair].data, solver.inverse_on_pattern(pair)
        if s > t:  # blocks (s, t): A[t, s] lambda_s G[s, t]
            total += np.einsum("bsi,sr,brj->ij", A, state.lams[s], G, optimize=True)
        else:  # blocks (t, s): A[t, s] lambda_s G[s, t], G[s, t] the transpose of G[t, s]
            total += np.einsum("bis,sr,bjr->ij", A, state.lams[s], G, optimize=True)
    return total
