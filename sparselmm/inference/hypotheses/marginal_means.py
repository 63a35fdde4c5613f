"""Estimated marginal means: linear functions of beta, families of contrasts, adjustments.

A marginal mean is ``L beta`` with L the average of rows of X over a reference grid (Searle, Speed &
Milliken 1980, *The American Statistician* 34(4), 216-221). Its t statistic uses the covariance of
beta and the degrees of freedom of a :class:`~sparselmm.inference.hypotheses.ddf.DenominatorDF`.
Adjusted for all pairs of k means, Tukey's p-value is ``P(q_{k, df} > sqrt(2) |t|)`` with q the
studentized range (Kramer 1956, *Biometrics* 12(3), 307-310, for unequal variances).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy
import scipy.sparse as sp

from sparselmm.base.types import CSR, FloatArray, IntArray
from sparselmm.inference.estimates import Estimates
from sparselmm.inference.hypotheses.ddf import DenominatorDF
from sparselmm.inference.hypotheses.estimability import estimable
from sparselmm.inference.wald import quantile, two_sided

NODES = 64
"""Points of the quadratures of the studentized range."""

LARGEST_NORMAL = 9.0
"""A standard normal number beyond this has probability 1e-19."""

LARGEST_RANGE = 16.0
"""A range beyond this has no probability worth counting, for any number of means in use."""


@dataclass(frozen=True, eq=False)
class LinearEstimates:
    """Estimates of ``L beta + offset``; NaN where not estimable.

    Attributes
    ----------
    estimate, se, df : ndarray, (m,)
        df is inf for the normal distribution.
    """

    estimate: FloatArray
    se: FloatArray
    df: FloatArray

    @property
    def statistic(self) -> FloatArray:
        """``estimate / se``, (m,)."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(self.estimate / self.se)


def linear_estimates(
    est: Estimates, ddf: DenominatorDF, L: FloatArray, offset: FloatArray, null: FloatArray
) -> LinearEstimates:
    """Estimates, standard errors and degrees of freedom of some linear functions of beta.

    Parameters
    ----------
    est : Estimates
    ddf : DenominatorDF
        Covariance of beta and degrees of freedom.
    L : ndarray, (m, p)
    offset : ndarray, (m,)
    null : ndarray, (p, p - r)
        Null space of X, from :func:`~sparselmm.inference.hypotheses.estimability.null_space`.
    """
    kept = est.deviance.cross.basis.kept
    inner = np.zeros_like(L)
    inner[:, kept] = L[:, kept]
    V = ddf.vcov[np.ix_(kept, kept)]
    variance = np.einsum("ij,jk,ik->i", L[:, kept], V, L[:, kept], optimize=True)
    good = estimable(L, null)
    estimate = L[:, kept] @ est.pls.beta + offset
    some = (inner != 0).any(axis=1)
    df = np.full(len(L), np.nan)
    if some.any():
        df[some] = ddf.t_df(inner[some])
    known = [np.where(good, x, np.nan) for x in (estimate, np.sqrt(np.maximum(variance, 0.0)), df)]
    return LinearEstimates(*known)


# ------------------------------------------------------------------- families of contrasts


def pair_matrix(k: int, reverse: bool) -> tuple[FloatArray, list[tuple[int, int]]]:
    """Differences between all pairs of k means, (k (k - 1) / 2, k), and the pairs."""
    pairs = [(i, j) for i in range(k) for j in range(i + 1, k)]
    if reverse:
        pairs = [(j, i) for j in range(k) for i in range(j)]
    C = np.zeros((len(pairs), k))
    for row, (i, j) in enumerate(pairs):
        C[row, i], C[row, j] = 1.0, -1.0
    return C, pairs


def averaging_matrix(cell: IntArray, weights: FloatArray, n_cells: int) -> CSR:
    """Weighted means over the rows of a grid that belong to each cell, sparse (n_cells, g).

    Parameters
    ----------
    cell : ndarray of int, (g,)
    weights : ndarray, (g,)
    n_cells : int

    Notes
    -----
    NaN for a cell whose weights are all zero.
    """
    total = np.bincount(cell, weights, minlength=n_cells)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = weights / total[cell]
    where = (cell, np.arange(len(cell)))
    return sp.csr_array((share, where), shape=(n_cells, len(cell)))


# ----------------------------------------------------------------------------- adjustments


def tukey_p(t: FloatArray, df: FloatArray, k: int) -> FloatArray:
    """``P(q_{k, df} > sqrt(2) |t|)``, (m,), for pairs of k means."""
    if k == 2:
        return two_sided(t, df)
    out = np.full(len(t), np.nan)
    known = np.flatnonzero(np.isfinite(t) & ~np.isnan(df))
    out[known] = studentized_range_sf(np.sqrt(2.0) * np.abs(t[known]), k, df[known])
    return out


def studentized_range_sf(q: FloatArray, k: int, df: FloatArray) -> FloatArray:
    """``P(Q > q)`` of the range of k normal numbers over an independent standard error, (m,).

    ``int f(s) (1 - k int phi(z) [Phi(z) - Phi(z - q s)]^(k-1) dz) ds`` with f the density of
    ``sqrt(chi2_df / df)`` (Copenhaver & Holland 1988, *Journal of Statistical Computation and
    Simulation* 30, 1-15), by Gauss-Legendre quadrature: accurate to 1e-9, where SciPy's
    ``studentized_range`` is slower and, for df of 100,000, accurate to 3e-5.

    Parameters
    ----------
    q : ndarray, (m,)
    k : int
    df : ndarray, (m,)
        May be inf.
    """
    out = np.empty(len(q))
    x, weight = _gauss(NODES)
    for i, (one, nu) in enumerate(zip(q, df, strict=True)):
        if np.isinf(nu):
            out[i] = _range_sf(np.array([one]), k)[0]
            continue
        low, high = np.sqrt(scipy.stats.chi2.ppf([1e-18, 1.0 - 1e-16], nu) / nu)
        top = min(high, LARGEST_RANGE / one) if one > 0 else high
        total = 0.0
        for a, b in ((low, 0.5 * (low + top)), (0.5 * (low + top), top)) if top > low else ():
            s = 0.5 * (a + b) + 0.5 * (b - a) * x
            density = 2.0 * nu * s * scipy.stats.chi2.pdf(nu * s**2, nu)
            total += 0.5 * (b - a) * float(weight @ (density * _range_sf(one * s, k)))
        below = scipy.stats.chi2.cdf(nu * low**2, nu)  # there the range is below q s for sure
        out[i] = total + below
    return np.clip(out, 0.0, 1.0)


@lru_cache
def _gauss(points: int) -> tuple[FloatArray, FloatArray]:
    return np.polynomial.legendre.leggauss(points)


def _range_sf(w: FloatArray, k: int) -> FloatArray:
    """``P(range of k normal numbers > w)``, (m,)."""
    x, weight = _gauss(2 * NODES)
    z = LARGEST_NORMAL * x
    density = LARGEST_NORMAL * weight * np.exp(-0.5 * z**2) / np.sqrt(2.0 * np.pi)
    inside = scipy.special.ndtr(z) - scipy.special.ndtr(z - w[:, None])
    return np.asarray(1.0 - k * (inside ** (k - 1) @ density))


def critical_values(df: FloatArray, alpha: float, adjust: str, m: int, k: int) -> FloatArray:
    """Half-widths of intervals in standard errors, (len(df),).

    Parameters
    ----------
    df : ndarray
    alpha : float
    adjust : str
        "tukey" and "sidak" have intervals of their own; "none" leaves each as it is; for
        every other adjustment, which is made in steps, they are Bonferroni's.
    m : int
        Number of contrasts.
    k : int
        Number of means.
    """
    if adjust == "tukey" and k > 2:
        return _tukey_critical(df, alpha, k)
    if adjust in ("none", "tukey") or m <= 1:
        tail = alpha
    elif adjust == "sidak":
        tail = -np.expm1(np.log1p(-alpha) / m)
    else:
        tail = alpha / m
    return quantile(tail, df)


def _tukey_critical(df: FloatArray, alpha: float, k: int) -> FloatArray:
    """Quantiles of the studentized range over the root of 2, equal df once."""
    out = np.full(len(df), np.nan)
    rounded = np.array([float(f"{value:.8g}") for value in df])  # they differ by rounding only
    for value in np.unique(rounded[~np.isnan(rounded)]):
        nu = np.array([value])
        low, high = (float(quantile(tail, value)) for tail in (alpha, 2.0 * alpha / k**2))
        out[rounded == value] = scipy.optimize.brentq(
            lambda t, nu=nu: float(tukey_p(np.array([t]), nu, k)[0]) - alpha, 0.5 * low, 2.0 * high
        )
    return out


def joined(labels: Sequence[str], pairs: Sequence[tuple[int, int]]) -> list[str]:
    """``"a - b"`` for every pair, labels with an operator in them in parentheses."""
    safe = [f"({x})" if any(sign in x for sign in "+-*/") else x for x in labels]
    return [f"{safe[i]} - {safe[j]}" for i, j in pairs]
