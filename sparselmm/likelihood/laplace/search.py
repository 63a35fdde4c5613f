"""Minimization of Laplace's deviance in all parameters at once.

A trust-region Newton iteration on the model Hessian of :mod:`.deviance`, whose steps move the roots
``lambda_t`` across the rotations that change nothing, as in the linear model. The model leaves out
how the weights move. With H the model at the new end of an accepted step s plus what the last steps
taught, and ``y = g_new - g_old``, what is missing is learnt by the update of Broyden, Fletcher,
Goldfarb and Shanno,

    H <- H + y y' / y's - H s s'H / s'H s

while steps are short and do what the model said; the curvature along s alone is scaled, by 0.3 to
4, after a step that did not; where it had the wrong sign ``H <- H + r r' / r's`` with r = y - H s;
and nothing is kept after a step that was refused. Where several are, or the search is long, the
Hessian is once the exact one, by differences, and again after every refusal from then on; between
them what was learnt is kept. All are in the coordinates of the new end, which
a step that moves ``lambda_t`` across rotations turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from sparselmm.base.cholesky import NotPositiveDefiniteError
from sparselmm.base.types import BoolArray, FloatArray
from sparselmm.likelihood.laplace.deviance import LaplaceDeviance
from sparselmm.likelihood.laplace.modes import CHORD, EXACT
from sparselmm.likelihood.laplace.optimum import FAR, Optimum, certificate
from sparselmm.likelihood.laplace.parameters import Model
from sparselmm.likelihood.laplace.rows import blocks
from sparselmm.likelihood.optimize import LIFT
from sparselmm.likelihood.quadratic import Quadratic, Radius
from sparselmm.likelihood.record import SMALLEST_SCALE, Evaluation
from sparselmm.likelihood.zeros import PROBE, SNAP, away_from_zeros

TOLERANCE = 1e-9
"""Stop when another step promises less than this decrease of the deviance."""

MAX_ITERATIONS = 150

MOST_EVALUATIONS = 300
"""Evaluations of one search, those of differences and of the boundary included."""

EXACT_LIMIT = 25
"""Iterations with the exact Hessian, which costs two gradients per parameter."""

LARGEST = 3.0
"""Largest radius of the trust region, until the way is straight: see `Radius`."""

GONE = 1e-10
"""Slope of the deviance in a dispersion at which it counts as at its limit."""

NEAR = 0.5
"""Predicted decrease below which a step teaches the curvature along it."""

LEAST_BEND, MOST_BEND = 0.3, 4.0
"""Curvatures along a step, as multiples of the model's, that are believed."""

DIFFERENCE = 1e-4
"""Step of the differences that make the exact Hessian, in the metric of the trust region."""

PATIENCE = 20
"""Iterations after which the Hessian is the exact one."""

REFUSALS = 4
"""Steps refused one after the other after which it is, too."""

BESIDE = 1e-6
"""Theta, in its units, from which on the derivative by a variance has digits."""

Callback = Callable[[Evaluation], None]


class GeneralSearch:
    """Searches on one deviance, and the record of them.

    Parameters
    ----------
    tolerance : float
    max_iterations : int
    callback : callable, optional
    stop : callable, optional
        Told the parameters after every accepted step; a message from it ends the search.
    """

    def __init__(
        self, deviance: LaplaceDeviance, tolerance: float = TOLERANCE,
        max_iterations: int = MAX_ITERATIONS, callback: Callback | None = None,
        stop: Callable[[FloatArray], str | None] | None = None,
    ):  # fmt: skip
        self.deviance, self.tolerance, self.limit = deviance, tolerance, max_iterations
        self.callback, self.stop = callback, stop
        self.hold: FloatArray | None = None
        self._missing: FloatArray | float = 0.0
        self._exactly = False
        self._differenced = 0
        self._near = EXACT
        self.allowed = MOST_EVALUATIONS
        self.history: list[Evaluation] = []
        self.place = 0
        self._began = time.perf_counter()

    def record(self, x: FloatArray, value: float, **facts: float | bool) -> None:
        """Keep an evaluation."""
        seconds = time.perf_counter() - self._began
        entry = Evaluation(x.copy(), value, seconds=seconds, search=self.place, **facts)  # type: ignore[arg-type]
        self.history.append(entry)
        if self.callback is not None:
            self.callback(entry)

    def value(self, x: FloatArray, u: FloatArray | None = None) -> float:
        """Deviance, infinite where it cannot be computed."""
        try:
            point = self.deviance.at(x, u)
        except (NotPositiveDefiniteError, np.linalg.LinAlgError, FloatingPointError):
            return np.inf
        return np.inf if point is None or not np.isfinite(point.value) else point.value

    def run(self, x: FloatArray, rough: bool = True) -> tuple[FloatArray, str, bool]:
        """Search from x, with exact zeros where variances vanish: end, message, whether done.

        ``rough`` when x is hardly the end, so that its mode need not be exact.
        """
        self._nearness(np.inf if rough else 0.0)
        covariance, a = self.deviance.covariance, self.deviance.covariance.n_theta
        x = np.array(x, dtype=float)
        zero = covariance.on_diagonal & (x[:a] == 0.0)
        x[:a] = np.where(zero, LIFT * self.deviance.units, x[:a])
        x, message, done = self._newton(x)
        if not np.isfinite(self.value(x)):
            return x, message, False
        return self._settled(x), message, done

    # ----------------------------------------------------------------------- iterations

    def _nearness(self, predicted: float) -> None:
        """How near modes must be at a point expected to be lower by ``predicted``.

        The deviance has an error of about the root of half their squared decrement times that of q.
        """
        far = 0.0 if self._exactly else 1e-6 * predicted**2 / max(self.deviance.random.q, 1)
        self.deviance.modes.near = float(np.clip(far, EXACT, CHORD))

    def _newton(self, x: FloatArray) -> tuple[FloatArray, str, bool]:
        try:
            end = self._iterated(x)
        finally:
            self._nearness(0.0)
        if self._exactly or np.isfinite(self.value(end[0])):
            return end
        self._exactly = True  # a mode that was near had no exact one
        return self._newton(x)

    def _iterated(self, x: FloatArray) -> tuple[FloatArray, str, bool]:
        deviance = self.deviance
        x, value = self._finite(x)
        self._near = deviance.modes.near
        if not np.isfinite(value):
            self.record(x, value, accepted=False)
            return x, "stopped: the log-likelihood is not finite at the start", False
        model, region = self._modelled(x), Radius(1.0, LARGEST)
        if model is None:
            self.record(x, value, accepted=False)
            return x, "stopped: the gradient is not finite at the start", False
        self.record(x, value, gradient_norm=self._size(model))
        before: tuple[FloatArray, Model] | None = None
        self._differenced, refused = 0, 0
        known: FloatArray | None = None
        for iteration in range(self.limit):
            x, value, model = self._leapt(x, value, model, before)
            before = None
            basis = self._basis(x, model)
            slope = basis.T @ model.gradient
            local = Quadratic.of(basis.T @ model.hessian @ basis, slope)
            if local.expected_decrease < self.tolerance:
                if self._near > EXACT:
                    x, value, model = self._sharp(x, value, model)
                    continue
                return x, "converged: another step gains less than the tolerance", True
            if len(self.history) >= self.allowed:
                break
            doubt = refused >= (1 if self._differenced else REFUSALS) or iteration == PATIENCE
            if doubt and known is not x and self._differenced < EXACT_LIMIT:
                region = region if self._differenced else Radius(1.0, LARGEST)
                known, model = x, self._exact(x, basis, model)
                local = Quadratic.of(basis.T @ model.hessian @ basis, slope)
            found = _within(local, region.now)
            if found is None:
                return x, "stopped: the gradient is too large to be followed", False
            part, predicted = found
            step, length = basis @ part, float(np.linalg.norm(part))
            trial = deviance.parameters.retract(x, step)
            guess = self._guess(x, step, trial)
            self._nearness(predicted)
            after = self.value(trial, guess)
            ratio = (value - after) / predicted
            good = bool(ratio > 1e-4 or abs(value - after) < 1e-12 * abs(value))
            new = self._modelled(trial) if good else None
            good = new is not None
            facts = {"step": length, "ratio": ratio, "radius": region.now, "accepted": good}
            region.update(ratio if good else 0.0, length)
            refused = 0 if good else refused + 1
            if not good:
                self.record(trial, after, **facts)
                self._missing = self._missing if self._differenced else 0.0
                if length < 1e-10:
                    return x, "stopped: no decrease within rounding", True
                x, value, model = self._sharp(x, value, model)
                continue
            assert new is not None
            turn = self._turn(x, step, trial)
            before, x, value = (x, model), trial, after
            self._near = deviance.modes.near
            model = self._taught(new, model, turn, step, predicted, ratio)
            self.record(x, value, gradient_norm=self._size(model), **facts)
            message = None if self.stop is None else self.stop(x)
            if message is not None:
                return x, message, False
        return x, f"stopped: no convergence in {len(self.history)} evaluations", False

    def _modelled(self, x: FloatArray) -> Model | None:
        """The quadratic model at x; None where it is not finite."""
        try:
            model = self.deviance.model(x)
        except (NotPositiveDefiniteError, FloatingPointError, np.linalg.LinAlgError):
            return None
        fine = np.isfinite(model.gradient).all() and np.isfinite(model.hessian).all()
        return model if fine else None

    def _sharp(self, x: FloatArray, value: float, model: Model) -> tuple[FloatArray, float, Model]:
        """The same point with its mode exact."""
        if self._near == EXACT:
            return x, value, model
        self._nearness(0.0)
        self._near = self.deviance.modes.near
        sharp, exact = self.value(x), self._modelled(x)
        return (x, value, model) if exact is None else (x, sharp, exact)

    def _leapt(
        self, x: FloatArray, value: float, model: Model, before: tuple[FloatArray, Model] | None
    ) -> tuple[FloatArray, float, Model]:  # fmt: skip
        """Follow a dispersion that leaves for its limit, in one step where many would be alike.

        Of ``c exp(-d)`` Newton's steps have length one; the slope falls from the accepted point
        ``before`` as it should, whatever the model takes for the curvature. Of a formula's
        coefficients some combination may leave, of which d is the fastest row's.
        """
        if before is None:
            return x, value, model
        first = len(x) - self.deviance.data.n_phi
        for part, sign in self.deviance.leaving():
            at = slice(first + part.columns.start, first + part.columns.stop)
            way = x[at] - before[0][at]
            far, here = 0.0, 0.0
            for rows in blocks(self.deviance.data.n if part.design is not None else 1):
                moved = sign * part.change(x[first:] - before[0][first:], rows)
                if moved.max() > far:
                    far = float(moved.max())
                    here = sign * float(part.change(x[first:], rows)[moved.argmax()])
            place = self.deviance.parameters.in_tangent[at]
            if not (far > 0.0 and 3.0 < here < FAR):
                continue
            old, g = (-float(m.gradient[place] @ way) / far for m in (before[1], model))
            fall = float(np.log(max(old / g, 1e-300))) if GONE < g < 5.0 else 0.0
            if not 0.6 < fall / far < 1.6:
                continue
            x, value, model = self._sharp(x, value, model)
            trial = x.copy()
            trial[at] += way / far * np.log(g / GONE)
            after = self.value(trial)
            new = self._modelled(trial) if after <= value else None
            self.record(trial, after, accepted=new is not None)
            if new is not None:
                x, value, model = trial, after, new
        return x, value, model

    def _basis(self, x: FloatArray, model: Model) -> FloatArray:
        """Steps allowed: all, or those along which a held combination of them stays as it is."""
        basis = self.deviance.basis(x, model, SMALLEST_SCALE)
        for place, sign in self.deviance.limits():
            if x[place] * sign > FAR:  # what is left of its slope is rounding
                row = basis[int(self.deviance.parameters.in_tangent[place])]
                basis = basis[:, row == 0.0]
        if self.hold is None:
            return basis
        row = basis.T @ self.hold
        _, _, Vt = np.linalg.svd(row[None, :])
        return np.asarray(basis @ Vt[1:].T)

    def held(self, x: FloatArray, hold: FloatArray) -> tuple[FloatArray, float, bool]:
        """Minimum with a linear combination of steps held: end, deviance, whether it was found."""
        self.hold = hold
        try:
            end, _, done = self._newton(np.array(x, dtype=float))
            return end, self.value(end), done
        finally:
            self.hold = None

    def _finite(self, x: FloatArray) -> tuple[FloatArray, float]:
        """The start, its variances made smaller until the deviance exists."""
        a, value = self.deviance.covariance.n_theta, self.value(x)
        while not np.isfinite(value) and np.abs(x[:a]).max(initial=0.0) > 1e-3:
            x = np.concatenate([x[:a] / 4.0, x[a:]])
            value = self.value(x)
        return x, value

    def _guess(self, x: FloatArray, step: FloatArray, trial: FloatArray) -> FloatArray | None:
        """Where the mode at ``trial`` should be; None after a step that was refused."""
        point = self.deviance._point
        if point is None or (point.x is not x and not np.array_equal(point.x, x)):
            return None
        try:
            return self.deviance.predicted(x, step, trial)
        except np.linalg.LinAlgError:
            return None

    def _turn(self, x: FloatArray, step: FloatArray, trial: FloatArray) -> FloatArray:
        """Rotation of tangent vectors at x into those at ``trial = retract(x, step)``."""
        covariance, a = self.deviance.covariance, self.deviance.covariance.n_theta
        m, turn = covariance.n_tangent, np.eye(len(step))
        for i in range(m):
            turn[i, :m] = covariance.carried_back(x[:a], step[:m], trial[:a], turn[i, :m])
        return turn

    def _taught(
        self, model: Model, old: Model, turn: FloatArray, step: FloatArray, predicted: float,
        ratio: float,
    ) -> Model:  # fmt: skip
        """The model with what the gradients say of the last steps, after an accepted one."""
        step = turn @ step
        if np.ndim(self._missing):
            self._missing = turn @ self._missing @ turn.T
        if not (predicted < NEAR or self._differenced):
            self._missing = 0.0
            return model
        H = model.hessian + self._missing
        Hs = H @ step
        y = model.gradient - turn @ old.gradient
        along, bend = float(step @ Hs), float(y @ step)
        kappa = bend / along if along > 0.0 else np.nan
        if along <= 0.0 < bend:  # the model bends the wrong way: H s becomes y
            H = H + np.outer(y - Hs, y - Hs) / (bend - along)
        elif not along > 0.0:
            self._missing = 0.0
            return model
        elif LEAST_BEND < kappa < MOST_BEND and 0.6 < ratio < 1.5:
            H = H + np.outer(y, y) / bend - np.outer(Hs, Hs) / along
        else:
            kappa = min(max(kappa, LEAST_BEND), MOST_BEND)
            H = H + (kappa - 1.0) / along * np.outer(Hs, Hs)
        self._missing = H - model.hessian
        return replace(model, hessian=H)

    def _exact(self, x: FloatArray, basis: FloatArray, model: Model) -> Model:
        """The model with the Hessian along the basis by differences of the exact gradient."""
        self._differenced += 1
        parameters, old = self.deviance.parameters, basis.T @ model.hessian @ basis
        new = np.empty_like(old)
        self._nearness(0.0)
        covariance, a = self.deviance.covariance, self.deviance.covariance.n_theta
        m = covariance.n_tangent
        try:
            for i, column in enumerate(DIFFERENCE * basis.T):
                slopes = []
                for sign in (1.0, -1.0):
                    there = parameters.retract(x, sign * column)
                    g = self.deviance.model(there).gradient
                    self.record(there, self.value(there), accepted=False)
                    back = covariance.carried_back(x[:a], sign * column[:m], there[:a], g[:m])
                    slopes.append(basis.T @ np.concatenate([back, g[m:]]))
                new[i] = (slopes[0] - slopes[1]) / (2.0 * DIFFERENCE)
        except (NotPositiveDefiniteError, FloatingPointError, np.linalg.LinAlgError):
            return model
        if not np.isfinite(new).all():
            return model
        dual = np.linalg.pinv(basis)
        beside = dual.T @ (0.5 * (new + new.T) - old) @ dual
        self._missing = self._missing + beside
        return replace(model, hessian=model.hessian + beside)

    def _size(self, model: Model) -> float:
        return float(np.abs(model.gradient[self.deviance.parameters.in_tangent]).max(initial=0.0))

    # ------------------------------------------------------------------------- boundary

    def _settled(self, x: FloatArray) -> FloatArray:
        """Rectify, put variances that vanish at zero, and leave false zeros again."""
        deviance = self.deviance
        covariance, a = deviance.covariance, deviance.covariance.n_theta
        for _ in range(3):
            x = deviance.parameters.rectify(x)
            snapped = x.copy()
            for term, part in zip(covariance.terms, covariance.slices, strict=True):
                snapped[part] = term.snapped(x[part], deviance.units[part], SNAP)
            if np.array_equal(snapped, x) and not (x[:a][covariance.on_diagonal] == 0.0).any():
                return x
            value, slope = self.value(x), self._slope_beside(x, snapped)
            at_zero = self.value(snapped)
            good = at_zero <= value + 10.0 * self.tolerance
            self.record(snapped, at_zero, accepted=good)
            if not good:
                return x
            restart = self._out_of_zeros(snapped, slope)
            if np.array_equal(restart, snapped):
                return self._newton(snapped)[0] if self._off(snapped) else snapped
            x = self._newton(restart)[0]
        return deviance.parameters.rectify(x)

    def _slope_beside(self, x: FloatArray, snapped: FloatArray) -> FloatArray | None:
        """Gradient in theta at x where that tells of the zeros next to it, (n_theta,).

        Of several zeros of a term their combinations matter, too, and all must be left alike.
        """
        zeros = self._zeros(snapped)
        several = any(zeros[part].sum() > 1 for part in self.deviance.covariance.slices)
        if several or (x[: len(zeros)][zeros] < BESIDE * self.deviance.units[zeros]).any():
            return None
        model = self._modelled(x)
        inner = self.deviance.parameters.in_tangent[: len(zeros)]
        return None if model is None else model.gradient[inner]

    def _zeros(self, x: FloatArray) -> BoolArray:
        """Diagonals of the ``lambda_t`` that are zero, (n_theta,)."""
        covariance = self.deviance.covariance
        return np.asarray(covariance.on_diagonal & (x[: covariance.n_theta] == 0.0))

    def _off(self, x: FloatArray) -> bool:
        """Whether the other parameters could still move at an exact zero."""
        return certificate(self.deviance, x)[0] > 10.0 * self.tolerance

    def _out_of_zeros(self, x: FloatArray, slope: FloatArray | None) -> FloatArray:
        """X with variances in place of zeros where the deviance falls with them.

        Without a ``slope`` beside them the gradient is asked for there.
        """
        deviance, zeros = self.deviance, self._zeros(x)
        a = len(zeros)
        if slope is None:
            probe = np.concatenate([np.where(zeros, PROBE * deviance.units, x[:a]), x[a:]])
            value = self.value(probe)
            slope = deviance.gradient(probe)[:a] if np.isfinite(value) else np.zeros(a)
            self.record(probe, value, accepted=False)
        away = away_from_zeros(deviance.covariance, deviance.units, x[:a], slope)
        return np.concatenate([away, x[a:]])

    def certified(self, x: FloatArray, message: str, done: bool) -> Optimum:
        """The record of an end with the evidence that it is an optimum."""
        deviance = self.deviance
        value = self.value(x)
        if not np.isfinite(value):
            nothing = np.full(len(x), np.nan)
            return Optimum(
                x, value, nothing, np.full((len(x),) * 2, np.nan), np.zeros(len(x), bool), np.nan,
                False, message, len(self.history), tuple(self.history),
            )  # fmt: skip
        decrease, boundary, gradient, hessian = certificate(deviance, x)
        good = done and decrease < max(1e-4, 10.0 * self.tolerance)
        if done and not good:
            message += f"; but another step promises to lower the deviance by {decrease:.2g}"
        return Optimum(
            x, value, gradient, hessian, boundary, decrease, good, message, len(self.history),
            tuple(self.history), self.place + 1,
        )  # fmt: skip


def _within(local: Quadratic, radius: float) -> tuple[FloatArray, float] | None:
    """The step of the trust region; None beyond floating point."""
    try:
        step, predicted = local.step(radius)
    except np.linalg.LinAlgError:
        return None
    return (step, predicted) if np.isfinite(predicted) else None
