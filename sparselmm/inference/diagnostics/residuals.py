"""Residuals of every kind, and Cook's distance of every row, at the estimated theta.

The conditional residuals ``e = y - X beta - Z b`` and the marginal ones ``r = y - X beta`` have

    Var(e_i) = sigma^2 (1 - h_i) / w_i
    Var(r_i) = sigma^2 (1 / w_i + z_i'Lambda Lambda'z_i - x_i'S_xx^-1 x_i)

at known theta, h the leverage: ``e = W^-1 P y`` with ``P V P = P`` and ``P_ii = w_i (1 - h_i)``
(Nobre & Singer 2007; the marginal variance is that of generalized least squares).
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from sparselmm.base.types import BoolArray, FloatArray
from sparselmm.inference.diagnostics.leverage import Leverage, prior_variances
from sparselmm.inference.estimates import Estimates

Kind = Literal["response", "pearson", "studentized", "deleted"]
Level = Literal["conditional", "marginal"]
KINDS: tuple[Kind, ...] = get_args(Kind)
LEVELS: tuple[Level, ...] = get_args(Level)

EXACT_FIT = 1e-10
"""A row with less than this share of its variance left has no studentized residual."""


def residuals(
    est: Estimates, raw: FloatArray, kind: Kind, level: Level, scaled: bool, lev: Leverage | None
) -> FloatArray:
    """Residuals from the response residuals.

    Parameters
    ----------
    raw : ndarray, (n,)
        Response residuals of the level.
    kind : {"response", "pearson", "studentized", "deleted"}
    level : {"conditional", "marginal"}
    scaled : bool
        Divide Pearson residuals by sigma.
    lev : Leverage or None
        Needed for studentized and deleted conditional residuals.

    Returns
    -------
    ndarray, (n,)
        NaN for a row that its own leverage fits exactly, and for studentized residuals of rows
        of weight zero.
    """
    if kind == "response":
        return raw
    w = np.ones(len(raw)) if est.design.weights is None else est.design.weights
    sigma = est.pls.sigma
    if kind == "pearson":
        with np.errstate(divide="ignore", invalid="ignore"):
            size = np.sqrt(w) if level == "conditional" else 1.0 / np.sqrt(_spread(est, w))
        return raw * np.where(w > 0, size, 0.0) / (sigma if scaled else 1.0)
    if level == "marginal":
        with np.errstate(divide="ignore", invalid="ignore"):
            var = _spread(est, w) - _estimated(est)
        return _studentize(raw, var, sigma, w > 0)
    assert lev is not None
    rest = 1.0 - lev.total
    with np.errstate(divide="ignore", invalid="ignore"):
        t = _studentize(raw, rest / w, sigma, (w > 0) & (rest > EXACT_FIT))
    if kind == "studentized" or est.deviance.known_scale is not None:
        return t
    df = est.deviance.df
    with np.errstate(invalid="ignore"):
        return t * np.sqrt((df - 1.0) / np.where(t**2 < df, df - t**2, np.nan))


def _spread(est: Estimates, w: FloatArray) -> FloatArray:
    """``Var(y_i) / sigma^2``, (n,)."""
    return 1.0 / w + prior_variances(est.deviance, est.design, est.pls.theta)


def _estimated(est: Estimates) -> FloatArray:
    """``x_i'S_xx^-1 x_i``, (n,): variance of ``x_i'beta`` over sigma^2."""
    X = est.design.X[:, est.deviance.cross.basis.kept]
    return np.asarray(np.einsum("ij,jk,ik->i", X, est.pls.vcov_unscaled, X, optimize=True))


def _studentize(raw: FloatArray, var: FloatArray, sigma: float, sound: BoolArray) -> FloatArray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(sound, raw / (sigma * np.sqrt(np.maximum(var, 0.0))), np.nan)


def cooks_distance(est: Estimates, raw: FloatArray, lev: Leverage) -> FloatArray:
    """``w_i e_i^2 h_i / (sigma^2 r (1 - h_i)^2)``, r the rank of X, (n,).

    Cook's (1977) distance of a linear model with the leverage of the mixed model in place
    of the ordinary one, as lme4 has it; `deletion.rows_given_theta` deletes rows from the fixed
    effects proper. NaN without fixed effects.
    """
    w = np.ones(len(raw)) if est.design.weights is None else est.design.weights
    rank = est.deviance.cross.basis.rank or np.nan
    h = lev.total
    rest = np.where(h < 1.0 - EXACT_FIT, 1.0 - h, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        return w * raw**2 * h / (est.pls.scale * rank * rest**2)
