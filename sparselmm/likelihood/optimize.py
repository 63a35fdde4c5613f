"""Minimization of the profiled deviance, with every evaluation on record.

The default is a trust-region Newton method (Nocedal & Wright 2006, algorithm 4.1 with the exact
subproblem of section 4.3). Its model Hessian is the average information plus the exact curvature
of ``lambda -> lambda lambda'`` (see :mod:`sparselmm.likelihood.deviance`), one factorization per
iteration. A search that is not over after `PATIENCE` iterations has met a place where the average
information is wrong by a factor: from there on the model is the exact Hessian.

Geometry. The deviance depends on ``lambda_t`` only through ``Psi_t = lambda_t lambda_t'``. A step
therefore moves all k x k entries of the root, across the rotations ``lambda_t K`` (K
skew-symmetric) that leave ``Psi_t`` as it is, and a QR factorization makes the root triangular
again: a step on the quotient of the square roots by the rotations (Vandereycken, Absil & Vandewalle
2013, section 3). In a triangle's own coordinates nearly singular covariances make curved
valleys, because the order of the coefficients decides which entry must turn; here they do not.

Theta is unconstrained: the deviance is even in every column of ``lambda_t``, so a zero
variance is an ordinary stationary point. Whether it is a minimum shows in the derivative
with respect to the variance, which is checked before a zero is accepted.

`minimize` is one search from one start; :mod:`sparselmm.likelihood.multistart` decides when more
are made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import scipy

from sparselmm.base.cholesky import NotPositiveDefiniteError
from sparselmm.base.exceptions import ArgumentError, DataError
from sparselmm.base.smallmatrix import block_diagonal
from sparselmm.base.types import FloatArray
from sparselmm.likelihood.covariance import Covariance
from sparselmm.likelihood.evaluations import Deviance, Joint
from sparselmm.likelihood.quadratic import Quadratic, Radius
from sparselmm.likelihood.record import (
    LOST_DIGITS,
    SMALLEST_SCALE,
    Callback,
    OptSummary,
    Recorder,
    certify,
    in_original,
    lost,
)
from sparselmm.likelihood.zeros import out_of_false_zeros, snapped

TOLERANCE = 1e-9
"""Stop when the Newton step promises less than this decrease of the deviance (absolute: the
deviance is on the scale of chi-square statistics whatever n is)."""

MAX_ITERATIONS = 200

RADIUS = (1.0, 1.0)
"""First and largest trust-region radius, relative to the standard deviations in theta. The largest
grows when step after step ends at it and the model holds, see `Radius`."""

PATIENCE = 15
"""Iterations after which the model Hessian is the exact one."""

EXACT_LIMIT = 40
"""Iterations with the exact Hessian, which costs two gradients per parameter."""

POLISH = 5
"""Iterations that make the end of a quasi-Newton search exact."""

EXACT_PARAMETERS = 100
"""Parameters from which another hundred iterations cost less than one exact Hessian."""

DIFFERENCE = 1e-4
"""Step of the differences of gradients that make it, in the metric of the trust region."""


NEARLY_THERE = 1e-2
"""Promised decrease below which a search whose model holds goes on after its last iteration."""

SECANT_BELOW = 0.5
"""Promised decrease of a step below which its curvature tells of the next ones."""


LIFT = 0.05
"""Start value in place of an exact zero, where the deviance is stationary whatever the data."""


SCIPY_METHODS = {
    "bfgs": "BFGS",
    "lbfgs": "L-BFGS-B",
    "l-bfgs-b": "L-BFGS-B",
    "cg": "CG",
    "nm": "Nelder-Mead",
    "nelder-mead": "Nelder-Mead",
    "powell": "Powell",
    "cobyla": "COBYLA",
    "slsqp": "SLSQP",
    "tnc": "TNC",
    "trust-constr": "trust-constr",
    "basinhopping": "basinhopping",
}
"""Names accepted besides the default, statsmodels' spellings included."""

WITHOUT_GRADIENT = {"Nelder-Mead", "Powell", "COBYLA"}


# --------------------------------------------------------------------------- trust region


def minimize(
    deviance: Deviance,
    start: FloatArray,
    *,
    method: str | None = None,
    max_iterations: int | None = None,
    tolerance: float = TOLERANCE,
    callback: Callback | None = None,
    **options: Any,
) -> OptSummary:
    """Minimize the deviance over theta.

    Parameters
    ----------
    start : ndarray, (n_theta,)
        Start values.
    method : str or None
        None or ``"newton"`` for the trust-region method, or a name of `SCIPY_METHODS`.
    max_iterations : int, optional
    tolerance : float
        Stop when another step promises less decrease of the deviance than this.
    callback : callable, optional
        Called with every :class:`Evaluation`.
    **options
        Passed on to SciPy's method.

    Returns
    -------
    OptSummary

    Raises
    ------
    ValueError
        If the method is unknown.
    DataError
        If the start values have the wrong shape or are not finite.
    """
    start = checked_start(deviance.covariance, start)
    inner, at = deviance.working(start)
    own = getattr(inner, "minimized", None)
    if own is not None and method is None:
        found: OptSummary = own(deviance, start, callback)
        return found
    search = Search.of(inner, method, max_iterations, tolerance, callback, options)
    return in_original(deviance, inner, search.certified(search.run(at)))


@dataclass(frozen=True, eq=False)
class End:
    """Where one search ended.

    Attributes
    ----------
    theta : ndarray, (n_theta,)
    message : str
    finished : bool
        Whether the method says that it converged.
    abandoned : bool
        Whether it was on its way to an optimum that is known, or to one that is higher.
    """

    theta: FloatArray
    message: str
    finished: bool
    abandoned: bool = False


class Known(Protocol):
    """Optima that another search need not find again."""

    def leads_nowhere(self, theta: FloatArray, value: float, promised: float) -> bool:
        """Whether a search that stands at theta, where another step promises so much, can stop."""


@dataclass(frozen=True, eq=False)
class Search:
    """A method with its settings and the record of what it did.

    Attributes
    ----------
    method : str
    max_iterations : int or None
    tolerance : float
    options : dict
        Of SciPy's methods.
    """

    recorder: Recorder
    method: str
    max_iterations: int | None
    tolerance: float
    options: dict[str, Any]

    @staticmethod
    def of(
        deviance: Deviance, method: str | None, max_iterations: int | None, tolerance: float,
        callback: Callback | None, options: dict[str, Any],
    ) -> Search:  # fmt: skip
        """With the method checked."""
        name = "newton" if method is None else method.lower()
        if name != "newton" and name not in SCIPY_METHODS:
            raise ArgumentError(
                f"unknown optimizer {method!r}; use 'newton' (default) or one of "
                f"{sorted(SCIPY_METHODS)}"
            )
        return Search(Recorder(deviance, callback), name, max_iterations, tolerance, options)

    def run(
        self, start: FloatArray, known: Known | None = None, limit: int | None = None
    ) -> End:  # fmt: skip
        """Search from ``start``, with exact zeros where variances vanish."""
        recorder = self.recorder
        covariance: Covariance = recorder.deviance.covariance
        start = checked_start(covariance, start)
        start = np.where(covariance.on_diagonal & (start == 0.0), LIFT * recorder.units, start)
        most = self.max_iterations if limit is None else limit
        if self.method != "newton":
            end = _scipy(recorder, start, SCIPY_METHODS[self.method], most, self.options)
        else:
            most = MAX_ITERATIONS if most is None else most
            end = self._newton_and_more(start, most, known)
            if end.abandoned:
                return end
        theta = _settle_zeros(
            recorder, end.theta, most or MAX_ITERATIONS, self.tolerance, self.method == "newton"
        )
        return End(theta, end.message, end.finished)

    def _newton_and_more(self, start: FloatArray, most: int, known: Known | None) -> End:
        """Newton's method; where it is not over soon, others from where it stands, made exact.

        In long narrow valleys, straight in ``Psi`` and curved in theta, a trust region must be
        small whatever the model; a line search along a direction learnt from gradients need not.
        """
        recorder = self.recorder
        free = self.max_iterations is None and not recorder.deviance.model_is_exact
        few = free and len(start) <= EXACT_PARAMETERS
        best = end = _newton(
            recorder, start, min(most, PATIENCE) if few else most, self.tolerance, known
        )
        if end.finished or end.abandoned or not free or most <= PATIENCE:
            return end
        if lost(recorder.deviance, end.theta):
            return End(end.theta, "stopped: the deviance has lost its digits", False)
        for method in ("L-BFGS-B", "BFGS", None):
            other = (
                best if method is None else _scipy(recorder, end.theta, method, MAX_ITERATIONS, {})
            )
            value = recorder.value(other.theta)
            if not np.isfinite(value):
                continue
            if known is not None and known.leads_nowhere(other.theta, value, np.inf):
                return replace(other, finished=False, abandoned=True)
            limit = POLISH if method else EXACT_LIMIT
            other = _newton(recorder, other.theta, limit, self.tolerance, known, patience=0)
            gain = recorder.value(best.theta) - recorder.value(other.theta)
            lower = gain > self.tolerance
            if other.abandoned or lower or (other.finished and not best.finished and gain > -1e-7):
                best = other
            if best.finished or best.abandoned:
                break
        return best

    def certified(self, end: End) -> OptSummary:
        """The record with the evidence that this end is optimal."""
        return certify(
            self.recorder, end.theta, self.method, end.message, end.finished, self.tolerance
        )


def checked_start(covariance: Covariance, start: FloatArray) -> FloatArray:
    """Start values of the right shape, finite."""
    start = np.asarray(start, dtype=float)
    if start.shape != (covariance.n_theta,):
        raise DataError(
            f"start values of shape {start.shape}; this model has {covariance.n_theta} entries "
            "of theta (the lower triangles of the relative covariance factors, by columns)"
        )
    if not np.isfinite(start).all():
        raise DataError(f"start values must be finite, not {start}")
    return start


def _newton(
    recorder: Recorder, start: FloatArray, limit: int, tolerance: float,
    known: Known | None = None, patience: int = PATIENCE,
) -> End:  # fmt: skip
    """Trust-region iterations from ``start``, with the exact Hessian after some of them."""
    deviance, radius = recorder.deviance, Radius(*RADIUS)
    theta, value = _finite(recorder, start)
    gradient, model = deviance.tangent_model(theta)
    recorder.record(theta, value, gradient_norm=_size(deviance, gradient))
    excess: list[float] = []
    bent: Quadratic | None = None  # at theta by the exact Hessian, once it was asked for
    secant = isinstance(deviance, Joint)
    ratio = np.nan
    for iteration in range(2 * limit):
        basis = _basis(recorder, theta, gradient)
        slope, bend = basis.T @ gradient, basis.T @ model @ basis
        local = Quadratic.of(bend, slope)
        promised = local.expected_decrease
        if promised < tolerance:
            return End(theta, "converged: another step gains less than the tolerance", True)
        if known is not None and iteration and known.leads_nowhere(theta, value, promised):
            return End(theta, "abandoned: an optimum that is known or higher", False, True)
        if iteration >= limit and not (promised < NEARLY_THERE and 0.5 < ratio < 1.5):
            break
        exact = patience <= iteration < min(patience + EXACT_LIMIT, limit)
        exact = exact and not deviance.model_is_exact
        exact = exact and basis.shape[1] <= EXACT_PARAMETERS
        if exact:
            bent = bent or Quadratic.of(exact_bend(recorder, theta, basis, bend), slope)
            local = bent
        step, predicted = local.step(radius.now)
        if not math.isfinite(predicted):
            return End(theta, "stopped: the gradient is too large to be followed", False)
        within = math.sqrt(step @ step) < 0.99 * radius.now
        stretch = _stretch(excess) if within and not exact and not secant else 1.0
        step, predicted = stretch * step, stretch * (2.0 - stretch) * predicted
        length = math.sqrt(step @ step)
        trial = deviance.covariance.retract(theta, basis @ step)
        trial_value = recorder.value(trial)
        ratio = (value - trial_value) / predicted if predicted > 0 else -np.inf  # digits lost
        good = ratio > 1e-4 or abs(value - trial_value) < 1e-12 * abs(value)
        details = {"step": length, "ratio": ratio, "radius": radius.now, "accepted": good}
        radius.update(ratio, length)
        if not good:
            recorder.record(trial, trial_value, **details)
            if length < 1e-10 or (
                promised < LOST_DIGITS and promised < 10.0 * deviance.rounding(theta)
            ):
                return End(theta, "stopped: no decrease within rounding", True)
            continue
        excess.append(1.0 - (2.0 - ratio * (2.0 - stretch)) / stretch if within else np.nan)
        before = gradient
        gradient, model = deviance.tangent_model(trial)
        if secant and predicted < SECANT_BELOW:
            model = _along_last(model, basis @ step, gradient - before)
        theta, value, bent = trial, trial_value, None
        recorder.record(theta, value, gradient_norm=_size(deviance, gradient), **details)
    return End(theta, f"stopped: no convergence in {limit} iterations", False)


def _finite(recorder: Recorder, start: FloatArray) -> tuple[FloatArray, float]:
    """The start, made smaller until the deviance exists, and the deviance there."""
    theta = np.array(start, dtype=float)
    value = recorder.value(theta)
    while not np.isfinite(value) and np.abs(theta).max() > 1e-3:
        theta, value = theta / 4.0, recorder.value(theta / 4.0)
    return theta, value


def exact_bend(
    recorder: Recorder, theta: FloatArray, basis: FloatArray, model: FloatArray
) -> FloatArray:
    """Hessian along the columns of ``basis`` by central differences of the exact gradient.

    The ``model`` Hessian remains where the deviance next to theta cannot be computed.
    """
    deviance = recorder.deviance

    def gradient(step: FloatArray) -> FloatArray:
        there = deviance.covariance.retract(theta, step)
        slope = deviance.tangent_gradient(there)
        recorder.record(there, deviance.value(there), accepted=False)
        return deviance.covariance.carried_back(theta, step, there, slope)

    out = np.empty((basis.shape[1], basis.shape[1]))
    try:
        for i, column in enumerate(DIFFERENCE * basis.T):
            out[i] = basis.T @ (gradient(column) - gradient(-column)) / (2.0 * DIFFERENCE)
    except NotPositiveDefiniteError:
        return model
    return 0.5 * (out + out.T)


def _stretch(excess: Sequence[float]) -> float:
    """Factor for a Newton step from the steps before it.

    ``excess`` are the shares by which the curvature along each of the last steps fell short of
    the model's. When two steps agree, one direction is left in which the model is wrong, each
    step leaves that share of the distance to go, and the series of steps is summed (Aitken's
    extrapolation).
    """
    if len(excess) < 2 or not abs(excess[-1] - excess[-2]) < 0.5 * abs(excess[-1]):
        return 1.0
    return 1.0 / (1.0 - min(max(excess[-1], -0.3), 0.3))


def _along_last(model: FloatArray, step: FloatArray, change: FloatArray) -> FloatArray:
    """The model Hessian with its curvature along the last step scaled to what was met there."""
    H = model @ step
    size = float(step @ H)
    if not size > 0:
        return model
    scale = min(max(float(change @ step) / size, 0.3), 4.0)
    return model + (scale - 1.0) / size * np.outer(H, H)


def _size(deviance: Deviance, gradient: FloatArray) -> float:
    """Largest entry of the gradient in theta."""
    return float(np.abs(gradient[deviance.covariance.in_tangent]).max(initial=0.0))


def _basis(recorder: Recorder, theta: FloatArray, gradient: FloatArray) -> FloatArray:
    """Tangent vectors that change ``Psi``, orthonormal in the metric of the trust region.

    A step ``C X`` has the length of X, with ``C C'`` the present covariance plus a share of what
    counts as one: neither units nor origins of the covariates matter. Rotating the columns of
    ``lambda_t`` changes nothing: the directions ``lambda_t K`` with K skew-symmetric are left out.

    Returns
    -------
    ndarray, (m, n_theta)
        More columns than n_theta only where ``lambda_t`` has lost two ranks.
    """
    covariance: Covariance = recorder.deviance.covariance
    roots = recorder.deviance.unit_roots
    blocks = [
        term.steps(theta[part], unit, SMALLEST_SCALE, gradient[at])
        for term, part, at, unit in zip(
            covariance.terms, covariance.slices, covariance.tangent_slices, roots, strict=True
        )
    ]
    return block_diagonal(blocks)


# ------------------------------------------------------------------------ SciPy's methods


def _scipy(
    recorder: Recorder,
    start: FloatArray,
    method: str,
    limit: int | None,
    options: dict[str, Any],
) -> End:
    """One of SciPy's minimizers on the same deviance, with theta in its units."""
    units = np.asarray(recorder.units)

    def objective(z: FloatArray) -> float:
        value = recorder.value(z * units)
        recorder.record(z * units, value)
        return value if np.isfinite(value) else 1e300

    def slope(z: FloatArray) -> FloatArray:
        return recorder.gradient(z * units) * units

    arguments: dict[str, Any] = {} if method in WITHOUT_GRADIENT else {"jac": slope}
    if limit is not None:
        options = {**options, "maxiter": limit}
    if method == "basinhopping":
        result = scipy.optimize.basinhopping(
            objective, start / units, niter=limit or 10, rng=0,
            minimizer_kwargs={"method": "L-BFGS-B", "jac": slope},
        )  # fmt: skip
        fine = bool(result.lowest_optimization_result.success)
        return End(units * result.x, str(result.message), fine)
    start = start / units
    result = scipy.optimize.minimize(objective, start, method=method, options=options, **arguments)
    return End(units * result.x, str(result.message), bool(result.success))


# ------------------------------------------------------------------------------- boundary


def _settle_zeros(
    recorder: Recorder, theta: FloatArray, limit: int, tolerance: float, polish: bool
) -> FloatArray:
    """Rectify, put variances that vanish at exactly zero, and leave false zeros again."""
    covariance: Covariance = recorder.deviance.covariance
    for _ in range(3):
        theta = covariance.rectify(theta)
        settled = snapped(covariance, theta, recorder.units)
        if (settled == theta).all():
            return theta
        value, at_zero = recorder.value(theta), recorder.value(settled)
        recorder.record(settled, at_zero, accepted=at_zero <= value + tolerance)
        if at_zero > value + tolerance:
            return theta
        restart = out_of_false_zeros(recorder, covariance, settled)
        if np.array_equal(restart, settled) or not polish:
            return settled
        theta = _newton(recorder, restart, limit, tolerance).theta
    return covariance.rectify(theta)
