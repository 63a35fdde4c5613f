"""The parameters of a generalized model in one vector, and what is known at one of its values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np

from sparselmm.base.types import FloatArray
from sparselmm.likelihood.covariance import Covariance
from sparselmm.likelihood.laplace.modes import Mode


@dataclass(frozen=True, eq=False)
class Parameters:
    """Where theta, gamma and phi stand in a vector, and how steps move it.

    Attributes
    ----------
    r, n_phi : int
        Numbers of fixed effects and of coefficients of further predictors.
    """

    covariance: Covariance
    r: int
    n_phi: int

    def split(self, x: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """``theta, gamma, phi``."""
        a = self.covariance.n_theta
        return x[:a], x[a : a + self.r], x[a + self.r :]

    def steps(self, step: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """The same of a vector in tangent coordinates."""
        a = self.covariance.n_tangent
        return step[:a], step[a : a + self.r], step[a + self.r :]

    def retract(self, x: FloatArray, step: FloatArray) -> FloatArray:
        """Parameters after a step."""
        theta, gamma, phi = self.split(x)
        a, b, c = self.steps(step)
        return np.concatenate([self.covariance.retract(theta, a), gamma + b, phi + c])

    @cached_property
    def in_tangent(self) -> FloatArray:
        """Which tangent coordinates are the parameters themselves."""
        rest = self.covariance.n_tangent + np.arange(self.r + self.n_phi)
        return np.concatenate([self.covariance.in_tangent, rest]).astype(int)

    def rectify(self, x: FloatArray) -> FloatArray:
        """Non-negative diagonals of every ``lambda_t``."""
        a = self.covariance.n_theta
        return np.concatenate([self.covariance.rectify(x[:a]), x[a:]])

    def __len__(self) -> int:
        return self.covariance.n_theta + self.r + self.n_phi


@dataclass(frozen=True, eq=False)
class Point:
    """The last evaluation.

    Attributes
    ----------
    x : ndarray
    lams : list of ndarray, (k, k)
    value : float
        Deviance.
    near : float
        How near the mode is: half its squared decrement.
    """

    x: FloatArray
    lams: list[FloatArray]
    mode: Mode
    value: float
    near: float


@dataclass(frozen=True, eq=False)
class Model:
    """Quadratic model of the deviance at a point, in tangent coordinates.

    Attributes
    ----------
    gradient : ndarray, (m,)
    hessian : ndarray, (m, m)
    S : ndarray, (r, r)
        Information of the fixed effects, random effects accounted for.
    """

    gradient: FloatArray
    hessian: FloatArray
    S: FloatArray


P = ParamSpec("P")
T = TypeVar("T")


def alone(method: Callable[Concatenate[Any, P], T]) -> Callable[Concatenate[Any, P], T]:
    """The method under the lock of its deviance, whose factor and rows are one evaluation's."""

    @wraps(method)
    def locked(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with self.lock:
            return method(self, *args, **kwargs)

    return locked
