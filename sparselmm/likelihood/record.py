"""What a search leaves: its evaluations, its end, and the evidence that this is a minimum."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from sparselmm.base.cholesky import NotPositiveDefiniteError
from sparselmm.base.grid import pairs_html, pairs_text
from sparselmm.base.providers import provider
from sparselmm.base.types import BoolArray, FloatArray
from sparselmm.likelihood.covariance import Covariance
from sparselmm.likelihood.evaluations import Deviance
from sparselmm.likelihood.quadratic import Quadratic

LOST_DIGITS = 1e-4
"""Rounding error of the deviance above which its minimum is not known."""

REPRODUCES = 1e6
"""Standard deviation of a random effect, in those of the residuals, above which these are rounding:
fixed and random effects reproduce the response."""

SMALLEST_SCALE = 0.1
"""Standard deviations below this share of sigma do not shrink the trust region further."""


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of the deviance.

    Attributes
    ----------
    theta : ndarray, (n_theta,)
    deviance : float
        ``inf`` where the factorization failed.
    gradient_norm : float
        Largest absolute entry of the gradient; NaN where it was not computed.
    step : float
        Length of the step that led here, in theta.
    ratio : float
        Actual over predicted decrease; NaN where no model predicted one.
    radius : float
        Trust-region radius of that step; NaN for SciPy's methods.
    accepted : bool
    seconds : float
        Time since the start of the optimization.
    search : int
        0 for the search from the first start, 1, 2, ... for those from other ones.
    """

    theta: FloatArray
    deviance: float
    gradient_norm: float = np.nan
    step: float = np.nan
    ratio: float = np.nan
    radius: float = np.nan
    accepted: bool = True
    seconds: float = 0.0
    search: int = 0


@dataclass(frozen=True, eq=False)
class OptSummary:
    """How the optimum was found, and the evidence that it is one.

    Attributes
    ----------
    theta : ndarray, (n_theta,)
        Rectified: diagonals of every ``lambda_t`` are non-negative.
    deviance : float
    gradient : ndarray, (n_theta,)
        At ``theta``.
    hessian : ndarray, (n_theta, n_theta)
        The model Hessian of the last iteration.
    at_boundary : ndarray of bool, (n_theta,)
        Entries of theta held at zero because a variance is estimated as zero.
    expected_decrease : float
        ``g' H^-1 g / 2`` off the boundary: how much deviance another step could gain.
    smallest_eigenvalue : float
        Of the Hessian off the boundary, with theta in units of its standard deviations.
    method, message : str
    converged : bool
    n_evaluations : int
        Factorizations of all searches, starts and boundary checks included; those of the first one
        are the entries of ``history`` with ``search == 0``.
    history : tuple of Evaluation
    n_starts : int
        Searches that were made, each from a start of its own.
    n_optima : int
        Different ends they had. With more than one the deviance has several local minima (``theta``
        is at the lowest).
    rounding : float
        Estimate of the rounding error of ``deviance``.
    unidentified : str
        Which variances the data cannot tell apart, in a sentence; empty when there are none.
    mc_error : float
        Largest Monte Carlo error of theta in standard errors, where its traces were estimated; 0
        where ``deviance`` and ``gradient`` are exact.
    mc_deviance : float
        Standard error that the probes leave in ``deviance``.
    probes : int
        Random probes of every group of trailing columns; 0 where nothing was estimated.
    """

    theta: FloatArray
    deviance: float
    gradient: FloatArray
    hessian: FloatArray
    at_boundary: BoolArray
    expected_decrease: float
    smallest_eigenvalue: float
    method: str
    message: str
    converged: bool
    n_evaluations: int
    history: tuple[Evaluation, ...] = field(repr=False)
    n_starts: int = 1
    n_optima: int = 1
    rounding: float = 0.0
    unidentified: str = ""
    mc_error: float = 0.0
    mc_deviance: float = 0.0
    probes: int = 0

    @property
    def gradient_norm(self) -> float:
        """Largest absolute entry of the gradient off the boundary."""
        inner = self.gradient[~self.at_boundary]
        return float(np.abs(inner).max()) if len(inner) else 0.0

    @property
    def _pairs(self) -> list[tuple[str, str]]:
        held, why = int(self.at_boundary.sum()), self.message.removeprefix("converged: ")
        return [
            ("converged", f"{'yes' if self.converged else 'NO'}; {why}"),
            ("method", self.method), ("deviance", f"{self.deviance:.6f}"),
            ("theta", np.array2string(self.theta, precision=5, threshold=8)),
            ("held at zero", f"{held} of {len(self.theta)}"),
            ("evaluations", f"{self.n_evaluations}"),
            ("starts", f"{self.n_starts}, with {self.n_optima} different ends"),
            ("largest gradient entry", f"{self.gradient_norm:.2g}"),
            ("another step would gain", f"{self.expected_decrease:.1g}"),
            ("smallest eigenvalue of the Hessian", f"{self.smallest_eigenvalue:.3g}"),
            ("sparse factors by", str(provider())),
            *([("not identified", self.unidentified)] if self.unidentified else []),
        ]  # fmt: skip

    def __repr__(self) -> str:
        return pairs_text(self._pairs, "OptSummary")

    def _repr_html_(self) -> str:
        return pairs_html(self._pairs, "Search of the optimum")


Callback = Callable[[Evaluation], None]


class Recorder:
    """Evaluates the deviance and keeps the record of it."""

    def __init__(self, deviance: Deviance, callback: Callback | None):
        self.deviance = deviance
        self.units = deviance.units
        self.callback = callback
        self.history: list[Evaluation] = []
        self.search = 0
        self._start = time.perf_counter()

    def value(self, theta: FloatArray) -> float:
        """Deviance, ``inf`` where the factorization fails."""
        try:
            return self.deviance.value(theta)
        except NotPositiveDefiniteError:
            return np.inf

    def gradient(self, theta: FloatArray) -> FloatArray:
        """Gradient in theta, zero where the factorization fails."""
        try:
            return self.deviance.gradient(theta)
        except NotPositiveDefiniteError:
            return np.zeros(len(theta))

    def record(self, theta: FloatArray, deviance: float, **details: Any) -> None:
        """Add an :class:`Evaluation` to the history and tell the callback."""
        entry = Evaluation(
            theta.copy(), deviance, seconds=time.perf_counter() - self._start,
            search=self.search, **details,
        )  # fmt: skip
        self.history.append(entry)
        if self.callback is not None:
            self.callback(entry)


def certify(
    recorder: Recorder,
    theta: FloatArray,
    method: str,
    message: str,
    finished: bool,
    tolerance: float,
) -> OptSummary:
    """The record of an optimization that ended at theta, with the evidence that it is optimal."""
    deviance = recorder.deviance
    value, gradient = recorder.value(theta), recorder.gradient(theta)
    hessian, rounding = deviance.newton_matrix(theta), deviance.rounding(theta)
    found = Point(theta, value, gradient, hessian, rounding)
    return evidence(recorder, found, method, message, finished, tolerance)


@dataclass(frozen=True, eq=False)
class Point:
    """What is known of the deviance at one theta.

    Attributes
    ----------
    theta, gradient : ndarray, (n_theta,)
    value, rounding : float
        The deviance, and its rounding error.
    hessian : ndarray, (n_theta, n_theta)
    """

    theta: FloatArray
    value: float
    gradient: FloatArray
    hessian: FloatArray
    rounding: float


def evidence(
    recorder: Recorder, point: Point, method: str, message: str, finished: bool, tolerance: float
) -> OptSummary:
    """The record of an optimization that ended at a point, judged by what is known there."""
    covariance: Covariance = recorder.deviance.covariance
    theta, rounding = point.theta, point.rounding
    boundary = covariance.at_zero(theta)
    scale = covariance.sizes(theta, recorder.units, SMALLEST_SCALE)
    H, slope = point.hessian * (scale[:, None] * scale), point.gradient * scale
    if boundary.any():
        H, slope = H[~boundary][:, ~boundary], slope[~boundary]
    local = Quadratic.of(H, slope)
    decrease = local.expected_decrease
    lowest = float(local.values[0]) if len(local.values) else np.nan
    good = finished and decrease < max(1e-4, 10.0 * tolerance)
    if finished and not good:
        message += f"; but another step promises to lower the deviance by {decrease:.2g}"
    if not rounding < LOST_DIGITS:
        good = False
        message += (
            f"; but the deviance is only known to about {rounding:.1g}: the criterion lost its "
            "digits, or the likelihood is unbounded"
        )
    if not good:  # a search may end well and its end be no minimum
        message = message.removeprefix("converged: ")
    return OptSummary(
        theta=theta, deviance=point.value, gradient=point.gradient, hessian=point.hessian,
        at_boundary=boundary, expected_decrease=decrease, smallest_eigenvalue=lowest,
        method=method, message=message, converged=good, n_evaluations=len(recorder.history),
        history=tuple(recorder.history), rounding=rounding,
    )  # fmt: skip


def in_original(deviance: Deviance, inner: Deviance, found: OptSummary) -> OptSummary:
    """The record of a search in the engine's coordinates, in those of the model."""
    if inner is deviance:
        return found
    theta = deviance.original(found.theta)
    history = [replace(one, theta=deviance.original(one.theta)) for one in found.history]
    gradient, hessian = deviance.gradient(theta), deviance.newton_matrix(theta)
    return replace(found, theta=theta, gradient=gradient, hessian=hessian, history=tuple(history))


def lost(deviance: Deviance, theta: FloatArray) -> bool:
    """Whether rounding hides where the deviance is lowest, so that no search can tell."""
    return not deviance.rounding(theta) < LOST_DIGITS


def reproducing(theta: FloatArray, units: FloatArray, ratio: float = REPRODUCES) -> BoolArray:
    """Entries of theta that say that nothing but rounding is left as a residual."""
    return np.abs(theta) > ratio * np.asarray(units)
