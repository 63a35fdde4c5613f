"""What a search on probes ends in: an estimate with its error, or one exact evaluation and a proof.

*Finish.* The exact gradient at the search's end differs from the estimated one by the error of the
traces, which hardly changes nearby: added as a constant to the derivative in every ``Psi_t``, it
lets the search go on to the exact optimum. Since the derivative there is zero, the deviance falls
on the way by half of the exact slope along the straight step in the roots, and where that is little
no second factorization is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sparselmm.base.threads import one_thread
from sparselmm.base.types import FloatArray
from sparselmm.likelihood.deviance import ProfiledDeviance
from sparselmm.likelihood.evaluations import PLSFit
from sparselmm.likelihood.krylov.deviance import FLOOR, Probed
from sparselmm.likelihood.krylov.search import (
    DONE,
    FAILURES,
    LIMIT,
    Found,
    basis_at,
    monte_carlo_error,
    search,
)
from sparselmm.likelihood.optimize import TOLERANCE, checked_start, minimize
from sparselmm.likelihood.quadratic import Quadratic
from sparselmm.likelihood.record import Callback, OptSummary, Point, Recorder, evidence

AGAIN = 2e-6
"""Promised decrease at the exact evaluation up to which one is enough: the end of the corrected
search is right to about 1e-5 of it."""

FALLS = 2e-7
"""The same up to which the fall to that end is not computed exactly: it is of first order in the
error of the traces and of third order in the step, and off by up to 1.5e-3 of it."""

TRUSTED = 5e-6
"""Monte Carlo error of theta, in standard errors, up to which the estimated gradient leads as near
to the optimum as an exact one: five times as much raises the deviance by 6e-10."""

AIM = 0.8
"""Share of that at which more probes aim, since the errors of few of them are themselves rough."""

MANY_PROBES = 512
"""Probes beyond which their memory is not spent on it."""

CLOSE = 1e-12
"""Promised decrease at which the search with the exact gradient ends."""

LAST = 8
"""Evaluations of that search."""

ROUNDS = 3
"""Exact evaluations after which the probes are not believed."""

MISLED = f"the probes still mislead after {ROUNDS} exact evaluations; use more of them, probes="


class KrylovDeviance(Probed):
    """`Probed` with a search of its own, by which all others that are asked to minimize it go.

    Attributes
    ----------
    target : float
        Largest Monte Carlo error of theta at the end of a search, in standard errors.
    """

    target: float = 0.01

    def minimized(
        self, whole: ProfiledDeviance, start: FloatArray, callback: Callback | None
    ) -> OptSummary:
        """The minimum of ``whole``, which works with this deviance."""
        return minimize_by_probes(whole, start, target=self.target, callback=callback)


@dataclass(frozen=True)
class Spare:
    """What may be spent in place of an exact gradient, in evaluations on probes.

    Attributes
    ----------
    evaluations : float
        All of it.
    second_order : float
        What traces that are exact to second order cost.
    """

    evaluations: float = 0.0
    second_order: float = np.inf


NOTHING = Spare()


@dataclass(frozen=True, eq=False)
class Ended:
    """The end of a fit."""

    opt: OptSummary
    fit: PLSFit

    def failed(self, message: str) -> Ended:
        """The same, not converged."""
        return Ended(replace(self.opt, converged=False, message=message), self.fit)


def minimize_by_probes(
    deviance: ProfiledDeviance, start: FloatArray, *, target: float, limit: int = LIMIT,
    tolerance: float = DONE, callback: Callback | None = None,
) -> OptSummary:  # fmt: skip
    """Minimize a deviance whose traces are estimated, with the error that remains.

    Parameters
    ----------
    deviance : ProfiledDeviance
        A `Probed`, or one that works with it.
    start : ndarray, (n_theta,)
    target : float
        Largest Monte Carlo error of theta, in standard errors.
    limit : int
    tolerance : float
        Promised decrease at which to stop.
    callback : callable, optional
        Called with every evaluation.
    """
    inner, recorder, found = _searched(deviance, start, target, limit, tolerance, callback)
    gammas, hessian = (
        inner.entries(inner.tangent_model(found.theta)[0]),
        inner.tangent_model(found.theta)[1],
    )
    theta = inner.covariance.rectify(inner.settled(found.theta))
    value, rounding = inner.estimated(theta), inner.rounding(theta)
    message = found.message
    finished = found.finished and found.error <= target
    if found.finished and not finished:
        message = (
            f"the Monte Carlo error of theta is {found.error:.2g} standard errors with "
            f"{inner.solver.settings.probes} probes, more than mc_tolerance={target:g}"
        )
    opt = _summary(
        deviance, inner, recorder, theta, (gammas, hessian), value.value, rounding, message,
        finished,
    )  # fmt: skip
    return replace(
        opt, mc_error=found.error, mc_deviance=value.error, probes=inner.solver.settings.probes
    )


def minimize_certified(
    deviance: ProfiledDeviance, exact: ProfiledDeviance, start: FloatArray, *, target: float,
    callback: Callback | None = None,
    threads: Callable[[], AbstractContextManager[Any]] = nullcontext, spare: Spare = NOTHING,
) -> Ended:  # fmt: skip
    """Search on probes, then one exact evaluation and the proof; the result is exact.

    Parameters
    ----------
    deviance : ProfiledDeviance
        With traces from probes.
    exact : ProfiledDeviance
        The same with an exact factorization.
    start, target, callback
        As in `minimize_by_probes`.
    threads : callable
        Makes the context in which exact evaluations run.
    spare : Spare
        What probes may cost that take the place of an exact gradient where they tell it as well,
        see `TRUSTED`.
    """
    whole: ProfiledDeviance = getattr(exact, "inner", exact)
    inner, theta = _engine_of(deviance), deviance.working(start)[1]
    try:
        with one_thread():
            inner, recorder, found = _searched(deviance, start, target, LIMIT, DONE, callback)
            sure = _surely(inner, recorder, found, spare)
            theta, level = _pressed(inner, found.theta), found.level
        if sure is not None:
            return _with_value(deviance, exact, recorder, sure, threads)
        for again in reversed(range(ROUNDS)):
            with threads():
                at = _exactly(whole, theta)
            size = float(np.abs(at.gradient).max(initial=0.0))
            recorder.record(theta, level, gradient_norm=size)
            with one_thread():
                inner.shift = _shift(inner, at)
                inner.forget()
                last = search(
                    inner, theta, recorder, tolerance=CLOSE, target=None, limit=LAST, level=level
                )
                promised = _promised(inner, at)
                if promised <= AGAIN or (not again and isinstance(whole, Probed)):
                    long = None if promised <= FALLS else threads
                    ended = _certificate(deviance, whole, recorder, at, last, long)
                    return ended if promised <= AGAIN else ended.failed(MISLED)
            theta, level = last.theta, last.level
    except FAILURES:
        if isinstance(whole, Probed):
            raise
    finally:
        inner.shift = None
        inner.forget()
    with threads():  # the probes mislead, and exact evaluations are within reach
        opt = minimize(exact, exact.original(theta), callback=callback)
        return Ended(opt, exact.at(opt.theta))


def _surely(
    inner: Probed, recorder: Recorder, found: Found, spare: Spare
) -> Found | None:  # fmt: skip
    """The search gone on until its end is as good as an exact one; None where that is dear.

    Where a variance is zero an exact gradient must say that it is.
    """
    settled = np.array_equal(inner.settled(found.theta), found.theta)
    if not found.finished or not settled or not inner.solver.n_groups:
        return None
    old, error, left = inner.solver.settings, found.error, spare.evaluations
    finer = error > TRUSTED and spare.second_order <= left
    if finer:
        error, left = _refined(inner, found.theta), left - spare.second_order
    share = 2.0 ** np.ceil(np.log2(max((error / (AIM * TRUSTED)) ** 2, 1.0)))
    if error > TRUSTED:
        if 2.0 * share > left or share * old.probes > MANY_PROBES:
            return None
        inner.solver.reset(replace(old, probes=int(share) * old.probes))
        inner.shift = None
        inner.forget()
        if finer:
            error = _refined(inner, found.theta)
    last = search(
        inner, found.theta, recorder, tolerance=CLOSE, target=None, limit=LAST, level=found.level
    )
    last = replace(last, error=error) if finer else last
    good = last.error <= TRUSTED and last.promised < TOLERANCE
    return last if good and np.array_equal(inner.settled(last.theta), last.theta) else None


def _refined(inner: Probed, theta: FloatArray) -> float:
    """Let the search go on with traces that are exact to second order; the error they leave."""
    gradient, hessian = inner.tangent_model(theta)
    shift, traced = inner.second_order(theta)
    basis = basis_at(inner, theta, gradient)
    error = monte_carlo_error(inner, theta, basis, basis.T @ hessian @ basis, traced)
    inner.shift = shift
    inner.forget()
    return error


def _with_value(
    deviance: ProfiledDeviance, exact: ProfiledDeviance, recorder: Recorder, last: Found,
    threads: Callable[[], AbstractContextManager[Any]],
) -> Ended:  # fmt: skip
    """The end of a search that may be trusted, with its exact value."""
    inner = _engine_of(deviance)
    with one_thread():
        gradient, hessian = inner.tangent_model(last.theta)
        theta = inner.covariance.rectify(last.theta)
        rounding = inner.rounding(theta)
    whole: ProfiledDeviance = getattr(exact, "inner", exact)
    with threads():
        value = whole.value(theta)
        fit = exact.at(exact.anchored(theta))
    recorder.record(theta, last.level)
    opt = _summary(
        deviance, inner, recorder, theta, (inner.entries(gradient), hessian), value, rounding,
        last.message, True,
    )  # fmt: skip
    return Ended(replace(opt, mc_error=last.error, probes=inner.solver.settings.probes), fit)


def _exactly(whole: ProfiledDeviance, theta: FloatArray) -> Point:
    """Value, gradient and model Hessian in tangent coordinates at a theta of the engine."""
    value = whole.value(theta)
    gradient, hessian = whole.tangent_model(theta)
    return Point(theta, value, gradient, hessian, whole.rounding(theta))


def _shift(inner: Probed, at: Point) -> list[FloatArray]:
    """The exact derivative in every ``Psi_t`` less the estimated one."""
    inner.shift = None
    inner.forget()
    rough = inner.entries(inner.tangent_gradient(at.theta))
    pairs = (inner.psi_slopes(G, at.theta) for G in (inner.entries(at.gradient), rough))
    return [a - b for a, b in zip(*pairs, strict=True)]


def _promised(inner: Probed, at: Point) -> float:
    """Decrease that a step from an exact evaluation promises."""
    basis = basis_at(inner, at.theta, at.gradient)
    return Quadratic.of(basis.T @ at.hessian @ basis, basis.T @ at.gradient).expected_decrease


def _certificate(
    deviance: ProfiledDeviance, whole: ProfiledDeviance, recorder: Recorder, at: Point,
    last: Found, threads: Callable[[], AbstractContextManager[Any]] | None,
) -> Ended:  # fmt: skip
    """The end of the search that went on from an exact evaluation, and the solution there.

    Where the way is long, and ``threads`` are given for it, or not straight, because columns of
    ``lambda_t`` went from the floor to zero, the value is computed again unless that takes a disk.
    """
    inner = _engine_of(deviance)
    gradient, hessian = inner.tangent_model(last.theta)
    theta = inner.covariance.rectify(inner.settled(last.theta))
    straight = np.array_equal(inner.settled(last.theta), last.theta)
    if (straight and threads is None) or isinstance(whole, Probed):
        value = at.value + _drop(inner, at.theta, theta, inner.entries(at.gradient))
    else:
        with (threads or nullcontext)():
            value = whole.value(theta)
        recorder.record(theta, last.level)
    opt = _summary(
        deviance, inner, recorder, theta, (inner.entries(gradient), hessian), value, at.rounding,
        last.message, last.finished or last.promised < TOLERANCE,
    )  # fmt: skip
    fit = inner.completed(theta, value)
    if deviance is not inner:
        u, b = deviance.effects(opt.theta, fit.u)
        fit = replace(fit, theta=opt.theta.copy(), u=u, b=b)
    return Ended(opt, fit)


def _searched(
    deviance: ProfiledDeviance, start: FloatArray, target: float, limit: int, tolerance: float,
    callback: Callback | None,
) -> tuple[Probed, Recorder, Found]:  # fmt: skip
    start = checked_start(deviance.covariance, start)
    inner, (_, at) = _engine_of(deviance), deviance.working(start)
    recorder = Recorder(inner, callback)
    return (
        inner,
        recorder,
        search(inner, at, recorder, target=target, limit=limit, tolerance=tolerance),
    )


def _engine_of(deviance: ProfiledDeviance) -> Probed:
    """What works with probes."""
    inner = getattr(deviance, "inner", deviance)
    assert isinstance(inner, Probed)
    return inner


def _summary(
    deviance: ProfiledDeviance, inner: Probed, recorder: Recorder, theta: FloatArray,
    model: tuple[list[FloatArray], FloatArray], value: float, rounding: float, message: str,
    finished: bool,
) -> OptSummary:  # fmt: skip
    """The record, in the coordinates of the model; entries at the boundary have no slope."""
    lams = inner.covariance.factors(theta)
    gammas = [np.where(lam.any(axis=0), G, 0.0) for lam, G in zip(lams, model[0], strict=True)]
    inside = inner.covariance.in_tangent
    gradient = inner.covariance.chain(theta, gammas)
    point = Point(theta, value, gradient, model[1][np.ix_(inside, inside)], rounding)
    opt = evidence(recorder, point, "newton on probes", message, finished, TOLERANCE)
    offset = value - next(one.deviance for one in reversed(opt.history) if one.accepted)
    history = tuple(
        replace(one, theta=deviance.original(one.theta), deviance=one.deviance + offset)
        for one in opt.history
    )
    at = deviance.anchored(theta)
    gradient, hessian = deviance.carried(at, gammas, model[1])
    return replace(opt, theta=at, gradient=gradient, hessian=hessian, history=history)


def _pressed(deviance: Probed, theta: FloatArray) -> FloatArray:
    """Columns of ``lambda_t`` at the floor that the gradient presses down, at its lowest end.

    The exact deviance there differs from that at zero by ``Gamma theta / 2`` up to ``theta^4``, and
    the sign of its gradient proves the zero.
    """
    held = deviance.held(theta, deviance.tangent_model(theta)[0])
    return deviance.scaled(
        theta, lambda t, sizes: np.where(held[t][1], 1.2 * FLOOR / np.maximum(sizes, 1e-300), 1.0)
    )


def _drop(deviance: Probed, theta: FloatArray, end: FloatArray, gammas: list[FloatArray]) -> float:
    """How much the deviance falls from theta to the end, where its derivative is zero."""
    total = 0.0
    ends = zip(deviance.covariance.factors(theta), deviance.covariance.factors(end), strict=True)
    for (lam, other), G in zip(ends, gammas, strict=True):
        U, _, Vt = np.linalg.svd(other.T @ lam)
        total += 0.5 * float(np.sum(G * (other @ (U @ Vt) - lam)))
    return total
