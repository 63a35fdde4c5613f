"""The exact Hessian for a free covariance of the visits without random effects.

With ``Q = R^-1``, rows F that hold ``X S_xx^-1/2`` and e, and ``Theta = F F'`` as for the gradient,

    f_jk = tr[(2 Q Theta Q - Q) R_j Q R_k] - tr(C_j C_k) [REML] - 2 h_j'h_k + <Gamma, R_jk>,
    [C_j  h_j] = S_xx^-1/2 X'Q R_j Q [X S_xx^-1/2  e],

and all sums over groups are sums over visits, made once: no row is touched for a parameter.
"""

from __future__ import annotations

import numpy as np

from sparselmm.base.types import FloatArray
from sparselmm.likelihood.residual.blocks import Batch, Blocks, BlockState
from sparselmm.likelihood.residual.unstructured import Unstructured

MOST_NUMBERS = 20_000_000
"""Entries of the sums over pairs of visits and columns up to which they are made."""


def is_small(structure: Unstructured, columns: int) -> bool:
    """Whether sums over pairs of visits fit into little memory."""
    T = structure.T
    return max(T**4, (T * columns) ** 2) * structure.n_strata <= MOST_NUMBERS


def unstructured_hessian(
    blocks: Blocks, state: BlockState, fixed: FloatArray, e: FloatArray, reml: bool
) -> FloatArray:
    """Hessian in phi, (n, n).

    Parameters
    ----------
    fixed : ndarray, (n, r)
        ``X S_xx^-1/2``.
    e : ndarray, (n,)
        Residuals.
    """
    structure = blocks.structure
    assert isinstance(structure, Unstructured)
    T, S, r = structure.T, structure.n_strata, fixed.shape[1]
    rows = np.column_stack([fixed, e])
    first = 0 if reml else r
    pairs, forms = np.zeros((S, T**4)), np.zeros((S, T * (r + 1), T * (r + 1)))
    curvature = np.zeros((structure.n, structure.n))
    for batch, Q in zip(blocks.batches, state.Q, strict=True):
        moved = Q @ batch.gram(rows[:, first:])
        inner = moved @ Q
        Gamma = batch.counts[:, None, None] * Q - inner
        curvature += structure.curvature(state.phi, batch.geometry, Gamma)
        B = structure.spread(batch.geometry, inner - Gamma)
        wide = structure.spread(batch.geometry, Q)
        z = _spread_rows(structure, batch, batch.products(Q, rows))
        for s in range(S):
            own = batch.geometry.stratum == s
            pairs[s] += (B[own].reshape(-1, T * T).T @ wide[own].reshape(-1, T * T)).ravel()
            of_groups = z[own[batch.pattern]].reshape(-1, T * (r + 1))
            forms[s] += of_groups.T @ of_groups
    n = structure.own
    C = np.zeros((structure.n, r + 1, r + 1))
    for s, dS in enumerate(structure.visit_slopes(state.phi)):
        at = slice(s * n, (s + 1) * n)
        each = forms[s].reshape(T, r + 1, T, r + 1)
        C[at] = np.einsum("jst,satb->jab", dS, each, optimize=True)
        half = np.einsum("abcd,jbc->jad", pairs[s].reshape(T, T, T, T), dS, optimize=True)
        own = np.einsum("jad,kda->jk", half, dS, optimize=True)
        curvature[at, at] += 0.5 * (own + own.T)
    h = C[:, :r, r]
    out = curvature - 2.0 * h @ h.T
    if reml:
        out -= np.einsum("jab,kba->jk", C[:, :r, :r], C[:, :r, :r], optimize=True)
    return out


def _spread_rows(structure: Unstructured, batch: Batch, z: FloatArray) -> FloatArray:
    """Rows of groups (G, m, c) at their visits, (G, T, c)."""
    at = batch.geometry
    out = np.zeros((len(z), structure.T, z.shape[2]))
    size = np.exp(-at.half_log_w)[batch.pattern]
    out[np.arange(len(z))[:, None], at.visits[batch.pattern]] = size[:, :, None] * z
    return out
