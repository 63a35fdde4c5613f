"""Newton's method on the gradient that fixed probes give.

There is no value to compare: trace and quadrature estimates do not fit each other exactly. A step
s from theta is judged by the mean of the slopes at both ends, ``-(g(theta) + g(theta + s))'s / 2``,
which fits the gradient. At the end, with C the covariance that the probes leave in the gradient and
H the Hessian, the zero of the gradient is off the minimum by ``cov = H^-1 C H^-1``, against
``2 H^-1`` of theta itself: delta, the largest generalized standard deviation of the one in units of
the other, is brought below the tolerance by more vectors in V as long as that helps, and then by
more probes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sparselmm.base.cholesky import NotPositiveDefiniteError
from sparselmm.base.smallmatrix import block_diagonal
from sparselmm.base.types import FloatArray
from sparselmm.factor.krylov.solver import KrylovSolver, Settings, Traced
from sparselmm.likelihood.krylov.deviance import Probed
from sparselmm.likelihood.optimize import RADIUS
from sparselmm.likelihood.quadratic import Quadratic, Radius
from sparselmm.likelihood.record import SMALLEST_SCALE, Recorder

DONE = 1e-7
"""Promised decrease at which the search ends, 3e-4 standard errors of theta before the zero."""

MOST_PROBES = 256
MOST_VECTORS = 64

HELPS = 0.6
"""More vectors in V go on as long as the error falls below this share."""

FREEZE = 1e-2
"""Promised decrease from which V stays as it is, so that the gradient is smooth."""

NEAR = 10.0
"""Promised decrease from which all probes are used: before, theta is far off whatever they say."""

FEW, LOOSE = 4, 1e-5
"""Probes until then, and the tolerance of solves that count as exact."""

ALWAYS = 1e-5
"""Promised decrease below which a step is taken whatever the slopes say."""

LIMIT = 60

FAILURES = (np.linalg.LinAlgError, NotPositiveDefiniteError)


@dataclass(frozen=True, eq=False)
class Found:
    """Where a search on probes ended.

    Attributes
    ----------
    theta : ndarray, (n_theta,)
        No ``lambda_t`` is singular: columns at the floor mean zero.
    promised : float
        Decrease that another step promises.
    error : float
        Largest Monte Carlo error of theta, in standard errors.
    finished : bool
    message : str
    level : float
        Of the deviance in the record.
    """

    theta: FloatArray
    promised: float
    error: float
    finished: bool
    message: str
    level: float


def search(
    deviance: Probed, start: FloatArray, recorder: Recorder, *,
    tolerance: float = DONE, target: float | None = 0.01, limit: int = LIMIT,
    level: float | None = None,
) -> Found:  # fmt: skip
    """Find the zero of the gradient from ``start``.

    Parameters
    ----------
    start : ndarray, (n_theta,)
    recorder : Recorder
        Keeps the record.
    tolerance : float
        Promised decrease at which to stop.
    target : float or None
        Largest error of theta in standard errors; None leaves probes and V as they are.
    limit : int
    level : float, optional
        Deviance at the start, for the record; None for an estimate.
    """
    full, few = deviance.solver.settings, None
    if target is not None:
        deviance.solver.frozen = False
        few = _fewer(deviance.solver)
        deviance.solver.reset(few or full)
    theta, model = _first(deviance, start)
    level = deviance.rough_value(theta) if level is None else level
    radius, last = Radius(*RADIUS), np.inf
    recorder.record(theta, level, gradient_norm=_largest(model[0]))
    for _ in range(limit):
        basis = basis_at(deviance, theta, model[0])
        slope, bend = basis.T @ model[0], basis.T @ model[1] @ basis
        local = Quadratic.of(bend, slope)
        promised = local.expected_decrease
        deviance.solver.frozen |= promised <= FREEZE
        arriving = few is not None and promised <= NEAR
        if arriving:  # all probes, from the next theta on
            few = None
            deviance.solver.reset(full)
        if arriving and promised < tolerance:
            model = _anew(deviance, recorder, theta, level)
            continue
        if promised < tolerance:
            error = monte_carlo_error(deviance, theta, basis, bend)
            settings = None if target is None else _more(deviance, error, last, target)
            if settings is None:
                return Found(theta, promised, error, True, "converged", level)
            last = error if settings.vectors > deviance.solver.settings.vectors else 0.0
            deviance.solver.reset(settings)
            model = _anew(deviance, recorder, theta, level)
            continue
        step, predicted = local.step(radius.now)
        length, move = float(np.linalg.norm(step)), basis @ step
        try:
            trial = deviance.lifted(deviance.covariance.retract(theta, move))
            after = deviance.tangent_model(trial)
        except FAILURES:
            radius.now = 0.25 * length
            recorder.record(theta, np.inf, step=length, radius=radius.now, accepted=False)
            continue
        end = deviance.covariance.carried_back(theta, move, trial, after[0])
        gain = -0.5 * float((model[0] + end) @ move)
        ratio = gain / predicted
        good = ratio > 1e-4 or promised < ALWAYS
        recorder.record(
            trial, level - gain, gradient_norm=_largest(after[0]), step=length, ratio=ratio,
            radius=radius.now, accepted=good,
        )  # fmt: skip
        radius.update(ratio, length)
        if good:
            theta, model, level = trial, after, level - gain
        elif arriving:
            model = _anew(deviance, recorder, theta, level)
        elif length < 1e-8:
            break
    error = monte_carlo_error(deviance, theta, basis, bend)
    message = f"no convergence in {limit} iterations"
    return Found(theta, promised, error, False, message, level)


def _anew(
    deviance: Probed, recorder: Recorder, theta: FloatArray, level: float
) -> tuple[FloatArray, FloatArray]:
    """The model at the same theta, as the solver's new settings make it."""
    deviance.forget()
    model = deviance.tangent_model(theta)
    recorder.record(theta, level, gradient_norm=_largest(model[0]))
    return model


def _largest(gradient: FloatArray) -> float:
    return float(np.abs(gradient).max(initial=0.0))


def _first(deviance: Probed, start: FloatArray) -> tuple[FloatArray, tuple[FloatArray, FloatArray]]:
    """The start, made smaller until the deviance exists, and the model there."""
    theta = deviance.lifted(start)
    while True:
        try:
            return theta, deviance.tangent_model(theta)
        except FAILURES:
            if np.abs(theta).max() < 1e-3:
                raise
            theta = deviance.lifted(theta / 4.0)


def _fewer(solver: KrylovSolver) -> Settings | None:
    """Less of everything, on the way; None where that is not less."""
    nearly_null = sum(solver.pattern.sizes[t][0] for t in solver.big)
    old = solver.settings
    if old.probes <= FEW or not solver.big:
        return None
    return replace(old, probes=FEW, vectors=min(nearly_null, old.vectors), tolerance=LOOSE)


def _more(deviance: Probed, error: float, last: float, target: float) -> Settings | None:
    """What to add after an error; ``last`` is that before the last vectors; None for nothing."""
    solver, old = deviance.solver, deviance.solver.settings
    if error <= target or not solver.n_groups:
        return None
    most = min(MOST_VECTORS, solver.crossing.n_trailing // 4)
    if old.vectors < most and error < HELPS * last:
        return replace(old, vectors=min(2 * old.vectors, most) if old.vectors else 8)
    if old.probes >= MOST_PROBES:
        return None
    wanted = 2 ** int(np.ceil(np.log2(old.probes * (error / target) ** 2)))
    return replace(old, probes=min(MOST_PROBES, max(2 * old.probes, wanted)))


def basis_at(
    deviance: Probed, theta: FloatArray, gradient: FloatArray
) -> FloatArray:  # fmt: skip
    """The search's basis of steps, without columns of ``lambda_t`` held at the floor."""
    covariance, out = deviance.covariance, []
    held = deviance.held(theta, gradient)
    for t, (term, part, at) in enumerate(
        zip(covariance.terms, covariance.slices, covariance.tangent_slices, strict=True)
    ):
        unit = deviance.unit_roots[t]
        basis = term.steps(theta[part], unit, SMALLEST_SCALE, gradient[at])
        V, low = held[t]
        if low.any() and term.is_diagonal:
            basis = basis[:, ~low]
        elif low.any():  # what is left of a step when it may not move those columns
            free = (V * ~low) @ V.T
            moves = basis.reshape(term.k, term.k, -1)
            basis = np.einsum("ijm,jl->ilm", moves, free).reshape(basis.shape)
            U, w, _ = np.linalg.svd(basis, full_matrices=False)
            basis = (U * w)[:, w > max(1e-6 * w.max(initial=0.0), 1e-12)]
        out.append(basis)
    return block_diagonal(out)


def monte_carlo_error(
    deviance: Probed, theta: FloatArray, basis: FloatArray, bend: FloatArray,
    traced: Traced | None = None,
) -> float:  # fmt: skip
    """Largest error of theta in standard errors, over the directions of a basis.

    With the traces of the search, or others.
    """
    if basis.shape[1] == 0 or not deviance.solver.n_groups:
        return 0.0
    C = basis.T @ deviance.gradient_covariance(theta, traced) @ basis
    values, vectors = np.linalg.eigh(bend)
    size = np.maximum(np.abs(values), 1e-8 * np.abs(values).max())
    root = vectors / np.sqrt(size)
    return float(np.sqrt(0.5 * max(float(np.linalg.eigvalsh(root.T @ C @ root)[-1]), 0.0)))
