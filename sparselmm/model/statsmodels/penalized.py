"""Fixed parameters and penalties: the profiled deviance on part of its parameters.

A mask ``free`` (zeros and ones) holds packed entries of ``Psi / sigma^2`` at their start values.
Where that fixes entries of ``lambda_t`` themselves (independent coefficients, leading rows, a
zero pattern that factors without fill) theta simply loses them. Any other mask is an equality
constraint ``Psi(theta) = Psi(start)`` on the fixed entries.

Penalties are statsmodels' objects: ``fe_pen.func(beta)``, ``deriv``, and
``cov_pen.func(Psi, inverse)``, ``deriv`` (packed), both for ``Psi / sigma^2``, subtracted from the
log-likelihood. Beta is the minimizer given theta, so that its derivative does not enter the
gradient in theta.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy

from sparselmm.base.arguments import check_numbers, wrong_value
from sparselmm.base.exceptions import ArgumentError
from sparselmm.base.types import BoolArray, FloatArray, IntArray
from sparselmm.inference.packing import MixedLMParams, Packing
from sparselmm.likelihood.curvature import difference_hessian
from sparselmm.likelihood.deviance import ProfiledDeviance
from sparselmm.likelihood.evaluations import PLSFit
from sparselmm.likelihood.held import Held
from sparselmm.likelihood.patterned import Patterned
from sparselmm.model.statsmodels.packed_likelihood import add_packed, fit_at, point


def held_by_mask(packing: Packing, free: MixedLMParams, start: MixedLMParams) -> Held:
    """Read the ``free`` argument of ``MixedLM.fit``.

    Parameters
    ----------
    packing : Packing
    free : MixedLMParams
        1 for a parameter to estimate, 0 for one held at its start value.
    start : MixedLMParams

    Raises
    ------
    ValueError
        When a term has a patterned covariance.
    """
    if any(isinstance(term, Patterned) for term in packing.covariance.terms):
        raise ArgumentError(
            "free= holds single entries of a covariance matrix, which a patterned covariance "
            "has not; hold the whole term with fix="
        )
    for part in (free.fe_params, free.cov_re, free.vcomp):
        if not np.isin(np.asarray(part), (0, 1)).all():
            raise wrong_value("free", "zeros and ones, one for each parameter", part)
    masks = [np.asarray(mask) != 0 for mask in packing.psi(free)]
    held = Held.by_masks(packing.covariance, masks, packing.psi(start))
    if held.psi is not None:
        held = replace(held, start=packing.theta(start))
    fixed = np.asarray(free.fe_params) == 0
    return replace(held, fixed=fixed if len(fixed) == packing.k_fe else None)


@dataclass(frozen=True, eq=False)
class CheckedPenalty:
    """A penalty as given, its answers looked at.

    Attributes
    ----------
    given : object
        With ``func`` and ``deriv``.
    name : str
        The argument it was given as.
    """

    given: Any
    name: str

    @classmethod
    def of(cls, given: Any, name: str) -> CheckedPenalty | None:
        """None for none."""
        return None if given is None else cls(given, name)

    def func(self, *at: FloatArray) -> float:
        """The penalty, one number."""
        value = check_numbers(self.given.func(*at), f"{self.name}.func()", finite=False)
        if value.size != 1:
            raise ArgumentError(f"{self.name}.func() must give one number, got shape {value.shape}")
        return float(value.ravel()[0])

    def deriv(self, *at: FloatArray) -> FloatArray:
        """Its derivative, one number per parameter."""
        k = len(at[0])
        size = k if at[0].ndim == 1 else k * (k + 1) // 2
        what = "one number per parameter"
        slope = check_numbers(self.given.deriv(*at), f"{self.name}.deriv()", finite=False)
        return check_numbers(
            slope.ravel(), f"{self.name}.deriv()", (size,), finite=False, what=what
        )


@dataclass(frozen=True, eq=False)
class Penalties:
    """Penalties and fixed values of the fixed effects.

    Attributes
    ----------
    packing : Packing
    fe_pen, cov_pen : CheckedPenalty or None
    held : ndarray of bool, (r,)
        Fixed effects held fixed, among the independent columns.
    values : ndarray, (r,)
        What they are held at.
    """

    packing: Packing
    fe_pen: CheckedPenalty | None
    cov_pen: CheckedPenalty | None
    held: BoolArray
    values: FloatArray


class PenalizedDeviance:
    """The profiled deviance with penalties, with some fixed effects held fixed.

    Parameters
    ----------
    deviance : ProfiledDeviance
    penalties : Penalties
    """

    model_is_exact = True

    def __init__(self, deviance: ProfiledDeviance, penalties: Penalties):
        self.deviance = deviance
        self.penalties = penalties
        self.covariance = deviance.covariance
        self.units = deviance.units
        self.unit_roots = deviance.unit_roots
        self.df, self.levels = deviance.df, deviance.levels
        self._beta: tuple[FloatArray, FloatArray] | None = None

    def beta(self, theta: FloatArray) -> FloatArray:
        """Best fixed effects given theta, (r,)."""
        if self._beta is not None and np.array_equal(self._beta[0], theta):
            return self._beta[1]
        fit = self.deviance.at(theta)
        held, fe_pen = self.penalties.held, self.penalties.fe_pen
        S = np.asarray(np.linalg.inv(fit.vcov_unscaled), float)
        beta = fit.beta.copy()
        if held.any():
            away = self.penalties.values[held] - beta[held]
            beta[held] = self.penalties.values[held]
            beta[~held] -= np.linalg.solve(S[np.ix_(~held, ~held)], S[np.ix_(~held, held)] @ away)
        if fe_pen is not None and not held.all():
            beta = self._shrunk(fit, S, beta, ~held)
        self._beta = (np.array(theta), beta)
        return beta

    def _shrunk(self, fit: PLSFit, S: FloatArray, start: FloatArray, free: BoolArray) -> FloatArray:
        """Minimizer of ``df log q(beta) + 2 fe_pen(beta)`` over the free entries."""
        pen = self.penalties.fe_pen
        assert pen is not None
        size = np.sqrt(np.diag(fit.vcov_unscaled)[free] * fit.scale)

        def objective(step: FloatArray) -> tuple[float, FloatArray]:
            beta = start.copy()
            beta[free] += size * step
            away = beta - fit.beta
            q = fit.pwrss + float(away @ S @ away)
            slope = 2.0 * fit.df / q * (S @ away) + 2.0 * pen.deriv(beta)
            value = fit.df * np.log(q / fit.pwrss) + 2.0 * pen.func(beta)
            return float(value), np.asarray(slope[free] * size, float)

        found = scipy.optimize.minimize(
            objective, np.zeros(int(free.sum())), jac=True, method="BFGS", options={"gtol": 1e-9}
        )
        beta = start.copy()
        beta[free] += size * found.x
        return beta

    def at(self, theta: FloatArray) -> PLSFit:
        """The model at theta; its deviance includes twice the penalties."""
        fit = fit_at(self.deviance, theta, self.beta(theta))
        value = fit.deviance
        if self.penalties.fe_pen is not None:
            value += 2.0 * self.penalties.fe_pen.func(fit.beta)
        if self.penalties.cov_pen is not None:
            value += 2.0 * self.penalties.cov_pen.func(*self._cov(theta))
        return replace(fit, deviance=value)

    def _cov(self, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
        cov = self.penalties.packing.params(np.zeros(0), self.covariance.psi(theta)).cov_re
        return cov, np.asarray(np.linalg.pinv(cov), dtype=float)

    def value(self, theta: FloatArray) -> float:
        """Penalized deviance."""
        return self.at(theta).deviance

    def gradient(self, theta: FloatArray) -> FloatArray:
        """Its gradient in theta, (n_theta,)."""
        gradients = point(self.deviance, theta, self.beta(theta)).psi_gradient
        cov_pen, packing = self.penalties.cov_pen, self.penalties.packing
        if cov_pen is not None:
            add_packed(packing, gradients, cov_pen.deriv(*self._cov(theta)))
        lams = self.covariance.factors(theta)
        slopes = [2.0 * G @ lam for G, lam in zip(gradients, lams, strict=True)]
        return self.covariance.chain(theta, slopes)

    def tangent_gradient(self, theta: FloatArray) -> FloatArray:
        """Gradient with zeros for the directions theta does not have."""
        gradient: FloatArray = np.zeros(self.covariance.n_tangent)
        gradient[self.covariance.in_tangent] = self.gradient(theta)
        return gradient

    def rounding(self, theta: FloatArray) -> float:
        """That of the deviance without penalties."""
        return self.deviance.rounding(theta)

    def working(self, theta: FloatArray) -> tuple[PenalizedDeviance, FloatArray]:
        """These coordinates, whatever the engine works in."""
        return self, theta

    def original(self, inner: FloatArray) -> FloatArray:
        """The same theta."""
        return inner

    def newton_matrix(self, theta: FloatArray) -> FloatArray:
        """Hessian by central differences of the gradient."""
        theta = np.asarray(theta, dtype=float)
        return difference_hessian(self.gradient, theta, np.maximum(self.units, np.abs(theta)))

    def tangent_model(self, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Gradient and Hessian with zeros for the directions theta does not have."""
        inner = self.covariance.in_tangent
        m = self.covariance.n_tangent
        H: FloatArray = np.zeros((m, m))
        H[np.ix_(inner, inner)] = self.newton_matrix(theta)
        return self.tangent_gradient(theta), H


def constrained_entries(packing: Packing, held: Held) -> IntArray:
    """Packed entries of ``Psi`` that equality constraints hold."""
    if held.psi is None:
        return np.zeros(0, dtype=np.intp)
    return np.flatnonzero(packing.places.pick([mask.astype(float) for mask in held.psi]) == 0)


def minimize_constrained(
    objective: ProfiledDeviance | PenalizedDeviance, packing: Packing, held: Held, maxiter: int
) -> tuple[FloatArray, str, bool]:
    """Theta, message and success of a minimization with entries of ``Psi`` held fixed (SLSQP)."""
    covariance, layout = packing.covariance, packing.places
    assert held.psi is not None and held.start is not None
    kept = constrained_entries(packing, held)
    wanted = layout.pick(covariance.psi(held.start))[kept]
    units = objective.units

    def difference(z: FloatArray) -> FloatArray:
        return layout.pick(covariance.psi(z * units))[kept] - wanted

    start = held.start / units
    zero = covariance.on_diagonal & (start == 0.0)
    found = scipy.optimize.minimize(
        lambda z: objective.value(z * units),
        np.where(zero, 1e-3, start),
        jac=lambda z: objective.gradient(z * units) * units,
        method="SLSQP",
        constraints={"type": "eq", "fun": difference},
        options={"ftol": 1e-12, "maxiter": maxiter},
    )
    return covariance.rectify(found.x * units), str(found.message), bool(found.success)
