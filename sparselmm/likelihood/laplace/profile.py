"""Profile-likelihood intervals of single parameters of a generalized model.

For a parameter ``c'x`` the deviance is minimized with it held, and ``zeta(v) = sign(v - v_hat)
sqrt(deviance(v) - deviance_hat)`` is followed to the quantiles of the normal distribution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from sparselmm.base.types import FloatArray
from sparselmm.likelihood.laplace.deviance import LaplaceDeviance
from sparselmm.likelihood.laplace.search import GeneralSearch

MOST = 30
"""Evaluations of zeta per end."""


@dataclass(frozen=True, eq=False)
class Held:
    """A parameter to profile.

    Attributes
    ----------
    row : ndarray
        Its coefficients in x.
    se : float
        Standard error, for the first guess.
    way : ndarray
        Step of x that changes the parameter by one and goes along the bottom of the deviance.
    lowest : float
        Smallest value it can have.
    """

    row: FloatArray
    se: float
    way: FloatArray
    lowest: float = -np.inf


def way_of(row: FloatArray, V: FloatArray) -> FloatArray:
    """``V c / c'V c``; c itself where there is no covariance."""
    step = np.nan_to_num(V) @ row
    size = float(row @ step)
    return step / size if size > 0 else row / float(row @ row)


class Profile:
    """Profiles around one optimum.

    Parameters
    ----------
    x : ndarray
    value : float
        Deviance there.
    """

    def __init__(self, deviance: LaplaceDeviance, x: FloatArray, value: float):
        self.deviance, self.x, self.value = deviance, x, value
        self.search = GeneralSearch(deviance)

    def interval(self, held: Held, alpha: float) -> tuple[float, float]:
        """Both ends; NaN where zeta does not reach its quantile."""
        target = float(-ndtri(alpha / 2.0))
        return self._end(held, -target), self._end(held, target)

    def zeta(self, held: Held, v: float, x: FloatArray) -> tuple[float, FloatArray]:
        """Signed root at v, and where the minimum is."""
        hat = float(held.row @ self.x)
        parameters = self.deviance.parameters
        start = x + (v - float(held.row @ x)) * held.way
        row = np.zeros(parameters.covariance.n_tangent + parameters.r + parameters.n_phi)
        row[parameters.in_tangent] = held.row
        with self.deviance.lock:
            end, value, _ = self.search.held(start, row)
        gap = max(value - self.value, 0.0)
        return float(np.sign(v - hat) * np.sqrt(gap)), end

    def _end(self, held: Held, target: float) -> float:
        """The value at which zeta is the target, by the secant rule within a bracket."""
        hat = float(held.row @ self.x)
        low, f_low, x = hat, 0.0, self.x
        se = held.se if np.isfinite(held.se) and held.se > 0 else 0.5 * max(abs(hat), 0.5)
        v = hat + target * se
        high = np.nan
        f_high = np.nan
        for _ in range(MOST):
            if v <= held.lowest:
                v = held.lowest
            z, end = self.zeta(held, v, x)
            if not np.isfinite(z):
                return np.nan
            if abs(z - target) < 1e-4:
                return v
            if abs(z) < abs(target):
                low, f_low, x = v, z, end
                if v == held.lowest:
                    return held.lowest
            else:
                high, f_high = v, z
            if np.isnan(high):
                rate = (f_low - 0.0) / (low - hat) if low != hat else 1.0 / se
                step = (target - f_low) / rate if rate > 0 else target * se
                v = low + np.sign(target) * min(
                    max(abs(step), 0.1 * se), 4.0 * max(se, abs(low - hat))
                )
            else:
                share = (target - f_low) / (f_high - f_low)
                v = low + min(max(share, 0.05), 0.95) * (high - low)
        return np.nan
