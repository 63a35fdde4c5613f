"""Second derivatives: of ``theta -> lambda lambda'``, and by differences of an exact gradient."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

from sparselmm.base.smallmatrix import (
    block_diagonal,
    identity,
    lower_triangle,
    solve_triangular,
)
from sparselmm.base.types import FloatArray
from sparselmm.factor.crossprod import CrossProducts
from sparselmm.factor.factorization import Factorization
from sparselmm.factor.solver import apply_lambda
from sparselmm.likelihood.covariance import Covariance
from sparselmm.likelihood.evaluations import State
from sparselmm.likelihood.expected import expected_information, parts
from sparselmm.likelihood.patterned import Patterned
from sparselmm.likelihood.term_covariance import TermCovariance

HESSIAN_STEP = 1e-5
"""Step of central differences of the exact gradient: eps^(1/3) balances truncation and rounding."""

WELL_AWAY, SMALL_EFFECT = 0.1, 0.02
"""Share of a standard deviation that is its own, and share of sigma that it adds to a typical row,
above which the curvature of the root, which matters at a boundary, may be left out."""


@cache
def symmetric_units(k: int) -> FloatArray:
    """The symmetric k x k matrices with one or two ones, in the order of `lower_triangle`."""
    rows, cols = lower_triangle(k)
    units = np.zeros((len(rows), k, k))
    each = np.arange(len(rows))
    units[each, rows, cols] = units[each, cols, rows] = 1.0
    return units


def add_root_curvature(
    H: FloatArray, covariance: Covariance, t: int, psi: FloatArray, theta: FloatArray,
    gamma: FloatArray,
) -> None:  # fmt: skip
    """Add the curvature of ``theta -> Psi_t`` to a Hessian in tangent coordinates, in place.

    ``psi`` (k, k) is the derivative of the deviance in ``Psi_t / sigma^2`` and ``gamma`` the one in
    the entries of ``lambda_t``; along ``dlambda`` the second derivative of ``lambda lambda'`` is
    ``2 dlambda dlambda'``, to which comes that of ``lambda_t`` itself where theta bends it.
    """
    term, at = covariance.terms[t], covariance.tangent_slices[t]
    own = theta[covariance.slices[t]]
    if isinstance(term, Patterned):
        H[at, at] += term.inner(own, psi + psi.T)
        bends = term.bends(own, gamma)
        if bends is not None:
            H[at, at] += bends
        return
    both = psi + psi.T
    if term.k == 1:
        H[at, at] += both
    else:
        rows, cols, same = term.tangent_pairs
        H[at, at] += np.where(same, both[rows, cols], 0.0)


def difference_hessian(
    gradient: Callable[[FloatArray], FloatArray], theta: FloatArray, sizes: FloatArray
) -> FloatArray:
    """Hessian by central differences of an exact gradient, (n_theta, n_theta).

    ``sizes`` are changes of each entry of theta that matter.
    """
    H = np.empty((len(theta), len(theta)))
    for i in range(len(theta)):
        step = np.zeros(len(theta))
        step[i] = HESSIAN_STEP * sizes[i]
        H[i] = (gradient(theta + step) - gradient(theta - step)) / (2.0 * step[i])
    return 0.5 * (H + H.T)


def whitened_directions(
    cross: CrossProducts, covariance: Covariance, state: State
) -> tuple[FloatArray, FloatArray]:
    """Columns ``h_i = Lambda^-1 g_i`` (q, m), and what a tangent vector is made of in them.

    A step ``dlambda`` moves ``Psi_t`` by ``lambda Y lambda'`` with ``Y = lambda^-1 dlambda +
    (lambda^-1 dlambda)'``, and its column is ``(Y (x) I) u``. Where the symmetric matrices
    with one or two ones are fewer than the tangent coordinates, they stand for Y.
    """
    maps, columns = [], []
    for t, (term, lam) in enumerate(zip(covariance.terms, state.lams, strict=True)):
        back = term.divide(lam, identity(term.k)).T
        own = state.theta[covariance.slices[t]]
        u = state.u[cross.slices[t]].reshape(-1, term.k)
        below, left = lower_triangle(term.k)
        if term.n_tangent > len(below):
            Y = term.symmetric_steps(own, back)
            maps.append(Y[:, below, left].T)
            wide = symmetric_units(term.k).transpose(2, 1, 0).reshape(term.k, -1)
            columns.append((u @ wide).reshape(cross.sizes[t][1] * term.k, -1))
        else:
            maps.append(identity(term.n_tangent))
            columns.append(term.moved(own, back, u).reshape(u.size, -1))
    return block_diagonal(columns), block_diagonal(maps)


def directions(
    cross: CrossProducts, covariance: Covariance, state: State
) -> tuple[FloatArray, FloatArray]:
    """Columns ``g_i = E_i u + Lambda E_i'd`` (q, m), and ``d = Z'V^-1(y - X beta)``."""
    cov, d = covariance, residual_products(cross, state)
    g = np.zeros((cross.q, cov.n_tangent))
    for t, term in enumerate(cov.terms):
        k, l = cross.sizes[t]
        part, lam = cross.slices[t], state.lams[t]
        u_t, d_t = state.u[part].reshape(l, k), d[part].reshape(l, k)
        block = g[part].reshape(l, k, -1)
        first = cov.tangent_slices[t].start
        slopes = term.slopes(state.theta[cov.slices[t]])
        if slopes is not None:
            for i, E in enumerate(slopes, first):
                block[:, :, i] = u_t @ E.T + d_t @ E @ lam.T
            continue
        for i, (r, c) in enumerate(zip(*term.tangent, strict=True), first):
            block[:, r, i] += u_t[:, c]
            block[:, :, i] += d_t[:, r, None] * lam[:, c]
    return g, d


def residual_products(cross: CrossProducts, state: State) -> FloatArray:
    """``d = Z'V^-1(y - X beta)``, (q,)."""
    b = apply_lambda(cross, state.lams, state.u[:, None], transpose=False)
    return np.asarray(cross.B @ state.residual - (cross.A @ b)[:, 0])


def columns_information(
    cross: CrossProducts, solver: Factorization, state: State, g: FloatArray
) -> FloatArray:
    """``g'Z'PZ g`` of columns g (q, m), with P as for a known sigma^2; (m, m)."""
    Ag = cross.A @ g
    right = apply_lambda(cross, state.lams, Ag)
    Q = g.T @ Ag - right.T @ solver.solve(right)
    Dg = cross.B[:, :-1].T @ g - state.K[:, :-1].T @ right
    half = solve_triangular(state.Rxx, Dg, transposed=True)
    return np.asarray(Q - half.T @ half)


def is_regular(cross: CrossProducts, covariance: Covariance, t: int, lam: FloatArray) -> bool:
    """Whether no standard deviation is near zero and no correlation near one."""
    sd = np.linalg.norm(lam, axis=1)
    own = np.abs(np.diag(covariance.terms[t].triangular(lam)))
    there = sd * cross.rms(t) > SMALL_EFFECT
    return bool((there & (own > WELL_AWAY * sd)).all())


def expected_sums(
    term: TermCovariance, theta: FloatArray, lam: FloatArray, G: FloatArray, Kx: FloatArray | None
) -> tuple[FloatArray, FloatArray]:
    """Expected information in a term's steps for a known sigma^2, and what its estimate takes.

    ``G`` (l, k, k) are the diagonal blocks of ``M^-1``; ``Kx`` (q_t, r) is given for REML.
    """
    K, slope = np.zeros((term.n_tangent,) * 2), np.zeros(term.n_tangent)
    for levels in parts(len(G), term.k):
        N = np.eye(term.k) - G[levels]
        if Kx is not None:
            own = Kx.reshape(len(G), term.k, -1)[levels]
            N -= own @ own.transpose(0, 2, 1)
        some, sums = expected_information(term, theta, lam, N)
        K += some
        slope += sums
    return K, slope
