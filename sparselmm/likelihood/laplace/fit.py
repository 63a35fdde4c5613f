"""A fit of a generalized model: searches, separation, covariance of estimates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sparselmm.base.providers import NotPositiveDefiniteError
from sparselmm.base.types import BoolArray, FloatArray
from sparselmm.likelihood.laplace.data import GeneralData
from sparselmm.likelihood.laplace.deviance import LaplaceDeviance
from sparselmm.likelihood.laplace.optimum import Optimum
from sparselmm.likelihood.laplace.parameters import alone
from sparselmm.likelihood.laplace.quadrature import QuadratureDeviance, check_quadrature
from sparselmm.likelihood.laplace.search import (
    MAX_ITERATIONS,
    TOLERANCE,
    Callback,
    GeneralSearch,
)
from sparselmm.likelihood.laplace.separation import (
    check_varies_within_levels,
    extreme,
    pure_levels,
    separating,
)
from sparselmm.likelihood.laplace.start import independent, start
from sparselmm.likelihood.starting_points import random_starts

SECONDS = 0.1
"""Predicted time that searches from other starts may take in any case."""

APART = 4.0
"""As many times that where three searches or more ended at places of their own."""

MANY = 14
"""Evaluations after which a search leaves doubt."""

LEAST = 10
"""Evaluations that other starts must be allowed to be tried at all."""

LIMIT = 40
"""Evaluations of a search from another start, but for those at the boundary."""

FEW_ROWS = 150
"""Rows up to which the deviance is often far from quadratic."""

POWER, ROOM = 30, 1.5
"""Iterations for the largest eigenvalue of the inverse of M, and what is beyond the prior's one."""

FLAT_MODES = (
    "the integrand of some random effects is nearly flat at its mode, where Laplace's "
    "approximation fails and its likelihood can rise without end; take fewer random effects, "
    "leave out zi=, or use another family or link, or nagq= with a single scalar effect"
)

DECADES = (0, -1, 1)
"""Sizes of random starts, as powers of ten: a standard deviation of predictors beyond is rare."""

SAME = 1e-5
"""Difference of deviances up to which two ends are the same."""

GAIN = 1e-7
"""Decrease of the deviance by which another end is better."""

HUGE = 5.0
"""Standard deviation of predictors at which levels that are all pure have let a variance go."""

CERTAIN, FLAT = 15.0, 1e-2
"""Log odds that are certainties, and curvature along them at which they have no end."""

NOTHING_LEFT = 4.0
"""Logarithm of a dispersion, or log odds of excess zeros, that leave next to nothing to explain."""

HESSIAN_STEP = 1e-4
"""Step of the differences of the gradient, in standard errors and units of theta."""


def deviance_of(data: GeneralData, nodes: int = 1, memory_limit: int | None = None) -> Any:
    """Laplace's deviance, or the one by quadrature."""
    check_quadrature(data, nodes)
    if nodes > 1:
        return QuadratureDeviance(data, nodes, memory_limit)
    return LaplaceDeviance(data, memory_limit)


def minimize_generally(
    deviance: LaplaceDeviance, names: tuple[str, ...], *, x: FloatArray | None = None,
    starts: int | None = None, tolerance: float = TOLERANCE,
    max_iterations: int = MAX_ITERATIONS, callback: Callback | None = None,
) -> Optimum:  # fmt: skip
    """Minimize over all parameters, from several starts where one leaves doubt.

    Parameters
    ----------
    names : tuple of str
        Of the columns of X, to name those that separate the responses.
    x : ndarray, optional
        Where the first search starts.
    starts : int, optional
        Number of searches; None for as many as needed.
    tolerance, max_iterations, callback
        As in `GeneralSearch`.
    """
    check_varies_within_levels(deviance.data)
    watch = _Watch(deviance, names)
    search = GeneralSearch(deviance, tolerance, max_iterations, callback, watch)
    end, message, done = search.run(start(deviance) if x is None else x, rough=x is None)
    best = search.certified(end, message, done)
    if watch.found or watch.at_end():
        return replace(best, converged=False, message=watch.message, separation=watch.found)
    if starts is None:
        left = _allowance(deviance, best) if _doubtful(deviance, best) else 0
        best = _others(search, best, left, None)
    elif starts > 1:
        best = _others(search, best, np.inf, starts - 1)
    pure = pure_levels(deviance.data)
    sizes = np.abs(best.x[: deviance.covariance.n_theta]) / deviance.units
    if pure and (not best.converged or sizes.max(initial=0.0) > HUGE):
        best = replace(
            best, converged=False, message=f"{best.message}; but every level of "
            f"{', '.join(map(repr, pure))} has only successes or only failures, so that the "
            "likelihood rises as its variance grows without end"
        )  # fmt: skip
    if not best.converged and _flat(deviance, best):
        best = replace(best, message=f"{best.message}; {FLAT_MODES}")
    endless = _endless(deviance, best)
    if endless:
        best = replace(
            best, converged=False, message=f"{best.message}; but the coefficients of {endless}= "
            "grow without end: it predicts without error which rows have such zeros, or there are "
            "none; use a simpler formula, or leave it out"
        )  # fmt: skip
    return replace(best, n_evaluations=len(search.history), history=tuple(search.history))


def _flat(deviance: LaplaceDeviance, best: Optimum) -> bool:
    """Whether M has an eigenvalue below that of the prior, by iterations with its inverse."""
    if deviance.at(best.x) is None or not deviance.passes.w.min(initial=0.0) < 0.0:
        return False
    v = np.random.default_rng(0).normal(size=(deviance.random.q, 1))
    for _ in range(POWER):
        v = deviance.solver.solve(v / np.linalg.norm(v))
    return bool(np.linalg.norm(v) > ROOM)


def _endless(deviance: LaplaceDeviance, best: Optimum) -> str | None:
    """A formula of zeros along whose coefficients the deviance is flat where all is certain."""
    data = deviance.data
    phi, first = deviance.parameters.split(best.x)[2], len(best.x) - data.n_phi
    for part in data.further:
        if part.name not in ("zi", "hurdle") or part.design is None:
            continue
        own = phi[part.columns]
        at = slice(first + part.columns.start, first + part.columns.stop)
        bend = float(own @ best.hessian[at, at] @ own)
        if np.abs(part.values(phi, slice(0, data.n))).max() > CERTAIN and bend < FLAT:
            return part.name
    return None


class _Watch:
    """Asks for separation once the response of some row is all but certain."""

    def __init__(self, deviance: LaplaceDeviance, names: tuple[str, ...]):
        self.deviance, self.names = deviance, names
        self.found: tuple[str, ...] = ()
        self._asked = False
        self._steps = 0

    def __call__(self, x: FloatArray) -> str | None:
        self._steps += 1
        if self._asked or self._steps < 4 or not self._extreme():
            return None
        return self._ask()

    def at_end(self) -> bool:
        """The same after the last step."""
        return not self._asked and self._extreme() and self._ask() is not None

    def _extreme(self) -> bool:
        passes = self.deviance.passes
        return extreme(self.deviance.data, passes.w, passes.g)

    def _ask(self) -> str | None:
        self._asked = True
        self.found = separating(self.deviance.data, self.deviance.fixed, self.names)
        return self.message if self.found else None

    @property
    def message(self) -> str:
        """What was found."""
        columns = ", ".join(map(repr, self.found))
        return (
            f"stopped: separation. The fixed effects {columns} predict some responses without "
            "error; the likelihood rises as their coefficients grow without end, and has no "
            "maximum"
        )


def _doubtful(deviance: LaplaceDeviance, best: Optimum) -> bool:
    """Whether there may be a lower minimum."""
    if not best.converged or best.at_boundary.any():
        return True
    return best.n_evaluations > MANY or deviance.data.n - deviance.fixed.r <= FEW_ROWS


def _allowance(deviance: LaplaceDeviance, best: Optimum) -> float:
    """Evaluations that other starts may take."""
    return max(SECONDS / deviance.seconds, 0.0 if best.converged else 2.0 * MANY)


def _others(
    search: GeneralSearch, best: Optimum, allowed: float, number: int | None
) -> Optimum:  # fmt: skip
    """Search from other starts, and keep the lowest end."""
    if number is None and allowed < LEAST:  # each evaluation is dear
        return best
    before = len(search.history)
    returned, values = 0, [best.deviance]
    for place, x in enumerate(_starting_points(search.deviance, best.x)):
        spent = len(search.history) - before
        apart = returned == 0 and len(values) > 2
        most = allowed * (APART if apart else 1.0)
        if number is None and (spent >= most or (returned == 2 and best.converged)):
            break
        if number is not None and place == number:
            break
        search.place += 1
        search.stop = _returns(search, best)
        search.allowed = len(search.history) + LIMIT
        end, message, done = search.run(x)
        if message == RETURNED:
            returned += 1
            continue
        other = search.certified(end, message, done)
        values.append(other.deviance)
        gain = best.deviance - other.deviance
        if gain > GAIN or (other.converged and not best.converged and gain > -GAIN):
            best = other
    found = np.sort([value for value in values if np.isfinite(value)])
    different = 1 + int(np.count_nonzero(np.diff(found) > SAME))
    return replace(best, n_starts=search.place + 1, n_optima=different)


RETURNED = "abandoned: an optimum that is known"


def _returns(search: GeneralSearch, best: Optimum) -> Callable[[FloatArray], str | None]:
    """Stops a search that has come near a known end."""
    scale = np.maximum(np.abs(best.x), 0.1)

    def stop(x: FloatArray) -> str | None:
        near = abs(search.value(x) - best.deviance) < 0.1
        close = np.abs(np.abs(x) - np.abs(best.x)).max(initial=0.0) < 0.3 * scale.max()
        return RETURNED if best.converged and near and close else None

    return stop


def _starting_points(deviance: LaplaceDeviance, x: FloatArray) -> Iterator[FloatArray]:
    """Large, small and one-sided variances, then random ones.

    The first leave nothing to overdispersion and excess zeros, which compete with them.
    """
    widths = [k for k, _ in deviance.cross.sizes]
    a = deviance.covariance.n_theta
    first = start(deviance)[a:]
    nothing, r = first.copy(), deviance.fixed.r
    for part, sign in deviance.leaving():
        level = np.full(deviance.data.n, sign * NOTHING_LEFT)
        own = (
            level[:1] if part.design is None else np.linalg.lstsq(part.design, level, rcond=None)[0]
        )
        nothing[r:][part.columns] = own

    def sized(sizes: Sequence[float], rest: FloatArray) -> FloatArray:
        each = [np.full(k, size) for k, size in zip(widths, sizes, strict=True)]
        return np.concatenate([independent(deviance, each), rest])

    if not np.array_equal(nothing, first):
        yield sized([2.0] * len(widths), nothing)
    for size in (2.0, 0.1):
        yield sized([size] * len(widths), first)
    for t in range(len(widths) if len(widths) > 1 else 0):
        yield sized([2.0 if s == t else 0.1 for s in range(len(widths))], x[a:])
    for theta in random_starts(deviance.covariance, deviance.units, None, DECADES):
        yield np.concatenate([theta, first])


# ------------------------------------------------------------------- covariance of estimates


@alone
def difference_hessian(
    deviance: LaplaceDeviance, x: FloatArray, free: BoolArray
) -> FloatArray:  # fmt: skip
    """Hessian of the deviance in x by central differences of the exact gradient, (m, m).

    NaN in rows and columns that are not ``free``, and where the deviance has lost its digits.
    """
    try:
        return _differences(deviance, x, free)
    except (FloatingPointError, NotPositiveDefiniteError):
        return np.full((len(x), len(x)), np.nan)


def _differences(
    deviance: LaplaceDeviance, x: FloatArray, free: BoolArray
) -> FloatArray:  # fmt: skip
    model, inner = deviance.model(x), deviance.parameters.in_tangent
    rows = np.flatnonzero(free)
    T = deviance.natural[np.ix_(rows, rows)]
    curvature = np.abs(np.diag(T.T @ model.hessian[np.ix_(inner, inner)][np.ix_(rows, rows)] @ T))
    a = deviance.covariance.n_theta
    steps = HESSIAN_STEP * np.sqrt(2.0 / np.maximum(curvature, 1e-300))
    unit, r = deviance.predictor_unit, deviance.fixed.r
    large = 1e3 * np.ones(len(x))
    large[a : a + r] *= unit
    large[:a] = np.minimum(1e3 * max(unit, 1.0), deviance.units)
    steps = np.clip(steps, 1e-9 * min(unit, 1.0), 1e-3 * large[rows])
    out = np.empty((len(rows), len(rows)))
    for i, size in enumerate(steps):
        step = np.zeros(len(x))
        step[rows] = size * T[:, i]
        up, down = deviance.gradient(x + step), deviance.gradient(x - step)
        out[i] = T.T @ (up - down)[rows] / (2.0 * size)
    deviance.model(x)
    back = np.linalg.inv(T)
    H = np.full((len(x), len(x)), np.nan)
    H[np.ix_(rows, rows)] = back.T @ (0.5 * (out + out.T)) @ back
    return H
