"""Where a search of a generalized model ended, and the evidence that it is an optimum."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from sparselmm.base.types import BoolArray, FloatArray
from sparselmm.likelihood.laplace.deviance import LaplaceDeviance
from sparselmm.likelihood.quadratic import Quadratic
from sparselmm.likelihood.record import SMALLEST_SCALE, Evaluation

FAR = 25.0
"""Logarithm of a dispersion beyond which it is at its limit."""


@dataclass(frozen=True, eq=False)
class Optimum:
    """Where a search ended.

    Attributes
    ----------
    x : ndarray
        Parameters, rectified.
    deviance : float
    gradient : ndarray
        At x.
    hessian : ndarray, (m, m)
        The model Hessian in the coordinates of x.
    at_boundary : ndarray of bool
        Entries of x held at zero because a variance is estimated as zero.
    expected_decrease : float
        What another step could gain, off the boundary.
    converged : bool
    message : str
    n_evaluations, n_starts, n_optima : int
        Evaluations and searches that were made, and how many different ends these had.
    history : tuple of Evaluation
    separation : tuple of str
        Names of the fixed effects along which the likelihood has no maximum.
    """

    x: FloatArray
    deviance: float
    gradient: FloatArray
    hessian: FloatArray
    at_boundary: BoolArray
    expected_decrease: float
    converged: bool
    message: str
    n_evaluations: int
    history: tuple[Evaluation, ...] = field(repr=False)
    n_starts: int = 1
    n_optima: int = 1
    separation: tuple[str, ...] = ()

    @property
    def gradient_norm(self) -> float:
        """Largest entry of the gradient off the boundary."""
        return float(np.abs(self.gradient[~self.at_boundary]).max(initial=0.0))


def certificate(
    deviance: LaplaceDeviance, x: FloatArray
) -> tuple[float, BoolArray, FloatArray, FloatArray]:
    """Expected decrease off the boundary, the boundary, gradient and model Hessian in x."""
    model, inner = deviance.model(x), deviance.parameters.in_tangent
    gradient, hessian = model.gradient[inner], model.hessian[np.ix_(inner, inner)]
    boundary = np.zeros(len(x), dtype=bool)
    covariance = deviance.covariance
    scale = np.ones(len(x))
    for term, part in zip(covariance.terms, covariance.slices, strict=True):
        boundary[part] = term.at_zero(x[part])
        scale[part] = term.sizes(x[part], deviance.units[part], SMALLEST_SCALE)
    for place, sign in deviance.limits():
        near = x[place] * sign > 10.0 and abs(gradient[place]) < 1e-5
        boundary[place] = near or x[place] * sign > FAR
    free = ~boundary
    T = (scale[:, None] * deviance.natural)[np.ix_(free, free)]
    H = T.T @ hessian[np.ix_(free, free)] @ T
    decrease = Quadratic.of(H, gradient[free] @ T).expected_decrease
    return decrease, boundary, gradient, hessian
