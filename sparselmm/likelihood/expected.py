"""The expected information about one term's covariance, from the blocks of its own levels.

The average information is made of the levels' effects as they turned out. It is a sum over l
levels of random matrices of rank one, and with m parameters its eigenvalues are spread like
``(1 +- sqrt(m / l))^2`` around the information, however good the fit is. Where m is not small
against l the expectation, ``sum_j tr(N_j Y_a N_j Y_b)``, is the better model of the Hessian: with
``N_j = I - G_jj - [REML: K_xj S_xx^-1 K_xj']`` the whitened ``Z'PZ`` of a level and ``Y_a`` the
symmetric steps ``lambda^-1 dlambda + (lambda^-1 dlambda)'``. What the average information and the
curvature of the root err by cancels in it, so no curvature comes to it.

A step of one entry, or of one row, of ``lambda_t`` is ``Y = b r' + r b'``, and

    tr(N Y_a N Y_b) = 2 [ (b_a'N b_b) (r_a'N r_b) + (b_a'N r_b) (r_a'N b_b) ],   tr(N Y) = 2 b'N r.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sparselmm.base.types import FloatArray
from sparselmm.likelihood.patterned import Heterogeneous
from sparselmm.likelihood.term_covariance import TermCovariance

TOGETHER, FEWEST = 32_768, 4
"""Numbers in the blocks of the levels that are taken together, and how many these are at least."""


def expected_information(
    term: TermCovariance, theta: FloatArray, lam: FloatArray, N: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """``sum_j tr(N_j Y_a N_j Y_b)`` (m, m) and ``sum_j tr(N_j Y_a)`` (m,) of the steps of a term.

    Parameters
    ----------
    theta : ndarray, (n_theta,)
        Of the term.
    lam : ndarray, (k, k)
        Its invertible ``lambda_t``.
    N : ndarray, (l, k, k)
    """
    back = term.divide(lam, np.eye(term.k)).T
    total = N.sum(axis=0)
    if isinstance(term, Heterogeneous):
        return _heterogeneous(term, theta, back, N, total)
    if term.is_diagonal:
        own = np.diag(back)
        K = 4.0 * np.outer(own, own) * np.einsum("jab,jab->ab", N, N)
        return K, 2.0 * own * np.diag(total)
    k, W = term.k, N @ back  # the step of entry (r, c) has b = back[:, r] and r = e_c
    P = (back.T @ W).reshape(len(N), -1)
    first = (P.T @ N.reshape(len(N), -1)).reshape(k, k, k, k)  # r, r', c, c'
    flat = W.reshape(len(N), -1)
    second = (flat.T @ flat).reshape(k, k, k, k)  # c', r, c, r'
    K = 2.0 * (first.transpose(0, 2, 1, 3) + second.transpose(1, 2, 3, 0))
    return K.reshape(k * k, k * k), 2.0 * (back.T @ total).ravel()


def _heterogeneous(
    term: Heterogeneous, theta: FloatArray, back: FloatArray, N: FloatArray, total: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Steps of one row each, and one of the angle that moves all of them."""
    rows, turned = term.rows_of_slopes(theta)
    half = back @ turned
    Y = half + half.T
    BN, RN = back.T @ N, rows @ N
    both = np.einsum("jab,jab->ab", BN @ back, RN @ rows.T)
    mixed = BN @ rows.T
    both += np.einsum("jab,jba->ab", mixed, mixed)
    out = np.empty((term.k + 1, term.k + 1))
    out[:-1, :-1] = 2.0 * both
    out[:-1, -1] = out[-1, :-1] = 2.0 * np.einsum("jab,ab->a", BN @ Y @ N, rows)
    NY = N @ Y
    out[-1, -1] = np.einsum("jab,jba->", NY, NY)
    slope = 2.0 * np.einsum("ab,ab->a", back.T @ total, rows)
    return out, np.append(slope, np.sum(total * Y))


def parts(levels: int, k: int) -> Iterator[slice]:
    """Levels to be taken together."""
    step = max(FEWEST, TOGETHER // k**2)
    for start in range(0, levels, step):
        yield slice(start, min(start + step, levels))
