"""One evaluation of a deviance: what it keeps and what it says of the model."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from sparselmm.base.smallmatrix import upper_inverse
from sparselmm.base.types import FloatArray
from sparselmm.likelihood.covariance import Covariance


@dataclass(frozen=True, eq=False)
class PLSFit:
    """The penalized least-squares solution at one theta: the model as it stands there.

    Attributes
    ----------
    theta : ndarray, (n_theta,)
    beta : ndarray, (r,)
        Fixed effects of the independent columns of X, in the units of X and y.
    vcov_unscaled : ndarray, (r, r)
        ``(X'V^-1X)^-1``; times ``sigma**2`` it is the covariance of ``beta``.
    u, b : ndarray, (q,)
        Conditional modes of the spherical and of the original random effects.
    ldL2, ldRX2 : float
        ``log det M`` and ``log det X'V^-1X``.
    pwrss : float
        Penalized weighted residual sum of squares.
    deviance : float
        -2 log-likelihood, or the REML criterion.
    df : int
        ``n - r`` (REML) or ``n`` (ML).
    reml : bool
    known_scale : float or None
        Residual variance, where it was given and not estimated.
    root : ndarray, (r, r), or None
        Whose product with its transpose is ``vcov_unscaled``, which holds half its digits.
    """

    theta: FloatArray
    beta: FloatArray
    vcov_unscaled: FloatArray
    u: FloatArray
    b: FloatArray
    ldL2: float
    ldRX2: float
    pwrss: float
    deviance: float
    df: int
    reml: bool
    known_scale: float | None = None
    root: FloatArray | None = None

    @property
    def scale(self) -> float:
        """Residual variance ``sigma**2``: ``pwrss / df`` unless it is known."""
        return self.pwrss / self.df if self.known_scale is None else self.known_scale

    @property
    def sigma(self) -> float:
        """Residual standard deviation."""
        return float(np.sqrt(self.scale))


class Deviance(Protocol):
    """What the sparse engine and its dense twin have in common."""

    @property
    def covariance(self) -> Covariance:
        """Map from theta to Lambda."""

    @property
    def units(self) -> FloatArray:
        """What counts as one in each entry of theta, (n_theta,)."""

    @property
    def unit_roots(self) -> list[FloatArray]:
        """What counts as one in each ``lambda_t``, see `Covariance.unit_roots`."""

    def value(self, theta: FloatArray) -> float:
        """Deviance."""

    def gradient(self, theta: FloatArray) -> FloatArray:
        """Its derivative in theta, (n_theta,)."""

    def tangent_model(self, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Gradient and model Hessian in all entries of every ``lambda_t``."""

    def tangent_gradient(self, theta: FloatArray) -> FloatArray:
        """The gradient of `tangent_model` alone."""

    @property
    def model_is_exact(self) -> bool:
        """Whether the model Hessian is the Hessian itself."""

    @property
    def df(self) -> int:
        """Rows, less the fixed effects for REML."""

    @property
    def levels(self) -> list[int]:
        """Number of levels of every term."""

    def rounding(self, theta: FloatArray) -> float:
        """Estimate of the rounding error of `value`."""

    def newton_matrix(self, theta: FloatArray) -> FloatArray:
        """The model Hessian in theta, (n_theta, n_theta)."""

    def at(self, theta: FloatArray) -> PLSFit:
        """The model as it stands at theta."""

    def working(self, theta: FloatArray) -> tuple[Deviance, FloatArray]:
        """The deviance and theta in the coordinates the engine works in."""

    def original(self, inner: FloatArray) -> FloatArray:
        """Theta of the model from that of `working`."""


class Joint(ABC):
    """A deviance of more than the covariances of random effects.

    Its model Hessian leaves something out, which the search learns along its last step, and it
    knows itself where several minima are likely.
    """

    patience: float = 1.0
    """How much longer than those of other models searches from other starts may take."""

    @abstractmethod
    def doubtful(self, x: FloatArray) -> bool:
        """Whether there may be a lower minimum than the end of a search at x."""

    @abstractmethod
    def starting_points(self, end: FloatArray, drawn: int | None) -> Iterator[FloatArray]:
        """Where further searches start, the most promising ones first, then so many random ones."""


@dataclass(frozen=True, eq=False)
class Projected:
    """The part of an evaluation that is linear algebra with M.

    Attributes
    ----------
    K : ndarray, (q, r + 1)
        ``M^-1 Lambda'B``.
    solved : ndarray, (q, r + 1)
        What M was solved for: K, or what predictions leave of it.
    S : ndarray, (r + 1, r + 1)
    sizes : ndarray, (r + 1,)
        What the diagonal of S is the difference of.
    """

    K: FloatArray
    solved: FloatArray
    S: FloatArray
    sizes: FloatArray


@dataclass(frozen=True, eq=False)
class State:
    """Everything the value needed, kept for the gradient at the same theta.

    Attributes
    ----------
    theta : ndarray, (n_theta,)
    lams : list of ndarray, (k, k)
    Rxx : ndarray, (r, r)
        Upper Cholesky factor of ``S_xx``.
    gamma : ndarray, (r,)
        Fixed effects in the working basis.
    ldM, pwrss, deviance : float
    """

    theta: FloatArray
    lams: list[FloatArray]
    found: Projected
    Rxx: FloatArray
    gamma: FloatArray
    ldM: float
    pwrss: float
    deviance: float

    @property
    def K(self) -> FloatArray:
        """``M^-1 Lambda'B``, (q, r + 1)."""
        return self.found.K

    @cached_property
    def residual(self) -> FloatArray:
        """``(-gamma, 1)``: what turns columns [Q, y] into residuals."""
        out = np.empty(len(self.gamma) + 1)
        np.negative(self.gamma, out=out[:-1])
        out[-1] = 1.0
        return out

    @cached_property
    def u(self) -> FloatArray:
        """Conditional modes of the spherical random effects, (q,)."""
        return self.K @ self.residual

    @cached_property
    def inverse_root(self) -> FloatArray:
        """``Rxx^-1``, upper triangular, whose product with its transpose is ``S_xx^-1``, (r, r)."""
        return upper_inverse(self.Rxx)

    @cached_property
    def Kx(self) -> FloatArray:
        """``K_x S_xx^-1/2``, (q, r)."""
        return self.K[:, :-1] @ self.inverse_root


def residual_part(pwrss: float, df: int, known_scale: float | None) -> float:
    """``df log(2 pi sigma^2) + pwrss / sigma^2`` at the estimate of sigma^2, or at its value."""
    if known_scale is None:
        return float(df * (1.0 + math.log(2.0 * math.pi * pwrss / df)))
    return float(df * math.log(2.0 * math.pi * known_scale) + pwrss / known_scale)
