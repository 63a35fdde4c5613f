"""Start values by one pass of moments over the cross-products.

MINQUE(0) (Rao 1971; Searle, Casella & McCulloch 1992, section 11.3d): the quadratic forms of
the least-squares residuals e

    S_t = sum_j Z_tj'We e'WZ_tj  (k x k, levels j of term t),      e'We

are set equal to their expectations under ``Var(y) = sum_s Z_s (I (x) Psi_s) Z_s' + sigma^2 W^-1``,

    E S_t = sum_s sum_(j,i) N_(tj,si) Psi_s N_(tj,si)' + sigma^2 sum_j N_(tj,tj),
    N = Z'(W - WX(X'WX)^-1X'W)Z = A - B_x B_x'        (B_x in the orthonormal working basis),

a linear system in the entries of all Psi_s and sigma^2. N is dense, but only sums of products of
its entries are needed, and those split into sums over the blocks of A and Gram matrices of B_x.
Independent coefficients need their k variances only, so that nothing of k^4 numbers is formed.
For balanced nested and crossed designs the solution is the ANOVA estimate.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import scipy.sparse as sp
from scipy.linalg import lapack

from sparselmm.base.smallmatrix import cholesky_roots, eigen_stack, solve_triangular, upper_inverse
from sparselmm.base.types import CSC, FloatArray, IntArray
from sparselmm.factor.crossprod import CrossProducts, PairBlocks
from sparselmm.likelihood.covariance import Covariance
from sparselmm.likelihood.term_covariance import TermCovariance, lower_root

SMALLEST = 0.05
"""Smallest standard deviation to start from, relative to sigma and to what counts as one: at zero
the deviance is stationary."""

STRONGEST = 0.99
"""Largest correlation to start from."""

REGULAR = 1e-3
"""Smallest diagonal of the factor of scaled equations that count as regular."""

SMALL_TABLE = 10_000
"""Pairs of levels up to which a matrix with its zeros is made quicker than a sparse one."""

TINY = float(np.finfo(float).tiny)

GRAM_NUMBERS = 2_000_000
"""Numbers of one Gram matrix at a time (16 MB)."""


def moment_start(
    cross: CrossProducts, covariance: Covariance, known_scale: float | None = None
) -> FloatArray:
    """Start values of theta.

    Parameters
    ----------
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
    psis, residual = _moment_estimates(cross, covariance.moment_form, v, s)
    if known_scale is not None:
        residual = np.full_like(residual, known_scale)
    theta = np.zeros((len(s), covariance.n_theta))
    roots = covariance.unit_roots(cross.moments)
    for t, (term, part) in enumerate(zip(covariance.terms, covariance.slices, strict=True)):
        if term.k == 1:  # no correlations: the floor is all there is
            variance = psis[t][:, 0, 0] / residual / roots[t][0, 0] ** 2
            sd = roots[t][0, 0] * np.sqrt(np.maximum(variance, SMALLEST**2))
            F = None if cross.bases is None else cross.bases[t]
            sd = sd if F is None else sd / F[0, 0]
            theta[:, part] = term.coordinates(np.abs(sd)[:, None, None])
            continue
        back = solve_triangular(roots[t], np.eye(term.k), lower=True)
        whitened = back @ (psis[t] / residual[:, None, None]) @ back.T
        lams = roots[t] @ cholesky_roots(_inside_cone(whitened))
        F = None if cross.bases is None else cross.bases[t]
        if F is not None:
            lams = np.array([lower_root(upper_inverse(F) @ lam) for lam in lams])
        theta[:, part] = [term.coordinates(lam) for lam in lams]
    return theta


def _inside_cone(psi: FloatArray) -> FloatArray:
    """Nearest-looking positive definite matrices, (m, k, k).

    Variances are floored and correlations shrunk.
    """
    variances = psi.diagonal(0, 1, 2)
    positive = variances > SMALLEST**2
    sd = np.sqrt(np.maximum(variances, SMALLEST**2))
    corr = psi / (sd[:, :, None] * sd[:, None, :])
    if positive.all() and np.abs(corr).sum(axis=2).max() <= 1.0 + STRONGEST:
        return psi  # no eigenvalue of a correlation matrix is further from one (Gershgorin)
    eye, both = np.eye(psi.shape[1]), positive[:, :, None] & positive[:, None, :]
    corr = np.where(both, corr, 0.0) * (1.0 - eye) + eye
    values, vectors = eigen_stack(corr)
    values = np.maximum(values, 1.0 - STRONGEST)[:, :, None]
    corr = vectors @ (values * vectors.transpose(0, 2, 1))
    size = sd / np.sqrt(corr.diagonal(0, 1, 2))
    fixed: FloatArray = corr * size[:, :, None] * size[:, None, :]
    return fixed


def _moment_estimates(
    cross: CrossProducts, covariance: Covariance, v: FloatArray, s: FloatArray
) -> tuple[list[FloatArray], FloatArray]:
    """Solutions of the moment equations: ``Psi_t`` of every term (m, k, k), and sigma^2 (m,)."""
    terms = covariance.terms
    m = covariance.n_theta
    grams, inner = _gram_products(cross, terms)
    T, right = np.zeros((m + 1, m + 1)), np.zeros((m + 1, len(s)))
    for t, rows in enumerate(covariance.slices):
        for u, cols in enumerate(covariance.slices[: t + 1]):
            F = _second_moments(cross, t, u, terms) + grams[t, u]
            T[rows, cols] = _at_theta(F, terms[t], terms[u])
            T[cols, rows] = T[rows, cols].T
        total, twice = cross.diagonal_sums[t], _twice(terms[t])
        N = total[terms[t].rows, terms[t].cols] - inner[t][_entries(terms[t])]
        T[rows, m] = T[m, rows] = twice * N
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
    return psis, np.maximum(np.maximum(solution[m], floor), TINY)


def _size(cross: CrossProducts, t: int) -> FloatArray:
    """Sums of squares of ``Z_t'WZ_t``, (k, k): what the moments would be without X."""
    data = cross.values[t, t]
    return np.asarray((data * data).sum(axis=0))


def _solve(T: FloatArray, right: FloatArray, sizes: list[FloatArray]) -> FloatArray:
    """Solutions of the scaled moment equations; what X explains entirely comes out as zero."""
    diagonal, least = T.diagonal(), np.zeros(len(T))
    least[:-1] = 1e-9 * np.concatenate(sizes)
    confounded = diagonal <= least
    plain = not confounded.any()
    scale = np.sqrt(diagonal if plain else np.where(confounded, np.inf, diagonal))[:, None]
    T, right = T / scale / scale.T, right / scale
    if plain:
        R, indefinite = lapack.dpotrf(T)
        regular = not indefinite and R.diagonal().min() > REGULAR
        if regular:
            return np.asarray(lapack.dpotrs(R, right)[0] / scale, dtype=float)
    return np.asarray(np.linalg.lstsq(T, right, rcond=1e-10)[0] / scale, dtype=float)


@lru_cache
def _entries(term: TermCovariance) -> IntArray:
    """Where the parameters of ``Psi_t`` stand among the entries that moments are formed of.

    These are all k^2, row by row, or the k variances of independent coefficients.
    """
    return np.asarray(term.rows if term.is_diagonal else term.rows * term.k + term.cols)


@lru_cache
def _swapped(term: TermCovariance) -> IntArray:
    """Where the entries ``(j, i)`` stand among those of ``(i, j)``."""
    if term.is_diagonal:
        return np.arange(term.k)
    return np.arange(term.k**2).reshape(-1, term.k).T.ravel()


@lru_cache
def _both(term: TermCovariance) -> FloatArray:
    """Where entries ``(i, j)`` and ``(j, i)`` are added up for each parameter, (m, n_theta)."""
    at, each = _entries(term), np.arange(term.n_theta)
    out = np.zeros((term.k if term.is_diagonal else term.k**2, term.n_theta))
    out[at, each] = out[_swapped(term)[at], each] = 1.0
    return out


@lru_cache
def _twice(term: TermCovariance) -> FloatArray:
    """How often each parameter occurs in ``Psi_t``, (n_theta,)."""
    return np.where(term.rows == term.cols, 1.0, 2.0)


def _gram_products(
    cross: CrossProducts, terms: Sequence[TermCovariance]
) -> tuple[dict[tuple[int, int], FloatArray], list[FloatArray]]:
    """What products of ``B_x`` with itself add to the moments.

    Returns
    -------
    products : dict of (t, u) to ndarray, (entries of t, entries of u), for t >= u
        ``sum (B_x B_x')[i, a] (B_x B_x')[j, b]`` over all pairs of levels of t and u.
    inner : list of ndarray, (entries,)
        ``sum (B_x B_x')[i, j]`` over the diagonal blocks of each term.
    """
    r = cross.basis.rank
    most = max((term.k if term.is_diagonal else term.k**2 for term in terms), default=1)
    step = max(GRAM_NUMBERS // max(most * (r + 1), 1), 1)
    products, inner = _some_gram_products(cross, terms, 0, step)
    for first in range(step, r, step):
        more, also = _some_gram_products(cross, terms, first, first + step)
        products = {pair: total + more[pair] for pair, total in products.items()}
        inner = [total + some for total, some in zip(inner, also, strict=True)]
    return products, inner


def _some_gram_products(
    cross: CrossProducts, terms: Sequence[TermCovariance], first: int, stop: int
) -> tuple[dict[tuple[int, int], FloatArray], list[FloatArray]]:
    """The same for some columns of X on one side."""
    grams = [
        _gram(cross.B[part].reshape(l, k, -1), term, first, stop)
        for term, part, (k, l) in zip(terms, cross.slices, cross.sizes, strict=True)
    ]
    flat = [gram.reshape(len(gram), -1) for gram in grams]
    pairs = [(t, u) for t in range(len(flat)) for u in range(t + 1)]
    inner = [gram.diagonal(first, axis1=1, axis2=2).sum(axis=1) for gram in grams]
    return {(t, u): flat[t] @ flat[u].T for t, u in pairs}, inner


def _gram(x: FloatArray, term: TermCovariance, first: int, stop: int) -> FloatArray:
    """``sum_l x[l, i, a] x[l, j, b]`` for columns a of a part of X, (entries, part, r).

    The last column of x (l, k, r + 1), the response, is taken along where that saves a copy.
    """
    l, k, columns = x.shape
    r = columns - 1
    part = x if first == 0 and stop >= r else x[:, :, first : min(stop, r)]
    kept = min(stop, r) - first
    if k == 1:
        return (part[:, 0].T @ x[:, 0])[None, :kept, :r]
    if term.is_diagonal:
        G = np.matmul(part.transpose(1, 2, 0), x.transpose(1, 0, 2))
        return np.ascontiguousarray(G[:, :kept, :r])
    G = part.reshape(l, -1).T @ x.reshape(l, -1)
    G = G.reshape(k, -1, k, columns)[:, :kept, :, :r].transpose(0, 2, 1, 3)
    return np.ascontiguousarray(G).reshape(k * k, kept, r)


def _second_moments(
    cross: CrossProducts, t: int, u: int, terms: Sequence[TermCovariance]
) -> FloatArray:
    """``sum A[i, a] A[j, b] - A[i, a] (B_x B_x')[j, b] - (B_x B_x')[i, a] A[j, b]``.

    Over all pairs of levels of t and u, (entries of t, entries of u).
    """
    pair, alone = cross.pairs[t, u], (terms[t].is_diagonal, terms[u].is_diagonal)
    if pair.data.shape[1:] == (1, 1):
        return _scalar_moments(cross, t, u)
    F = _sum_of_products(pair.data, pair.data, *alone)
    x, y = (
        cross.B[cross.slices[s]].reshape(cross.sizes[s][1], cross.sizes[s][0], -1)[:, :, :-1]
        for s in (t, u)
    )
    if t == u and pair.is_block_diagonal:
        mixed = _sum_of_products(pair.data, np.matmul(x, x.transpose(0, 2, 1)), *alone)
    else:
        mixed = _coupled_moments(cross, (t, u), x, y, *alone)
    return F - mixed - _turned(mixed, terms[t], terms[u])


def _scalar_moments(cross: CrossProducts, t: int, u: int) -> FloatArray:
    """The same of two terms of one coefficient, (1, 1)."""
    pair, x = cross.pairs[t, u], cross.B[cross.slices[t], :-1]
    a = pair.data.ravel()
    if t == u and pair.is_block_diagonal:
        mixed = a @ (x * x).sum(axis=1)
    else:
        mixed = (x * (_one_coefficient(pair, 0, 0) @ cross.B[cross.slices[u], :-1])).sum()
    return np.array([[a @ a - 2.0 * mixed]])


def _coupled_moments(
    cross: CrossProducts, pair: tuple[int, int], x: FloatArray, y: FloatArray,
    left_alone: bool, right_alone: bool,
) -> FloatArray:  # fmt: skip
    """``sum A[i, a] (x y')[j, b]`` over the blocks of A of a pair of terms, by entries."""
    blocks = cross.pairs[pair]
    _, kt, ku = blocks.data.shape
    out = np.empty((kt, 1 if left_alone else kt, ku, 1 if right_alone else ku))
    for a in range(ku):
        columns = y[:, a : a + 1] if right_alone else y
        flat = columns.reshape(len(y), -1)
        for i in range(kt):
            product = _one_coefficient(blocks, i, a) @ flat
            product = product.reshape(len(x), columns.shape[1], -1)
            rows = x[:, i : i + 1] if left_alone else x
            out[i, :, a] = np.einsum("ljr,lbr->jb", rows, product)
    return out.reshape(kt * out.shape[1], -1)


def _one_coefficient(blocks: PairBlocks, i: int, a: int) -> CSC | FloatArray:
    """One entry of every block of a pair, (l_t, l_u), sparse unless it is small."""
    shape = blocks.n_rows, len(blocks.indptr) - 1
    if shape[0] * shape[1] > SMALL_TABLE:
        data = np.ascontiguousarray(blocks.data[:, i, a])
        return sp.csc_array((data, blocks.rows, blocks.indptr), shape=shape)
    full = np.zeros(shape)
    full[blocks.rows, blocks.cols] = blocks.data[:, i, a]
    return full


def _sum_of_products(
    x: FloatArray, y: FloatArray, left_alone: bool, right_alone: bool
) -> FloatArray:
    """``sum_n x[n, i, a] y[n, j, b]``, (entries of i and j, entries of a and b).

    With ``i = j`` where the left coefficients are independent, ``a = b`` where the right ones are.
    """
    n, kt, ku = x.shape
    if left_alone and right_alone:
        return np.asarray((x * y).sum(axis=0))
    if left_alone:  # a batch of products, one for every i
        return np.matmul(x.transpose(1, 2, 0), y.transpose(1, 0, 2)).reshape(kt, ku * ku)
    if right_alone:
        by_right = np.matmul(x.transpose(2, 1, 0), y.transpose(2, 0, 1))
        return by_right.reshape(ku, kt * kt).T
    F = np.ascontiguousarray(x).reshape(n, -1).T @ np.ascontiguousarray(y).reshape(n, -1)
    return F.reshape(kt, ku, kt, ku).transpose(0, 2, 1, 3).reshape(kt * kt, ku * ku)


def _turned(F: FloatArray, left: TermCovariance, right: TermCovariance) -> FloatArray:
    """Entries ``(j, i), (b, a)`` in the place of ``(i, j), (a, b)``."""
    return F if F.size == 1 else F[_swapped(left)[:, None], _swapped(right)]


def _at_theta(F: FloatArray, left: TermCovariance, right: TermCovariance) -> FloatArray:
    """Coefficients of the moment equations, symmetric entries of both sides added up."""
    if F.size == 1:
        return F
    return _twice(left)[:, None] * F[_entries(left)] @ _both(right)
