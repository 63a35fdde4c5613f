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
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import scipy

from sparselmm.base.cholesky import NotPositiveDefiniteError
from sparselmm.base.exceptions import ArgumentError, DataError
from sparselmm.base.grid import pairs_html, pairs_text
from sparselmm.base.providers import provider
from sparselmm.base.smallmatrix import block_diagonal
from sparselmm.base.types import BoolArray, FloatArray
from sparselmm.likelihood.covariance import Covariance
from sparselmm.likelihood.evaluations import Deviance, Joint
from sparselmm.likelihood.quadratic import Quadratic, Radius
from sparselmm.likelihood.term_covariance import TermCovariance

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

LOST_DIGITS = 1e-4
"""Rounding error of the deviance above which its minimum is not known."""

REPRODUCES = 1e6
"""Standard deviation of a random effect, in those of the residuals, above which these are rounding:
fixed and random effects reproduce the response."""

NEARLY_THERE = 1e-2
"""Promised decrease below which a search whose model holds goes on after its last iteration."""

SECANT_BELOW = 0.5
"""Promised decrease of a step below which its curvature tells of the next ones."""

SMALLEST_SCALE = 0.1
"""Standard deviations below this share of sigma do not shrink the trust region further."""

SNAP = 1e-3
"""A diagonal of lambda_t below this is tried as exactly zero."""

LIFT = 0.05
"""Start value in place of an exact zero, where the deviance is stationary whatever the data."""

RESTART = 0.3
"""Value of theta from which a variance that was falsely zero starts again."""

PROBE = 1e-3
"""Value of theta at which the derivative in the variance is read next to a zero."""

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
        return replace(end, theta=theta)

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


def in_original(deviance: Deviance, inner: Deviance, found: OptSummary) -> OptSummary:
    """The record of a search in the engine's coordinates, in those of the model."""
    if inner is deviance:
        return found
    theta = deviance.original(found.theta)
    history = [replace(one, theta=deviance.original(one.theta)) for one in found.history]
    gradient, hessian = deviance.gradient(theta), deviance.newton_matrix(theta)
    return replace(found, theta=theta, gradient=gradient, hessian=hessian, history=tuple(history))


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
            local = Quadratic.of(exact_bend(recorder, theta, basis, bend), slope)
        step, predicted = local.step(radius.now)
        if not np.isfinite(predicted):
            return End(theta, "stopped: the gradient is too large to be followed", False)
        within = math.sqrt(step @ step) < 0.99 * radius.now
        stretch = _stretch(excess) if within and not exact and not secant else 1.0
        step, predicted = stretch * step, stretch * (2.0 - stretch) * predicted
        length = math.sqrt(step @ step)
        trial = deviance.covariance.retract(theta, basis @ step)
        trial_value = recorder.value(trial)
        ratio = (value - trial_value) / predicted
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
        theta, value = trial, trial_value
        recorder.record(theta, value, gradient_norm=_size(deviance, gradient), **details)
    return End(theta, f"stopped: no convergence in {limit} iterations", False)


def lost(deviance: Deviance, theta: FloatArray) -> bool:
    """Whether rounding hides where the deviance is lowest, so that no search can tell."""
    return not deviance.rounding(theta) < LOST_DIGITS


def reproducing(
    theta: FloatArray, units: FloatArray, ratio: float = REPRODUCES
) -> BoolArray:  # fmt: skip
    """Entries of theta that say that nothing but rounding is left as a residual."""
    return np.abs(theta) > ratio * np.asarray(units)


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
        snapped = _snapped(covariance, theta, recorder.units)
        if np.array_equal(snapped, theta):
            return theta
        value, at_zero = recorder.value(theta), recorder.value(snapped)
        recorder.record(snapped, at_zero, accepted=at_zero <= value + tolerance)
        if at_zero > value + tolerance:
            return theta
        restart = _out_of_false_zeros(recorder, covariance, snapped)
        if np.array_equal(restart, snapped) or not polish:
            return snapped
        theta = _newton(recorder, restart, limit, tolerance).theta
    return covariance.rectify(theta)


def _snapped(covariance: Covariance, theta: FloatArray, units: FloatArray) -> FloatArray:
    """Theta with the columns of ``lambda_t`` that are all below `SNAP` set to zero."""
    out = theta.copy()
    for term, part in zip(covariance.terms, covariance.slices, strict=True):
        out[part] = term.snapped(theta[part], units[part], SNAP)
    return out


def _out_of_false_zeros(
    recorder: Recorder, covariance: Covariance, theta: FloatArray
) -> FloatArray:  # fmt: skip
    """Theta with variances in place of zeros where the deviance falls with them, (n_theta,)."""
    zeros = covariance.on_diagonal & (theta == 0.0)
    probe = np.where(zeros, PROBE * recorder.units, theta)
    value = recorder.value(probe)
    slope = recorder.gradient(probe)
    recorder.record(probe, value, gradient_norm=float(np.abs(slope).max()), accepted=False)
    out = np.where(zeros & (slope < 0.0), RESTART * recorder.units, theta)
    for term, part in zip(covariance.terms, covariance.slices, strict=True):
        if term.is_unstructured and zeros[part].sum() > 1:
            out[part] = _out_of_rank(term, theta[part], slope[part], recorder.units[part])
    return out


def _out_of_rank(
    term: TermCovariance, theta: FloatArray, slope: FloatArray, units: FloatArray
) -> FloatArray:
    """Theta of one term with more rank, in the directions in which the deviance falls.

    With a small e in the diagonal of the columns of zeros, the derivative there is ``2 e G``, G
    being that in ``Psi_t``. Psi_t is at a minimum when the rows and columns of G that belong to
    these have no negative eigenvalue: every diagonal entry may be positive and yet not the matrix.
    """
    at = term.rows[term.on_diagonal & term.at_zero(theta)]
    G, size = np.zeros((term.k, term.k)), units[term.on_diagonal]
    G[term.rows, term.cols] = slope * units
    G = (G + np.tril(G, -1).T)[np.ix_(at, at)]
    values, vectors = np.linalg.eigh(G)
    falls = vectors[:, values < -1e-9 * np.abs(values).max(initial=0.0)]
    more = np.zeros((term.k, falls.shape[1]))
    more[at] = RESTART * size[at, None] * falls
    return term.retract(np.hstack([term.factor(theta), more])) if falls.size else theta


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
    inner = ~boundary
    scale = covariance.sizes(theta, recorder.units, SMALLEST_SCALE)
    H = (point.hessian * (scale[:, None] * scale))[inner][:, inner]
    local = Quadratic.of(H, (point.gradient * scale)[inner])
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
