"""Satterthwaite's degrees of freedom for contrasts of fixed effects.

For one contrast l of beta with estimated variance ``f = l'V_beta l``,

    df = 2 f^2 / Var(f),   Var(f) = g'A g,   g = df / d(theta, sigma),   A = 2 H^-1           (1)

(Satterthwaite 1946; Giesbrecht & Burns 1985), H the Hessian of the deviance with sigma not
profiled out. Both derivatives are exact (:mod:`sparselmm.inference.hypotheses.information`). For
several contrasts the eigenvectors of ``L V_beta L'`` make t statistics with df nu_m of their own,
and the mean of the squares of q of them is referred to

    F(q, 2E / (E - q)),   E = sum_m nu_m / (nu_m - 2)                                         (2)

(Fai & Cornelius 1996): the method of lmerTest (Kuznetsova, Brockhoff & Christensen 2017) and of
SAS. Where some nu_m is 2 or less the mean of F does not exist and lmerTest's answer, 2, is given.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparselmm.base.types import FloatArray
from sparselmm.inference.estimates import Estimates
from sparselmm.inference.hypotheses.hypotheses import FTest, Principal, f_test_of, kept_columns
from sparselmm.inference.hypotheses.information import Information, covariance_of, information


@dataclass(frozen=True, eq=False)
class Satterthwaite:
    """Tests of a fit with Satterthwaite's degrees of freedom.

    Attributes
    ----------
    info : Information
        Derivatives at the estimates.
    covariance : ndarray, (m + 1, m + 1)
        Estimation covariance of the free entries of ``Psi / sigma^2`` and of ``log sigma^2``.
    """

    est: Estimates
    info: Information
    covariance: FloatArray
    method = "satterthwaite"

    @classmethod
    def of(cls, est: Estimates, info: Information | None = None) -> Satterthwaite:
        """From the exact Hessian at the optimum of a fit."""
        info = information(est.deviance, est.pls.theta) if info is None else info
        covariance = covariance_of(info.observed, info.units, info.to_theta, info.C)
        return cls(est, info, covariance)

    @property
    def vcov(self) -> FloatArray:
        """``sigma^2 (X'V^-1X)^-1``, (p, p)."""
        return self.est.vcov

    def t_df(self, L: FloatArray) -> FloatArray:
        """Degrees of freedom of every row of L, (m,); NaN on a dropped column.

        Parameters
        ----------
        L : ndarray, (m, p)
        """
        return row_df(self.est, self.info, self.covariance, L)

    def f_test(self, L: FloatArray, rhs: FloatArray | None = None) -> FTest:
        """Joint test of ``L beta = rhs``.

        Parameters
        ----------
        L : ndarray, (m, p)
            Dependent rows count once.
        rhs : ndarray, (m,), optional
            Default zero.
        """
        parts = Principal.of(self.est, L, rhs)
        nu = single_df(self.info.C, self.covariance, self.info.scaled(parts.rows))
        mean_square = float((parts.effects**2 / parts.variances).mean())
        return f_test_of(mean_square, len(nu), combined_df(nu))


def row_df(est: Estimates, info: Information, covariance: FloatArray, L: FloatArray) -> FloatArray:
    """Degrees of freedom of every row of L (m, p) alone, (m,); NaN on a dropped column."""
    inner, good = kept_columns(est, L)
    return np.where(good, single_df(info.C, covariance, info.scaled(inner)), np.nan)


def single_df(C: FloatArray, covariance: FloatArray, rows: FloatArray) -> FloatArray:
    """``2 f^2 / Var(f)`` of contrasts of the scaled fixed effects, (m,).

    With ``X'V^-1X = I`` the variance is ``f = s l'l`` and its derivatives are ``s l'C_i l``.
    """
    slopes = np.einsum("ma,iab,mb->mi", rows, C, rows, optimize=True)
    of_f = np.einsum("mi,ij,mj->m", slopes, covariance, slopes, optimize=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(2.0 * (rows**2).sum(axis=1) ** 2 / of_f)


def combined_df(nu: FloatArray) -> float:
    """Denominator df of a mean of squared t statistics with nu degrees of freedom, (q,)."""
    if np.ptp(nu) <= 1e-8 * nu.max():
        return float(nu.mean())
    if (nu <= 2.0).any():
        return 2.0
    return float(2.0 * (nu / (nu - 2.0)).sum() / (2.0 / (nu - 2.0)).sum())
