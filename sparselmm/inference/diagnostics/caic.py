"""Conditional Akaike information, with the uncertainty of the variance parameters.

Greven & Kneib (2010) estimate the bias of the conditional log-likelihood by
``trace(d yhat / d y') + 1`` with ``yhat(y) = y - W^-1 P y`` the fit to y, whose variance parameters
follow y too. For parameters theta of ``V = Var(y) / sigma^2`` at an inner minimum of the deviance,
with ``a_j = P V_j P y`` and ``V_j = dV / dtheta_j``,

    d yhat / d y' = I - W^-1 P + sum_j W^-1 a_j (d theta_j / d y)',
    d theta / d y = -H^-1 (d^2 deviance / d theta d y),
    d^2 deviance / d theta_k d y = -2 (df / s) (a_k - (y'a_k / s) P y),    s = y'P y

so that the trace is

    n - tr(W^-1 P) + (2 df / s) sum_jk [H^-1]_jk (a_k - (y'a_k / s) P y)'W^-1 a_j

(theorem 3 and section 3.2 there, in theta instead of the variances: at a minimum the parameters'
names do not matter). ``V_j = Z (E_j Lambda' + Lambda E_j') Z'`` and ``W^-1 P Z h`` is the residual
of the fit to the response ``Z h``, so everything follows from cross-products and one solve. With a
known residual variance ``1 / sigma^2`` stands for ``df / s``, and the terms that come from
estimating it, ``(y'a_k / s) P y`` and the one added to the trace, are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg as sla

from sparselmm.base.grid import pairs_html, pairs_text
from sparselmm.base.types import BoolArray, FloatArray
from sparselmm.factor.solver import apply_lambda
from sparselmm.likelihood.curvature import directions
from sparselmm.likelihood.deviance import ProfiledDeviance
from sparselmm.likelihood.evaluations import State

POLISH = 2
"""Newton steps after the optimizer stopped."""


@dataclass(frozen=True, repr=False)
class ConditionalAIC:
    """Conditional Akaike information and its parts.

    Attributes
    ----------
    caic : float
        ``-2 llf + 2 df``.
    llf : float
        Log-likelihood of the response given the random effects at their conditional modes.
    df : float
        Effective number of parameters, ``trace(d yhat / d y') + 1``.
    df_known_variances : float
        The same when the variance parameters are taken as known: trace of the hat matrix plus
        one (Vaida & Blanchard 2005).
    """

    caic: float
    llf: float
    df: float
    df_known_variances: float

    @property
    def _pairs(self) -> list[tuple[str, str]]:
        return [
            ("conditional AIC", f"{self.caic:.4f}"),
            ("conditional log-likelihood", f"{self.llf:.4f}"),
            ("effective number of parameters", f"{self.df:.4f}"),
            ("with known variances", f"{self.df_known_variances:.4f}"),
        ]

    def __repr__(self) -> str:
        return pairs_text(self._pairs)

    def _repr_html_(self) -> str:
        return pairs_html(self._pairs, "Conditional Akaike information")


def conditional_aic(deviance: ProfiledDeviance, theta: FloatArray) -> ConditionalAIC:
    """Conditional Akaike information at the minimum of the deviance.

    Parameters
    ----------
    deviance : ProfiledDeviance
        REML or ML.
    theta : ndarray, (n_theta,)
        Where it is smallest. Columns of a ``lambda_t`` that are zero stay zero.

    Returns
    -------
    ConditionalAIC
        ``df`` is NaN where the Hessian is not positive definite.
    """
    deviance, theta = deviance.working(theta)
    moving = _moving(deviance, theta)
    theta = _polished(deviance, theta, moving)
    hessian = _hessian(deviance, theta, moving)
    state, cross = deviance.state_at(theta), deviance.cross
    fixed = hat_trace(deviance, state)
    wrss = state.pwrss - float(state.u @ state.u)
    scale = 1.0 / deviance._precision(state.pwrss)
    estimated = float(deviance.known_scale is None)
    llf = -0.5 * (cross.n * np.log(2.0 * np.pi * scale) - cross.sum_log_w + wrss / scale)
    df = fixed + _for_estimation(deviance, state, hessian, moving) + estimated
    return ConditionalAIC(float(2.0 * (df - llf)), float(llf), float(df), float(fixed + estimated))


def hat_trace(deviance: ProfiledDeviance, state: State) -> float:
    """Trace of the hat matrix with theta known, ``n - tr(W^-1 P)``.

    ``q - tr M^-1`` for the random effects and ``r - |K_x S_xx^-1/2|^2`` for the fixed ones.
    """
    cross = deviance.cross
    inverse = sum(
        float(np.einsum("lkk->", deviance.solver.inverse_blocks(t)))
        for t in range(len(cross.sizes))
    )
    return cross.q - inverse + len(state.gamma) - float(np.sum(state.Kx**2))


def _moving(deviance: ProfiledDeviance, theta: FloatArray) -> BoolArray:
    """Entries of theta off the boundary: in columns of ``lambda_t`` that are not all zero."""
    covariance = deviance.covariance
    out = np.ones(len(theta), dtype=bool)
    for term, part in zip(covariance.terms, covariance.slices, strict=True):
        out[part] = ~term.at_zero(theta[part])
    return out


def _hessian(deviance: ProfiledDeviance, theta: FloatArray, moving: BoolArray) -> FloatArray:
    """Exact Hessian in the entries off the boundary."""
    if not moving.any():
        return np.zeros((0, 0))
    return deviance.hessian(theta)[np.ix_(moving, moving)]


def _polished(deviance: ProfiledDeviance, theta: FloatArray, moving: BoolArray) -> FloatArray:
    """Theta after Newton steps with the exact Hessian.

    The deviance hardly knows the last digits of theta; the conditional likelihood, which is not at
    its maximum, does.
    """
    out = theta.copy()
    hessian = _hessian(deviance, theta, moving)
    for _ in range(POLISH if moving.any() else 0):
        step = np.linalg.lstsq(hessian, deviance.gradient(out)[moving], rcond=None)[0]
        trial = out.copy()
        trial[moving] -= step
        if deviance.value(trial) > deviance.value(out) + 1e-9:
            break
        out = trial
    return out


def _for_estimation(
    deviance: ProfiledDeviance, state: State, hessian: FloatArray, moving: BoolArray
) -> float:
    """What the estimation of theta adds to the trace."""
    if not moving.any():
        return 0.0
    cross = deviance.cross
    g, d = directions(deviance.cross, deviance.covariance, state)
    h = g[:, deviance.covariance.in_tangent[moving]]
    y_a = d @ h
    r = len(state.gamma)
    Ah = cross.A @ h
    right = apply_lambda(cross, state.lams, Ah)
    K = deviance.solver.solve(right)
    coefficients = np.zeros((cross.q + r + 1, h.shape[1] + 1))
    S = cross.B[:, :-1].T @ h - state.K[:, :-1].T @ right
    beta = sla.cho_solve((state.Rxx, False), S) if r else np.zeros((0, h.shape[1]))
    u = K - state.K[:, :-1] @ beta
    coefficients[: cross.q, :-1] = h - apply_lambda(cross, state.lams, u, transpose=False)
    coefficients[cross.q : cross.q + r, :-1] = -beta
    b = apply_lambda(cross, state.lams, state.u[:, None], transpose=False)[:, 0]
    coefficients[: cross.q, -1], coefficients[cross.q :, -1] = -b, state.residual
    products = _weighted_products(deviance, coefficients)
    inner, with_residual = products[:-1, :-1], products[-1, :-1]
    cross_term = inner
    if deviance.known_scale is None:
        cross_term = inner - np.outer(y_a / state.pwrss, with_residual)
    try:
        factor = sla.cho_factor(hessian)
    except np.linalg.LinAlgError:
        return np.nan
    precision = deviance._precision(state.pwrss)
    return 2.0 * precision * float(np.trace(sla.cho_solve(factor, cross_term)))


def _weighted_products(deviance: ProfiledDeviance, coefficients: FloatArray) -> FloatArray:
    """``F'W F`` of the vectors ``F = [Z, Q, y] coefficients``."""
    cross = deviance.cross
    z, x = coefficients[: cross.q], coefficients[cross.q :]
    mixed = z.T @ (cross.B @ x)
    return np.asarray(z.T @ (cross.A @ z) + mixed + mixed.T + x.T @ cross.C @ x)
