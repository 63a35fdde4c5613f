"""Log-likelihood, score and Hessian in statsmodels' parameters: beta, ``Psi / sigma^2``.

With sigma^2 profiled out, and beta either profiled out too or given,

    -2 l(beta, Psi) = log det V + [REML: log det X'V^-1X] + df (1 + log(2 pi q / df)) - sum log w
    q = (y - X beta)'V^-1(y - X beta) = pwrss + (beta - b)'X'V^-1X (beta - b),   b = GLS estimate

where ``V = W^-1 + Z Psi Z'``. Its derivative with respect to the symmetric ``Psi_t`` is

    G_t = sum_j ( [Z'V^-1Z]_jj - [REML: [Z'V^-1X S^-1 X'V^-1Z]_jj] - (df / q) d_j d_j' )
        = lambda_t^-T ( l I - sum_j ( G_jj + K_xj S^-1 K_xj' + (df / q) u_j u_j' ) ) lambda_t^-1

in the symbols of :mod:`sparselmm.likelihood.deviance`, with ``u = K (-beta, 1)`` at the beta in
use. Next to a singular ``lambda_t`` it is taken at ``Psi_t`` plus a small multiple of the identity,
since it is smooth in ``Psi_t``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sparselmm.base.exceptions import ArgumentError
from sparselmm.base.smallmatrix import factor_of, solve_triangular
from sparselmm.base.types import FloatArray
from sparselmm.inference.packing import Packing
from sparselmm.likelihood.deviance import ProfiledDeviance
from sparselmm.likelihood.evaluations import PLSFit, residual_part
from sparselmm.likelihood.patterned import Patterned

LIFT = 1e-4
"""Standard deviation, in units of sigma over the covariate's root mean square, below which
``lambda_t`` counts as singular: the square of it is lost to truncation, and as much to rounding."""

STEP = 1e-4
"""Relative step of the differences of the score: the cube root of its accuracy next to a zero."""


@dataclass(frozen=True, eq=False)
class Point:
    """The profile likelihood at one ``(beta, Psi)``.

    Attributes
    ----------
    fit : PLSFit
        With the ``beta`` in use, and ``u, b, pwrss, deviance`` that belong to it.
    score_fe : ndarray, (r,)
        Derivative of the log-likelihood with respect to the independent columns' ``beta``.
    psi_gradient : list of ndarray, (k, k)
        ``G_t``, derivative of the deviance with respect to the symmetric ``Psi_t / sigma^2``.
    """

    fit: PLSFit
    score_fe: FloatArray
    psi_gradient: list[FloatArray]


def fit_at(deviance: ProfiledDeviance, theta: FloatArray, beta: FloatArray | None) -> PLSFit:
    """The model at theta with its GLS estimate or another beta, (r,)."""
    fit = deviance.at(theta)
    if beta is None:
        return fit
    shift = beta - fit.beta
    pwrss = fit.pwrss + float(shift @ np.linalg.solve(fit.vcov_unscaled, shift))
    u, b = deviance.effects(theta, deviance.state_at(theta).K @ _residual(deviance, beta))
    value = fit.deviance + residual_part(pwrss, fit.df, fit.known_scale)
    value -= residual_part(fit.pwrss, fit.df, fit.known_scale)
    return replace(fit, beta=beta, u=u, b=b, pwrss=pwrss, deviance=value)


def _residual(deviance: ProfiledDeviance, beta: FloatArray) -> FloatArray:
    """What turns columns [Q, y] into ``y - X beta``, (r + 1,)."""
    basis = deviance.cross.basis
    return np.append(-solve_triangular(basis.T, beta - basis.shift), 1.0)


def lifted(deviance: ProfiledDeviance, theta: FloatArray) -> FloatArray:
    """The same theta, or the nearest at which no ``lambda_t`` is singular."""
    lams = deviance.covariance.factors(theta)
    for t, lam in enumerate(lams):
        rms = deviance.cross.model_rms(t)
        unit = 1.0 / np.where(rms > 0, rms, 1.0)
        if (np.abs(np.diag(lam)) < LIFT * unit).any():
            lams[t] = factor_of(lam @ lam.T + np.diag((LIFT * unit) ** 2))
    return deviance.covariance.pick(lams)


def point(deviance: ProfiledDeviance, theta: FloatArray, beta: FloatArray | None) -> Point:
    """Value and gradient at theta and the GLS estimate, or another beta, (r,)."""
    fit = fit_at(deviance, theta, beta)
    shift = deviance.at(theta).beta - fit.beta
    score_fe = np.asarray(np.linalg.solve(fit.vcov_unscaled, shift) / fit.scale, float)
    inside = lifted(deviance, theta)
    near = fit if inside is theta else fit_at(deviance, inside, beta)
    state = deviance.state_at(inside)
    residual = None if beta is None else _residual(deviance, beta)
    root = deviance.root(state, residual, 1.0 / near.scale)
    gradients = []
    for t, lam in enumerate(state.lams):
        gap = deviance.information_gap(state, t, root)
        divide = deviance.covariance.terms[t].divide
        gradients.append(deviance.original_slope(t, divide(lam, divide(lam, gap).T)))
    return Point(fit, score_fe, gradients)


def score_raw(packing: Packing, at: Point) -> FloatArray:
    """Score with respect to packed entries of ``Psi / sigma^2``, (m,)."""
    packed = packing.places.pick(at.psi_gradient)
    twice = np.where(packing.places.rows == packing.places.cols, 1.0, 2.0)
    return -0.5 * twice * packed


def score_sqrt(packing: Packing, theta: FloatArray, at: Point) -> FloatArray:
    """Score with respect to packed entries of ``lambda``, (m,)."""
    lams = packing.covariance.factors(theta)
    blocks = [-G @ lam for G, lam in zip(at.psi_gradient, lams, strict=True)]
    return packing.places.pick(blocks)


def hessian(
    deviance: ProfiledDeviance, packing: Packing, psi: list[FloatArray], beta: FloatArray
) -> FloatArray:
    """Hessian of the log-likelihood in beta and the packed ``Psi / sigma^2``, (r + m, r + m).

    Exact in beta; central differences of the exact score in ``Psi``, one-sided next to the
    boundary.

    Raises
    ------
    ValueError
        When a term has a patterned covariance, whose entries cannot vary one by one.
    """
    if any(isinstance(term, Patterned) for term in packing.covariance.terms):
        raise ArgumentError(
            "the Hessian in the entries of Psi is not defined for a patterned covariance; use "
            "result.deviance.hessian(result.theta)"
        )
    theta = packing.covariance.pick([factor_of(block) for block in psi])
    base = fit_at(deviance, theta, beta)
    Sxx = np.linalg.inv(base.vcov_unscaled)
    r, m = len(beta), len(packing.places.names)
    first = point(deviance, theta, beta)
    out = np.zeros((r + m, r + m))
    out[:r, :r] = -Sxx / base.scale
    if base.known_scale is None:
        out[:r, :r] += 2.0 / base.df * np.outer(first.score_fe, first.score_fe)
    for p in range(m):
        out[r + p] = _difference(deviance, packing, psi, beta, p)
    out[:r, r:] = out[r:, :r].T
    out[r:, r:] = 0.5 * (out[r:, r:] + out[r:, r:].T)
    return out


def _difference(
    deviance: ProfiledDeviance, packing: Packing, psi: list[FloatArray], beta: FloatArray, p: int
) -> FloatArray:
    """Derivative of the score with respect to packed parameter p, (r + m,)."""
    layout = packing.places
    t, i, j = int(layout.terms[p]), int(layout.rows[p]), int(layout.cols[p])
    rms = deviance.cross.model_rms(t)
    unit = 1.0 / np.where(rms > 0, rms, 1.0)
    size = np.maximum(np.sqrt(np.abs(np.diag(psi[t]))), 1e-2 * unit)
    step = STEP * float(size[i] * size[j])

    def score(h: float) -> FloatArray:
        moved = [block.copy() for block in psi]
        moved[t][i, j] += h
        if i != j:
            moved[t][j, i] += h
        theta = packing.covariance.pick([factor_of(block) for block in moved])
        at = point(deviance, theta, beta)
        return np.concatenate([at.score_fe, score_raw(packing, at)])

    try:
        return np.asarray((score(step) - score(-step)) / (2.0 * step))
    except ValueError:  # no room below: a variance of zero
        return np.asarray((4.0 * score(step) - score(2.0 * step) - 3.0 * score(0.0)) / (2.0 * step))


def add_packed(packing: Packing, gradients: list[FloatArray], packed: FloatArray) -> None:
    """Add twice a derivative in packed ``cov_re`` to derivatives in the symmetric ``Psi_t``."""
    layout = packing.places
    places = zip(packed, layout.terms, layout.rows, layout.cols, strict=False)
    for value, t, i, j in places:
        if i == j:
            gradients[t][i, i] += 2.0 * value
        else:
            gradients[t][i, j] += value
            gradients[t][j, i] += value
