"""The likelihood with one parameter held fixed, as a function of unconstrained coordinates.

Every constraint is solved for, so that a profile is an unconstrained minimization with the exact
gradient:

* ``sigma = v``: theta is free.
* standard deviation of a coefficient: it is put first in its term, so that it is ``s lambda_11``,
  and ``lambda_11 = v / s`` with log s and the rest of theta free. Zero is an ordinary value.
* correlation of two coefficients: they are put first; ``lambda_21 = v |y|`` and
  ``lambda_22 = sqrt(1 - v^2) |y|`` with ``|lambda_11|`` and y free, whose other signs would be
  those of the correlation; s is profiled out. Where one of them is zero v does not matter.
* an entry of theta: the others are free; s is profiled out.
* fixed effect: its column goes to the offset, which changes the last column of B and C and the
  basis of X, nothing else; the factorization is shared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from sparselmm.base.types import FloatArray
from sparselmm.factor.submodels import mixed_columns
from sparselmm.likelihood.covariance import mixed_theta
from sparselmm.likelihood.deviance import ProfiledDeviance
from sparselmm.likelihood.engine import but, solver_like, with_known
from sparselmm.likelihood.patterned import (
    Autoregressive,
    CompoundSymmetry,
    HeterogeneousAutoregressive,
    Patterned,
)

Kind = Literal["sd", "cor", "sigma", "theta", "beta"]

Objective = Callable[[FloatArray], tuple[float, FloatArray]]
"""Value and gradient of a function."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of the model, on the scale it is profiled on.

    Attributes
    ----------
    kind : {"sd", "cor", "sigma", "theta", "beta"}
    term : int
        Term of a standard deviation or correlation; otherwise -1.
    first, second : int
        Its coefficients; for "theta" and "beta" the position in theta or among the independent
        columns of X.
    """

    name: str
    kind: Kind
    term: int = -1
    first: int = -1
    second: int = -1


@dataclass(frozen=True, eq=False)
class Point:
    """The model with one parameter held at a value.

    Attributes
    ----------
    phi : ndarray
        What was minimized over, the start for the next point.
    psi : list of ndarray, (k, k)
        Covariances of every term, in the units of the data.
    beta : ndarray, (r,)
    """

    value: float
    deviance: float
    phi: FloatArray = field(repr=False)
    psi: list[FloatArray] = field(repr=False)
    sigma: float
    beta: FloatArray = field(repr=False)


class Constrained(Protocol):
    """A deviance with one parameter held fixed, as a function of unconstrained phi."""

    estimate: float
    low: float
    high: float

    def start(self) -> FloatArray:
        """Phi at the estimate."""

    def objective(self, value: float) -> Objective:
        """Deviance and gradient in phi with the parameter at ``value``."""

    def units(self) -> FloatArray:
        """What counts as one in every entry of phi; zero for one that may take any sign."""

    def point(self, value: float, phi: FloatArray, deviance: float) -> Point:
        """The model at the minimum."""


def _with_sigma(
    ml: ProfiledDeviance, theta: FloatArray, log_s: float
) -> tuple[float, FloatArray, float]:
    """``d(theta, s)`` and its derivatives in theta and in log s."""
    if ml.known_scale is not None:  # then s is not free
        return ml.value(theta), ml.gradient(theta), 0.0
    state = ml.state_at(theta)
    ratio = state.pwrss / np.exp(2.0 * log_s)
    n = ml.df
    value = state.deviance - n * (1.0 + np.log(state.pwrss / n)) + n * 2.0 * log_s + ratio
    slope = ml.pwrss_gradient(theta)
    gradient = ml.gradient(theta) + (ratio - n) * slope / state.pwrss
    return float(value), gradient, float(2.0 * (n - ratio))


@dataclass(eq=False)
class _Base:
    """What all constraints share: the ML deviance and its minimum."""

    ml: ProfiledDeviance
    theta: FloatArray
    estimate: float = np.nan
    low: float = -np.inf
    high: float = np.inf

    def units(self) -> FloatArray:
        return np.where(self.ml.covariance.on_diagonal, self.ml.units, 0.0)

    def start(self) -> FloatArray:
        return self.theta

    def _point(
        self, value: float, phi: FloatArray, deviance: float, theta: FloatArray, sigma: float
    ) -> Point:
        psi = self.ml.covariance.psi(theta, sigma**2)
        return Point(value, deviance, phi, psi, sigma, self.ml.at(theta).beta)


class _Sigma(_Base):
    """Residual standard deviation held fixed."""

    def __init__(self, ml: ProfiledDeviance, theta: FloatArray):
        super().__init__(ml, theta, ml.at(theta).sigma, 0.0)

    def objective(self, value: float) -> Objective:
        def f(phi: FloatArray) -> tuple[float, FloatArray]:
            deviance, gradient, _ = _with_sigma(self.ml, phi, np.log(value))
            return deviance, gradient

        return f

    def point(self, value: float, phi: FloatArray, deviance: float) -> Point:
        return self._point(value, phi, deviance, phi, value)


class _Theta(_Base):
    """An entry of theta held fixed."""

    def __init__(self, ml: ProfiledDeviance, theta: FloatArray, index: int):
        low = 0.0 if ml.covariance.on_diagonal[index] else -np.inf
        super().__init__(ml, theta, float(theta[index]), low)
        self.index = index
        self.free = np.arange(len(theta)) != index

    def start(self) -> FloatArray:
        return self.theta[self.free]

    def units(self) -> FloatArray:
        return super().units()[self.free]

    def _full(self, value: float, phi: FloatArray) -> FloatArray:
        theta = np.full(len(self.theta), value)
        theta[self.free] = phi
        return theta

    def objective(self, value: float) -> Objective:
        def f(phi: FloatArray) -> tuple[float, FloatArray]:
            theta = self._full(value, phi)
            return self.ml.value(theta), self.ml.gradient(theta)[self.free]

        return f

    def point(self, value: float, phi: FloatArray, deviance: float) -> Point:
        theta = self._full(value, phi)
        return self._point(value, phi, deviance, theta, self.ml.at(theta).sigma)


class _Ordered(_Base):
    """A constraint on the first coefficients of a term, which is put in that order."""

    def __init__(self, ml: ProfiledDeviance, theta: FloatArray, t: int, leading: list[int]):
        k = ml.covariance.terms[t].k
        self.t, self.order = t, leading + [j for j in range(k) if j not in leading]
        if self.order != list(range(k)):
            P = np.eye(k)[:, self.order]
            theta = mixed_theta(ml.covariance, theta, t, P)
            cross = mixed_columns(ml.cross, t, P)
            ml = but(ml, solver_like(ml, cross), cross=cross, reml=False)
        super().__init__(ml, theta)
        self.at = ml.covariance.slices[t].start

    def _place(self, row: int, col: int) -> int:
        """Position in theta of an entry of ``lambda_t``."""
        term = self.ml.covariance.terms[self.t]
        return self.at + int(np.flatnonzero((term.rows == row) & (term.cols == col))[0])

    def _point(
        self, value: float, phi: FloatArray, deviance: float, theta: FloatArray, sigma: float
    ) -> Point:
        point = super()._point(value, phi, deviance, theta, sigma)
        back = np.argsort(self.order)
        point.psi[self.t] = point.psi[self.t][np.ix_(back, back)]
        return point


class _Sd(_Ordered):
    """A standard deviation held fixed: ``lambda_11 = value / s``."""

    def __init__(self, ml: ProfiledDeviance, theta: FloatArray, t: int, a: int):
        super().__init__(ml, theta, t, [a])
        self.sigma = self.ml.at(self.theta).sigma
        self.first = self._place(0, 0)
        self.estimate, self.low = self.sigma * abs(float(self.theta[self.first])), 0.0

    def start(self) -> FloatArray:
        return np.append(np.delete(self.theta, self.first), np.log(self.sigma))

    def units(self) -> FloatArray:
        return np.append(np.delete(super().units(), self.first), 0.0)

    def _full(self, value: float, phi: FloatArray) -> FloatArray:
        return np.insert(phi[:-1], self.first, value / self._s(phi))

    def _s(self, phi: FloatArray) -> float:
        return self.sigma if self.ml.known_scale is not None else float(np.exp(phi[-1]))

    def objective(self, value: float) -> Objective:
        def f(phi: FloatArray) -> tuple[float, FloatArray]:
            theta = self._full(value, phi)
            deviance, gradient, by_s = _with_sigma(self.ml, theta, float(phi[-1]))
            if self.ml.known_scale is None:
                by_s -= float(gradient[self.first] * theta[self.first])
            return deviance, np.append(np.delete(gradient, self.first), by_s)

        return f

    def point(self, value: float, phi: FloatArray, deviance: float) -> Point:
        return self._point(value, phi, deviance, self._full(value, phi), self._s(phi))


class _Cor(_Ordered):
    """A correlation held fixed: ``lambda_21 = value y, lambda_22 = sqrt(1 - value^2) y``."""

    def __init__(self, ml: ProfiledDeviance, theta: FloatArray, t: int, a: int, b: int):
        super().__init__(ml, theta, t, [a, b])
        lam = self.ml.covariance.factors(self.theta)[t]
        size = float(np.hypot(lam[1, 0], lam[1, 1]))
        self.own, self.cov, self.rest = self._place(0, 0), self._place(1, 0), self._place(1, 1)
        self.low, self.high = -1.0, 1.0
        defined = size > 0 and lam[0, 0] != 0
        self.estimate = float(np.sign(lam[0, 0]) * lam[1, 0] / size) if defined else np.nan
        self.size = size

    def start(self) -> FloatArray:
        phi = self.theta.copy()
        phi[self.own], phi[self.rest] = abs(phi[self.own]), self.size
        return np.delete(phi, self.cov)

    def units(self) -> FloatArray:
        return np.delete(super().units(), self.cov)

    def _full(self, value: float, phi: FloatArray) -> FloatArray:
        theta = np.insert(phi, self.cov, 0.0)
        theta[self.own], y = abs(theta[self.own]), abs(theta[self.rest])
        theta[self.cov], theta[self.rest] = value * y, np.sqrt(max(1.0 - value**2, 0.0)) * y
        return theta

    def objective(self, value: float) -> Objective:
        root = np.sqrt(max(1.0 - value**2, 0.0))

        def f(phi: FloatArray) -> tuple[float, FloatArray]:
            theta = self._full(value, phi)
            gradient = self.ml.gradient(theta)
            gradient[self.rest] = value * gradient[self.cov] + root * gradient[self.rest]
            sign = np.where(phi < 0.0, -1.0, 1.0)
            sides = np.insert(sign, self.cov, 1.0)
            gradient[[self.own, self.rest]] *= sides[[self.own, self.rest]]
            return self.ml.value(theta), np.delete(gradient, self.cov)

        return f

    def point(self, value: float, phi: FloatArray, deviance: float) -> Point:
        theta = self._full(value, phi)
        return self._point(value, phi, deviance, theta, self.ml.at(theta).sigma)


class _Patterned(_Base):
    """A standard deviation or the correlation parameter of a patterned covariance held fixed.

    In coordinates of standard deviations and an angle, which theta is already, but for a common
    variance and correlation: there ``a = tau alpha cos(phi)`` and ``b = tau beta sin(phi)`` (see
    :mod:`sparselmm.likelihood.covariance`).
    """

    def __init__(self, ml: ProfiledDeviance, theta: FloatArray, t: int, a: int, kind: Kind):
        super().__init__(ml, theta)
        self.term, self.part, self.kind = ml.covariance.terms[t], ml.covariance.slices[t], kind
        self.sigma, k = ml.at(theta).sigma, self.term.k
        self.size = np.sqrt(k / (k - 1.0)), np.sqrt(float(k))
        own = self._coordinates(theta[self.part])
        self.place = self.part.start + (len(own) - 1 if kind == "cor" else min(a, len(own) - 1))
        angle = float(own[-1])
        if kind == "sd":
            self.estimate, self.low = (
                self.sigma * abs(float(own[self.place - self.part.start])),
                0.0,
            )
        else:
            defined = np.count_nonzero(own[:-1]) >= min(2, len(own) - 1)
            self.estimate = self._rho(angle) if defined else np.nan
            self.low, self.high = self._rho(-np.pi / 2 if self._lagged else 0.0), 1.0

    @property
    def _lagged(self) -> bool:
        return isinstance(self.term, Autoregressive | HeterogeneousAutoregressive)

    def _rho(self, angle: float) -> float:
        if self._lagged:
            return float(np.sin(angle))
        return float(np.sin(angle) ** 2 - np.cos(angle) ** 2 / (self.term.k - 1))

    def _angle(self, rho: float) -> float:
        k = self.term.k
        sine = rho if self._lagged else np.sqrt(max((rho * (k - 1) + 1.0) / k, 0.0))
        return float(np.arcsin(np.clip(sine, -1.0, 1.0)))

    def _coordinates(self, own: FloatArray) -> FloatArray:
        if not isinstance(self.term, CompoundSymmetry):
            return own
        x, y = own / np.asarray(self.size)
        return np.array([np.hypot(x, y), np.arctan2(abs(y), abs(x))])

    def _theta(self, coordinates: FloatArray) -> FloatArray:
        theta = coordinates.copy()
        if isinstance(self.term, CompoundSymmetry):
            tau, phi = coordinates[self.part]
            theta[self.part] = tau * np.array([np.cos(phi), np.sin(phi)]) * self.size
        return theta

    def _pull(self, coordinates: FloatArray, gradient: FloatArray) -> FloatArray:
        """Gradient in the coordinates from the one in theta."""
        out = gradient.copy()
        if isinstance(self.term, CompoundSymmetry):
            tau, phi = coordinates[self.part]
            x, y = gradient[self.part] * self.size
            turned = tau * (y * np.cos(phi) - x * np.sin(phi))
            out[self.part] = x * np.cos(phi) + y * np.sin(phi), turned
        return out

    def start(self) -> FloatArray:
        all_of = self.theta.copy()
        all_of[self.part] = self._coordinates(self.theta[self.part])
        free = np.delete(all_of, self.place)
        return np.append(free, np.log(self.sigma)) if self.kind == "sd" else free

    def units(self) -> FloatArray:
        units = super().units()
        if isinstance(self.term, CompoundSymmetry):
            units[self.part.stop - 1] = 0.0
        free = np.delete(units, self.place)
        return np.append(free, 0.0) if self.kind == "sd" else free

    def _s(self, phi: FloatArray) -> float:
        free = self.kind == "sd" and self.ml.known_scale is None
        return float(np.exp(phi[-1])) if free else self.sigma

    def _full(self, value: float, phi: FloatArray) -> FloatArray:
        if self.kind == "cor":
            return np.insert(phi, self.place, self._angle(value))
        return np.insert(phi[:-1], self.place, value / self._s(phi))

    def _folded(self, full: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Coordinates with standard deviations above zero, and the signs they had."""
        sign = np.ones(len(full))
        sizes = slice(self.part.start, self.part.stop - 1)
        sign[sizes] = np.where(full[sizes] < 0.0, -1.0, 1.0)
        return sign * full, sign

    def objective(self, value: float) -> Objective:
        def f(phi: FloatArray) -> tuple[float, FloatArray]:
            full, sign = self._folded(self._full(value, phi))
            theta = self._theta(full)
            if self.kind == "cor":
                pulled = sign * self._pull(full, self.ml.gradient(theta))
                return self.ml.value(theta), np.delete(pulled, self.place)
            deviance, gradient, by_s = _with_sigma(self.ml, theta, float(phi[-1]))
            pulled = sign * self._pull(full, gradient)
            full = sign * full
            if self.ml.known_scale is None:
                by_s -= float(pulled[self.place] * full[self.place])
            return deviance, np.append(np.delete(pulled, self.place), by_s)

        return f

    def point(self, value: float, phi: FloatArray, deviance: float) -> Point:
        theta = self._theta(self._folded(self._full(value, phi))[0])
        sigma = self._s(phi) if self.kind == "sd" else self.ml.at(theta).sigma
        return self._point(value, phi, deviance, theta, sigma)


class _Beta(_Base):
    """A fixed effect held fixed."""

    def __init__(self, ml: ProfiledDeviance, theta: FloatArray, index: int):
        super().__init__(ml, theta, float(ml.at(theta).beta[index]))
        self.index, self.solver = index, solver_like(ml)

    def _engine(self, value: float) -> ProfiledDeviance:
        return with_known(self.ml, self.solver, [self.index], np.array([value]))

    def objective(self, value: float) -> Objective:
        engine = self._engine(value)

        def f(phi: FloatArray) -> tuple[float, FloatArray]:
            return engine.value(phi), engine.gradient(phi)

        return f

    def point(self, value: float, phi: FloatArray, deviance: float) -> Point:
        fit = self._engine(value).at(phi)
        psi = self.ml.covariance.psi(phi, fit.scale)
        beta = np.insert(fit.beta, self.index, value)
        return Point(value, deviance, phi, psi, fit.sigma, beta)


def constrained(p: Parameter, ml: ProfiledDeviance, theta: FloatArray) -> Constrained:
    """The ML deviance with a parameter held fixed.

    Parameters
    ----------
    ml : ProfiledDeviance
        Under ML.
    theta : ndarray, (n_theta,)
        Its minimum.
    """
    if p.kind == "sigma":
        return _Sigma(ml, theta)
    if p.kind == "theta":
        return _Theta(ml, theta, p.first)
    if p.kind == "beta":
        return _Beta(ml, theta, p.first)
    if isinstance(ml.covariance.terms[p.term], Patterned):
        return _Patterned(ml, theta, p.term, p.first, p.kind)
    if p.kind == "sd":
        return _Sd(ml, theta, p.term, p.first)
    return _Cor(ml, theta, p.term, p.first, p.second)
