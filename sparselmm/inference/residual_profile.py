"""Profile-likelihood intervals of parameters of R.

An entry of phi alone is held and the rest minimized over. A parameter that depends on several (a
covariance of ``us``, a correlation of ``toep``, sigma) ends where it is largest and smallest on the
contour of the deviance, one constrained maximization for each end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy

from sparselmm.base.cholesky import NotPositiveDefiniteError
from sparselmm.base.types import FloatArray
from sparselmm.inference.residual import JointFit
from sparselmm.likelihood.covariance import Covariance
from sparselmm.likelihood.optimize import minimize
from sparselmm.likelihood.residual.deviance import ResidualDeviance
from sparselmm.likelihood.residual.term import PhiTerm

FARTHEST = 12.0
"""Largest step from the estimate, in standard errors or, without one, in phi."""


@dataclass(frozen=True, eq=False)
class PinnedTerm(PhiTerm):
    """Phi with one entry held."""

    pinned: int

    def steps(
        self, theta: FloatArray, unit: FloatArray, smallest: float, slope: FloatArray
    ) -> FloatArray:
        """Steps of the others."""
        return np.delete(self.structure.metric(theta), self.pinned, axis=1)

    def rectify(self, theta: FloatArray) -> FloatArray:
        """As it is."""
        return theta


class Pinned(ResidualDeviance):
    """The deviance of the other parameters, one of phi held."""

    def __init__(self, deviance: ResidualDeviance, j: int):
        self.__dict__.update(deviance.__dict__)
        each, structure = np.arange(self.structure.n), self.structure
        term = PinnedTerm(structure.n, each, each, structure, j)
        self.covariance = Covariance((*self.theta_covariance.terms, term))


def profile_interval(joint: JointFit, j: int, alpha: float) -> tuple[float, float]:
    """Ends of phi_j where the profiled deviance has risen to the quantile; infinite if nowhere."""
    deviance = Pinned(joint.deviance, j)
    at, n = joint.deviance.n_theta + j, len(joint.x)
    rise = float(scipy.stats.chi2.ppf(1.0 - alpha, 1))
    lowest = joint.opt.deviance
    variance = joint.cov_phi[j, j]
    unit = float(np.sqrt(variance)) if variance > 0 else 1.0
    ends = []
    for side in (-1.0, 1.0):
        last = joint.x.copy()

        def excess(t: float, side: float = side, last: FloatArray = last) -> float:
            x = np.array(last)
            x[at] = joint.x[at] + side * t
            if n > 1:
                found = minimize(deviance, x)
                last[:] = found.theta
                value = found.deviance
            else:
                value = deviance.value(x)
            return value - lowest - rise

        far = 2.0 * unit
        while excess(far) < 0 and far < FARTHEST * unit:
            far *= 1.5
        if far >= FARTHEST * unit:
            ends.append(side * np.inf)
            continue
        found = scipy.optimize.brentq(excess, 0.0, far, xtol=1e-5 * unit, rtol=1e-6)
        ends.append(joint.x[at] + side * float(found))
    return ends[0], ends[1]


Function = Callable[[FloatArray], tuple[float, FloatArray]]
"""Value and gradient."""

CONTOUR = 1e-3
"""Distance from the contour, in the deviance, within which an end is one."""

FLATTEST = 1e-2
"""Curvature of the deviance that steps are scaled by at least."""


def natural_interval(joint: JointFit, j: int, alpha: float) -> tuple[float, float]:
    """Ends of parameter j on its natural scale; NaN where the contour is not closed."""
    deviance, n = joint.deviance, joint.deviance.n_theta
    structure = deviance.structure

    def parameter(x: FloatArray) -> tuple[float, FloatArray]:
        slope = np.zeros(len(x))
        slope[n:] = structure.natural_slopes(x[n:])[j]
        return float(structure.natural(x[n:], 1.0)[j]), slope

    def criterion(x: FloatArray) -> tuple[float, FloatArray]:
        return deviance.value(x), deviance.gradient(x)

    return _on_contour(joint.x, _scaling(joint), criterion, parameter, joint.opt.deviance, alpha)


def sigma_interval(
    joint: JointFit, sigma: float, alpha: float, moved: FloatArray
) -> tuple[float, float]:
    """Ends of the log of the residual standard deviation, covariates ``moved`` off their origin.

    ``sigma`` is the estimate at the origin.
    """
    deviance, d = joint.deviance, joint.deviance.df
    along = np.append(np.zeros(len(joint.x)), 1.0)
    along[deviance.n_theta : deviance.n_theta + len(moved)] = moved

    def criterion(x: FloatArray) -> tuple[float, FloatArray]:
        """``d(x, s)``, sigma not profiled out; the last entry is log s."""
        own, log_s = x[:-1], x[-1]
        pwrss = deviance.at(own).pwrss
        ratio = pwrss * np.exp(-2.0 * log_s)
        value = deviance.value(own) + ratio - d * (1.0 + np.log(ratio / d))
        slope = deviance.gradient(own)
        slope = slope + (ratio - d) * deviance.pwrss_gradient(own) / pwrss
        return value, np.append(slope, 2.0 * (d - ratio))

    def parameter(x: FloatArray) -> tuple[float, FloatArray]:
        return float(along @ x), along

    at = np.append(joint.x, np.log(sigma))
    inner = _scaling(joint)
    root = np.zeros((len(at), len(at)))
    root[:-1, :-1], root[-1, -1] = inner, 1.0 / np.sqrt(2.0 * d)
    slope = joint.pwrss_gradient / (2.0 * d * sigma**2)  # of the log s that is best for x
    root[-1, :-1] = slope @ inner
    return _on_contour(at, root, criterion, parameter, joint.opt.deviance, alpha)


def _scaling(joint: JointFit) -> FloatArray:
    """Steps, by columns, along each of which half the deviance has a curvature of one."""
    units = joint.deviance.units
    values, vectors = np.linalg.eigh(0.5 * joint.hessian * np.outer(units, units))
    return np.asarray(units[:, None] * vectors / np.sqrt(np.maximum(values, FLATTEST)))


def _on_contour(
    at: FloatArray, root: FloatArray, criterion: Function, parameter: Function, lowest: float,
    alpha: float,
) -> tuple[float, float]:  # fmt: skip
    """Smallest and largest value of a parameter where the criterion has risen to the quantile."""
    rise = float(scipy.stats.chi2.ppf(1.0 - alpha, 1))
    middle, slope = parameter(at)
    along = root.T @ slope
    size = float(np.linalg.norm(along))

    def above(z: FloatArray) -> tuple[float, FloatArray]:
        try:
            value, gradient = criterion(at + root @ z)
        except NotPositiveDefiniteError:
            return 1e6, np.zeros(len(z))
        return value - lowest - rise, root.T @ gradient

    ends = []
    for side in (-1.0, 1.0):

        def outward(z: FloatArray, side: float = side) -> tuple[float, FloatArray]:
            value, gradient = parameter(at + root @ z)
            return -side * (value - middle) / size, -side * root.T @ gradient / size

        held = {"type": "eq", "fun": lambda z: above(z)[0], "jac": lambda z: above(z)[1]}
        found = scipy.optimize.minimize(
            outward, side * np.sqrt(rise) * along / size, jac=True, method="SLSQP",
            constraints=[held], options={"ftol": 1e-6, "maxiter": 50},
        )  # fmt: skip
        good = abs(above(found.x)[0]) < CONTOUR and -found.fun > 0
        ends.append(parameter(at + root @ found.x)[0] if good else np.nan)
    return ends[0], ends[1]
