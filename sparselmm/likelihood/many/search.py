"""The search of :mod:`sparselmm.likelihood.optimize` on stacks of responses.

Every response has its own theta, trust region and end; the steps are the same, done for all
responses that are still on their way at once (Nocedal & Wright 2006, algorithm 4.1; metric and
quotient by rotations as explained in :mod:`sparselmm.likelihood.optimize`).
"""

from __future__ import annotations

import numpy as np

from sparselmm.base.types import BoolArray, FloatArray
from sparselmm.likelihood.many.evaluation import Points, evaluate
from sparselmm.likelihood.many.reduced import Responses
from sparselmm.likelihood.many.setup import BatchedModel
from sparselmm.likelihood.optimize import MAX_ITERATIONS, RADIUS
from sparselmm.likelihood.quadratic import Quadratic, next_radius
from sparselmm.likelihood.record import SMALLEST_SCALE
from sparselmm.likelihood.zeros import PROBE, SNAP

GAIN = 1e-6
"""Decrease of the deviance that another step may promise at a certified end."""


def search(
    model: BatchedModel, responses: Responses, start: FloatArray, tolerance: float
) -> tuple[Points, BoolArray]:
    """Minimize the deviance of every response.

    Parameters
    ----------
    start : ndarray, (m, n_theta)
        No zero on a diagonal.
    tolerance : float

    Returns
    -------
    points : Points
        Where the searches ended.
    good : ndarray of bool, (m,)
        Whether the end is certified: another step promises less than `GAIN`.
    """
    m = len(responses)
    points = evaluate(model, start, responses)
    if not m:
        return points, np.zeros(0, dtype=bool)
    finished = ~np.isfinite(points.value)
    failed = finished.copy()
    _walk(model, responses, points, finished, tolerance)
    points.theta[:] = model.covariance.rectify(points.theta)
    doubtful = _settle_zeros(model, responses, points, tolerance)
    return points, ~failed & ~doubtful & (_certificate(model, points) < GAIN)


def _walk(
    model: BatchedModel, responses: Responses, points: Points, finished: BoolArray,
    tolerance: float,
) -> None:  # fmt: skip
    """Trust-region iterations, in place, until every response is finished."""
    radius = np.full(len(points), RADIUS[0])
    for _ in range(MAX_ITERATIONS):
        rows = np.flatnonzero(~finished)
        if not len(rows):
            return
        at = points.take(rows)
        local = LocalModel(model, at)
        done = local.quadratic.expected_decrease < tolerance
        finished[rows[done]] = True
        if done.all():
            return
        step, predicted = local.quadratic.step(radius[rows])
        rows, step, predicted = rows[~done], step[~done], predicted[~done]
        trial = evaluate(model, local.moved(step, ~done), responses.take(rows))
        value = at.value[~done]
        length = np.linalg.norm(step, axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            change = value - trial.value
            ratio = change / predicted
            good = (ratio > 1e-4) | (np.abs(change) < 1e-12 * np.abs(value))
        radius[rows] = next_radius(radius[rows], RADIUS[1], ratio, length)
        finished[rows[~good & (length < 1e-10)]] = True
        points.put(rows[good], trial.take(good))


class LocalModel:
    """The quadratic model of each response in the metric of the trust region."""

    def __init__(self, model: BatchedModel, points: Points):
        self.covariance, self.theta = model.covariance, points.theta
        self.B, across = _metric(model, points.theta)
        H = points.information.copy()
        _add_root_curvature(model, H, points.slopes)
        turned = self.B.transpose(0, 2, 1)
        slope = np.einsum("mji,mj->mi", self.B, points.gradient)
        bend = turned @ H @ self.B
        bend = across @ bend @ across
        size = 1.0 + np.abs(bend).max(axis=(1, 2))  # rotations: no step goes there
        bend += size[:, None, None] * (np.eye(bend.shape[1]) - across)
        self.quadratic = Quadratic.of(bend, np.einsum("mij,mj->mi", across, slope))

    def moved(self, step: FloatArray, rows: BoolArray) -> FloatArray:
        """Theta of some responses after a step in the metric."""
        tangent = np.einsum("mij,mj->mi", self.B[rows], step)
        return self.covariance.retract(self.theta[rows], tangent)


def _metric(model: BatchedModel, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Tangent vectors of unit length in the metric, and the projector across rotations."""
    cov, m = model.covariance, len(theta)
    c = cov.tangent_slices[-1].stop
    B, across = np.zeros((m, c, c)), np.tile(np.eye(c), (m, 1, 1))
    for term, at, lam, unit in zip(
        cov.terms, cov.tangent_slices, cov.factors(theta), model.unit_roots, strict=True
    ):
        k = term.k
        square = lam @ lam.transpose(0, 2, 1) + SMALLEST_SCALE**2 * unit @ unit.T
        metric = np.linalg.cholesky(square)
        if at.stop - at.start == k:
            diagonal = np.arange(k)
            own = at.start + diagonal
            B[:, own, own] = metric[:, diagonal, diagonal]
            continue
        B[:, at, at] = np.einsum("mij,kl->mikjl", metric, np.eye(k)).reshape(m, k * k, k * k)
        root = np.linalg.solve(metric, lam)
        turns = np.zeros((m, k * (k - 1) // 2, k, k))
        for i, (a, b) in enumerate(zip(*np.tril_indices(k, -1), strict=True)):
            turns[:, i, :, a], turns[:, i, :, b] = root[:, :, b], -root[:, :, a]
        flat = turns.reshape(m, -1, k * k)
        gram = np.linalg.pinv(flat @ flat.transpose(0, 2, 1), rcond=1e-14, hermitian=True)
        across[:, at, at] -= flat.transpose(0, 2, 1) @ gram @ flat
    return B, across


def _add_root_curvature(model: BatchedModel, H: FloatArray, slopes: FloatArray) -> None:
    """Add the curvature of ``lambda_t -> Psi_t``, in place; unknown slopes count as zero."""
    cov, first = model.covariance, 0
    for term, at in zip(cov.terms, cov.tangent_slices, strict=True):
        rows, cols = term.tangent
        psi = np.nan_to_num(slopes[:, first : first + term.k**2]).reshape(-1, term.k, term.k)
        both = (psi + psi.transpose(0, 2, 1))[:, rows[:, None], rows[None, :]]
        H[:, at, at] += np.where(cols[:, None] == cols[None, :], both, 0.0)
        first += term.k**2


def _settle_zeros(
    model: BatchedModel, responses: Responses, points: Points, tolerance: float
) -> BoolArray:
    """Put variances that vanish at exactly zero, in place; True where that may be wrong."""
    doubtful = np.zeros(len(points), dtype=bool)
    snapped = model.covariance.snapped(points.theta, model.units, SNAP)
    rows = np.flatnonzero((snapped != points.theta).any(axis=1))
    if not len(rows):
        return doubtful
    some = responses.take(rows)
    at_zero = evaluate(model, snapped[rows], some)
    lower = at_zero.value <= points.value[rows] + tolerance
    on_diagonal = model.covariance.on_diagonal
    zeros = on_diagonal & (snapped[rows] == 0.0)
    probe = evaluate(model, np.where(zeros, PROBE * model.units, snapped[rows]), some)
    falls = (zeros & (probe.gradient[:, model.covariance.in_tangent] < 0.0)).any(axis=1)
    points.put(rows[lower], at_zero.take(lower))
    doubtful[rows] = lower & falls
    return doubtful


def _certificate(model: BatchedModel, points: Points) -> FloatArray:
    """Decrease that another step off the boundary promises, (m,); as `record.certify`."""
    cov = model.covariance
    inner = cov.in_tangent
    H = points.information.copy()
    _add_root_curvature(model, H, points.slopes)
    H = H[:, inner[:, None], inner[None, :]]
    g: FloatArray = points.gradient[:, inner]
    scale = cov.sizes(points.theta, model.units, SMALLEST_SCALE)
    free = ~cov.at_zero(points.theta)
    g = np.where(free, g * scale, 0.0)
    H = np.where(
        free[:, :, None] & free[:, None, :], H * scale[:, :, None] * scale[:, None, :], 0.0
    )
    H += np.einsum("mi,ij->mij", (~free).astype(float), np.eye(len(inner)))
    finite = np.isfinite(H).reshape(len(H), -1).all(axis=1)
    bad: BoolArray = np.asarray(~(finite & np.isfinite(g).all(axis=1)), dtype=bool)
    H, g = np.where(bad[:, None, None], np.eye(len(inner)), H), np.where(bad[:, None], np.inf, g)
    with np.errstate(invalid="ignore"):
        return np.where(bad, np.inf, Quadratic.of(H, g).expected_decrease)
