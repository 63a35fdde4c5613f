"""Start values by one pass of moments over the cross-products.

MINQUE(0) (Rao 1971; Searle, Casella & McCulloch 1992, section 11.3d): the quadratic forms of
the least-squares residuals e

    S_t = sum_j Z_tj'We e'WZ_tj  (k x k, levels j of term t),      e'We

are set equal to their expectations under ``Var(y) = sum_s Z_s (I (x) Psi_s) Z_s' + sigma^2 W^-1``,

    E S_t = sum_s sum_(j,i) N_(tj,si) Psi_s N_(tj,si)' + sigma^2 sum_j N_(tj,tj),
    N = Z'(W - WX(X'WX)^-1X'W)Z = A - B_x B_x'        (B_x in the orthonormal working basis),

a linear system in the entries of all Psi_s and sigma^2. N is dense, but only sums of products of
its entries are needed, and those split into sums over the blocks of A and Gram matrices of B_x.
For balanced nested and crossed designs the solution is the ANOVA estimate.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from sparselmm._typing import CSC, FloatArray
from sparselmm.covariance import Covariance
from sparselmm.crossprod import CrossProducts
from sparselmm.smallmatrix import solve_triangular, upper_inverse
from sparselmm.term_covariance import TermCovariance, lower_root

SMALLEST = 0.05
"""Smallest standard deviation to start from, relative to sigma and to what counts as one: at zero
the deviance is stationary."""

STRONGEST = 0.99
"""Largest correlation to start from."""


def moment_start(
    cross: CrossProducts, covariance: Covariance, known_scale: float | None = None
) -> FloatArray:
    """Start values of theta.

    Parameters
    ----------
    cross : CrossProducts
    covariance : Covariance
    known_scale : float, optional
        Residual variance, when it is known.

    Returns
    -------
    ndarray, (n_theta,)
        Every ``lambda_t`` is invertible: variances that the moments put at or below zero start
        at `SMALLEST`, correlations within `STRONGEST`.
    """
    v, s = cross.B[None, :, -1], cross.C[None, -1, -1]
    return moment_starts(cross, covariance, v, s, known_scale)[0]


def moment_starts(
    cross: CrossProducts, covariance: Covariance, v: FloatArray, s: FloatArray,
    known_scale: float | None = None,
) -> FloatArray:  # fmt: skip
    """Start values of theta for many responses.

    Parameters
    ----------
    cross : CrossProducts
        Its response is not used.
    covariance : Covariance
    v : ndarray, (m, q)
        Last column of B of every response.
    s : ndarray, (m,)
        Last entry of C of every response.
    known_scale : float, optional
        Residual variance, when it is known.

    Returns
    -------
    ndarray, (m, n_theta)
        For the columns of the model, whatever the working bases of ``cross``.
    """
    plain = Covariance(tuple(term.moment_form for term in covariance.terms))
    psis, residual = _moment_estimates(cross, plain, v, s)
    if known_scale is not None:
        residual = np.full_like(residual, known_scale)
    theta = np.zeros((len(s), covariance.n_theta))
    roots = covariance.unit_roots([cross.second_moments(t) for t in range(len(psis))])
    for t, (term, part) in enumerate(zip(covariance.terms, covariance.slices, strict=True)):
        back = solve_triangular(roots[t], np.eye(term.k), lower=True)
        whitened = back @ (psis[t] / residual[:, None, None]) @ back.T
        lams = roots[t] @ np.linalg.cholesky(_inside_cone(whitened))
        F = None if cross.bases is None else cross.bases[t]
        if F is not None:
            lams = np.array([lower_root(upper_inverse(F) @ lam) for lam in lams])
        theta[:, part] = [term.coordinates(lam) for lam in lams]
    return theta


def _inside_cone(psi: FloatArray) -> FloatArray:
    """Nearest-looking positive definite matrices, (m, k, k).

    Variances are floored and correlations shrunk.
    """
    eye = np.eye(psi.shape[1])
    variances = np.einsum("mii->mi", psi)
    positive = variances > SMALLEST**2
    sd = np.sqrt(np.maximum(variances, SMALLEST**2))
    both = positive[:, :, None] & positive[:, None, :]
    corr = np.where(both, psi / (sd[:, :, None] * sd[:, None, :]), 0.0) * (1.0 - eye) + eye
    values, vectors = np.linalg.eigh(corr)
    values = np.maximum(values, 1.0 - STRONGEST)[:, :, None]
    corr = vectors @ (values * vectors.transpose(0, 2, 1))
    size = sd / np.sqrt(np.einsum("mii->mi", corr))
    fixed: FloatArray = corr * size[:, :, None] * size[:, None, :]
    return fixed


def _moment_estimates(
    cross: CrossProducts, covariance: Covariance, v: FloatArray, s: FloatArray
) -> tuple[list[FloatArray], FloatArray]:
    """Solutions of the moment equations: ``Psi_t`` of every term (m, k, k), and sigma^2 (m,)."""
    terms = covariance.terms
    B = [
        cross.B[part].reshape(l, k, -1)
        for part, (k, l) in zip(cross.slices, cross.sizes, strict=True)
    ]
    X = [blocks[:, :, :-1] for blocks in B]
    grams = [_gram(blocks)[:, :, :-1, :-1] for blocks in B]
    m = covariance.n_theta
    T, right = np.zeros((m + 1, m + 1)), np.zeros((m + 1, len(s)))
    for t, rows in enumerate(covariance.slices):
        for u, cols in enumerate(covariance.slices[: t + 1]):
            F = _second_moments(cross, t, u, X, grams)
            T[rows, cols] = _at_theta(F, terms[t], terms[u])
            T[cols, rows] = T[rows, cols].T
        N = _diagonal_sum(cross, t) - np.einsum("ijrr->ij", grams[t])
        twice = np.where(terms[t].rows == terms[t].cols, 1.0, 2.0)
        T[rows, m] = T[m, rows] = twice * N[terms[t].rows, terms[t].cols]
        e = v[:, cross.slices[t]].reshape(len(v), -1, terms[t].k)
        squares = e.transpose(0, 2, 1) @ e
        right[rows] = (twice * squares[:, terms[t].rows, terms[t].cols]).T
    T[m, m], right[m] = cross.n - cross.basis.rank, s
    sizes = [_size(cross, t)[term.rows, term.cols] for t, term in enumerate(terms)]
    solution = _solve(T, right, sizes)
    psis = []
    for term, part in zip(terms, covariance.slices, strict=True):
        psi = np.zeros((len(s), term.k, term.k))
        psi[:, term.rows, term.cols] = psi[:, term.cols, term.rows] = solution[part].T
        psis.append(psi)
    floor = 1e-4 * s / max(T[m, m], 1.0)
    return psis, np.maximum(np.maximum(solution[m], floor), np.finfo(float).tiny)


def _size(cross: CrossProducts, t: int) -> FloatArray:
    """Sums of squares of ``Z_t'WZ_t``, (k, k): what the moments would be without X."""
    return np.einsum("bij,bij->ij", cross.pairs[t, t].data, cross.pairs[t, t].data)


def _solve(T: FloatArray, right: FloatArray, sizes: list[FloatArray]) -> FloatArray:
    """Solutions of the scaled moment equations; what X explains entirely comes out as zero."""
    diagonal = np.diag(T)
    confounded = np.append(diagonal[:-1] <= 1e-9 * np.concatenate(sizes), False)
    scale = np.sqrt(np.where(confounded | (diagonal <= 0), np.inf, diagonal))[:, None]
    solution = np.linalg.lstsq(T / scale / scale.T, right / scale, rcond=1e-10)[0] / scale
    return np.asarray(solution, dtype=float)


def _gram(x: FloatArray) -> FloatArray:
    """``sum_l x[l, i, r] x[l, j, q]``, (k, k, columns, columns)."""
    l, k, r = x.shape
    flat = x.reshape(l, k * r)
    return np.asarray((flat.T @ flat).reshape(k, r, k, r).transpose(0, 2, 1, 3))


def _second_moments(
    cross: CrossProducts, t: int, u: int, X: list[FloatArray], grams: list[FloatArray]
) -> FloatArray:
    """``F[i, j, a, b] = sum N[i, a] N[j, b]`` over all pairs of levels of t and u."""
    blocks = cross.pairs[t, u].data
    nb, kt, ku = blocks.shape
    flat = np.ascontiguousarray(blocks).reshape(nb, kt * ku)
    F: FloatArray = (flat.T @ flat).reshape(kt, ku, kt, ku).transpose(0, 2, 1, 3).copy()
    F += np.einsum("ijrq,abrq->ijab", grams[t], grams[u], optimize=True)
    if t == u and cross.pairs[t, t].is_block_diagonal:
        inner = np.matmul(X[t], X[t].transpose(0, 2, 1)).reshape(nb, kt * kt)
        cross_term = (flat.T @ inner).reshape(kt, kt, kt, kt).transpose(0, 2, 1, 3)
    else:
        cross_term = _coupled_moments(cross, t, u, X)
    F -= cross_term + cross_term.transpose(1, 0, 3, 2)
    return F


def _coupled_moments(cross: CrossProducts, t: int, u: int, X: list[FloatArray]) -> FloatArray:
    """``sum A[i, a] (B_x B_x')[j, b]`` over the blocks of A between t and u, (kt, kt, ku, ku)."""
    (kt, lt), (ku, lu), r = cross.sizes[t], cross.sizes[u], X[u].shape[2]
    columns = X[u].reshape(lu, ku * r)
    out = np.empty((kt, kt, ku, ku))
    for i in range(kt):
        for a in range(ku):
            product = _coefficient_pair(cross, (t, i), (u, a)) @ columns
            out[i, :, a] = np.einsum("ljr,lbr->jb", X[t], product.reshape(lt, ku, r))
    return out


def _coefficient_pair(cross: CrossProducts, a: tuple[int, int], b: tuple[int, int]) -> CSC:
    """``Z_a'WZ_b`` for one coefficient of each term, sparse (l_a, l_b); a not before b."""
    blocks = cross.pairs[a[0], b[0]]
    shape = (blocks.n_rows, len(blocks.indptr) - 1)
    data = np.ascontiguousarray(blocks.data[:, a[1], b[1]])
    return sp.csc_array((data, blocks.rows, blocks.indptr), shape=shape)


def _at_theta(F: FloatArray, left: TermCovariance, right: TermCovariance) -> FloatArray:
    """Coefficients of the moment equations, symmetric entries of both sides added up."""
    i, j = left.rows[:, None], left.cols[:, None]
    a, b = right.rows[None, :], right.cols[None, :]
    both = F[i, j, a, b] + np.where(a == b, 0.0, F[i, j, b, a])
    return both + np.where(i == j, 0.0, F[j, i, a, b] + np.where(a == b, 0.0, F[j, i, b, a]))


def _diagonal_sum(cross: CrossProducts, t: int) -> FloatArray:
    """Sum of the diagonal blocks of ``Z_t'WZ_t``, (k, k)."""
    pair = cross.pairs[t, t]
    return pair.data[pair.rows == pair.cols].sum(axis=0)
