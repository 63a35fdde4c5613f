"""Fits with penalized fixed effects."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sparselmm.base.types import FloatArray
from sparselmm.likelihood.evaluations import PLSFit


def shooting(
    fit: PLSFit, alpha: FloatArray, ceps: float, ptol: float, maxit: int
) -> tuple[FloatArray, bool]:
    """L1-penalized fixed effects by cyclic coordinate descent, (r,), and whether it converged.

    Minimizes ``(y - X b)'V^-1(y - X b) + sum alpha_j |b_j|``, V in the units of the data, from the
    unpenalized estimate; a coefficient smaller than ``ceps`` is left where it is (Friedman, Hastie
    & Tibshirani 2010, section 2).

    Parameters
    ----------
    fit : PLSFit
        The unpenalized fit.
    alpha : ndarray, (r,)
    ceps, ptol : float
    maxit : int
    """
    S = np.linalg.inv(fit.vcov_unscaled) / fit.scale
    target = S @ fit.beta
    beta = fit.beta.copy()
    for _ in range(maxit):
        before = beta.copy()
        for j in range(len(beta)):
            if abs(beta[j]) < ceps:
                continue
            beta[j] = 0.0
            slope = -2.0 * float(target[j] - S[j] @ beta)
            if abs(slope) > alpha[j]:
                beta[j] = -(slope - np.copysign(alpha[j], slope)) / (2.0 * S[j, j])
        if np.abs(before - beta).max(initial=0.0) < ptol:
            return beta, True
    return beta, False


def known_only(fit: PLSFit, ceps: float) -> PLSFit:
    """The fit with NaN for the covariance of coefficients that the penalty removed."""
    stay = np.flatnonzero(np.abs(fit.beta) > ceps)
    information = np.linalg.inv(fit.vcov_unscaled)[np.ix_(stay, stay)]
    vcov = np.full_like(fit.vcov_unscaled, np.nan)
    vcov[np.ix_(stay, stay)] = np.linalg.inv(information)
    return replace(fit, vcov_unscaled=vcov, root=None)
