"""Profile-likelihood intervals of single parameters of R."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy

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
    """Phi with one entry held.

    Attributes
    ----------
    pinned : int
    """

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
