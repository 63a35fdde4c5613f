"""Profile likelihood of one parameter at a time, and the intervals it gives.

The profile deviance of a parameter at v is the minimum of

    d(theta, s) = log det M + n log(2 pi s^2) + pwrss(theta) / s^2 - sum log w

over everything else; ``zeta(v) = sign(v - estimate) sqrt(d(v) - d(estimate))`` is compared with
normal quantiles (Bates & Watts 1988, section 6.1; Bates, Maechler, Bolker & Walker 2015, section
5.1). The likelihood is the ordinary one also after a REML fit, as in lme4.

The constraints are those of :mod:`sparselmm.inference.intervals.constrained`; every point of a
profile is a minimization with the exact gradient, warm-started from the nearest known point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import scipy

from sparselmm.base.cholesky import NotPositiveDefiniteError
from sparselmm.base.types import FloatArray
from sparselmm.design.terms import TermLayout
from sparselmm.inference.intervals.constrained import (
    Constrained,
    Objective,
    Parameter,
    Point,
    constrained,
)
from sparselmm.inference.variances import is_component
from sparselmm.likelihood.curvature import difference_hessian
from sparselmm.likelihood.deviance import ProfiledDeviance
from sparselmm.likelihood.engine import ml_minimum, with_criterion
from sparselmm.likelihood.patterned import PATTERNED, Patterned

__all__ = ["Parameter", "Point", "Profiler", "parameters", "theta_parameters"]

NEAR_ZERO = 0.05
"""A diagonal of lambda_t below this share of its unit is also tried from well above zero."""

RESTART = 0.5
"""Where it is then started, in units of theta."""

PROMISE = 1e-10
"""Decrease of the deviance that is not worth another evaluation."""

LONGEST = 3.0
"""Longest step, in coordinates where the deviance bends by one."""

MAX_ITERATIONS, MAX_HALVINGS = 200, 12

MAX_STEPS = 60
"""Evaluations of the profile spent on one end of an interval."""


class Profiler:
    """Profiles of every parameter of a fitted model.

    Parameters
    ----------
    deviance : ProfiledDeviance
        REML or ML; profiles are of the likelihood.
    theta : ndarray, (n_theta,)
        Its estimate, where the search for the ML estimate starts.

    Attributes
    ----------
    theta : ndarray
        The ML estimate.
    base : float
        -2 log-likelihood there.
    """

    def __init__(self, deviance: ProfiledDeviance, theta: FloatArray):
        self.base, self.theta = ml_minimum(deviance, theta)
        self.ml = with_criterion(deviance, False)
        self._constrained: dict[Parameter, Constrained] = {}
        self._whitening: dict[Parameter, FloatArray] = {}
        self._points: dict[Parameter, dict[float, Point]] = {}

    def constrained(self, parameter: Parameter) -> Constrained:
        """The constrained deviance of a parameter."""
        if parameter not in self._constrained:
            self._constrained[parameter] = constrained(parameter, self.ml, self.theta)
        return self._constrained[parameter]

    def estimate(self, parameter: Parameter) -> Point:
        """The ML estimate as a point of the profile."""
        c = self.constrained(parameter)
        return c.point(c.estimate, c.start(), self.base)

    def zeta(self, parameter: Parameter, point: Point) -> float:
        """Signed square root of the rise of the deviance."""
        side = np.sign(point.value - self.constrained(parameter).estimate)
        return float(side * np.sqrt(max(point.deviance - self.base, 0.0)))

    # ------------------------------------------------------------------------ one point

    def at(self, parameter: Parameter, value: float) -> Point:
        """The minimum with the parameter at ``value``, warm-started from the nearest known one."""
        known = self._points.setdefault(parameter, {})
        if value in known:
            return known[value]
        c = self.constrained(parameter)
        f = c.objective(value)
        near = min(known, key=lambda v: abs(v - value), default=None)
        start = c.start() if near is None else known[near].phi
        if not len(start):
            known[value] = c.point(value, start, f(start)[0])
            return known[value]
        root = self._root(parameter, f, start)
        best = _descend(f, start, root)
        units = c.units()
        lifted = best[1].copy()
        low = (units > 0) & (np.abs(lifted) < NEAR_ZERO * units)
        if low.any():
            lifted[low] = RESTART * units[low]
            other = _descend(f, lifted, root)
            best = min(best, other, key=lambda pair: pair[0])
        known[value] = self._lowest(parameter, c.point(value, best[1], best[0]))
        return known[value]

    def _lowest(self, parameter: Parameter, point: Point) -> Point:
        """The point, or where a standard deviation is zero and a correlation does not matter."""
        terms = self.ml.covariance.terms
        if parameter.kind != "cor" or (
            isinstance(terms[parameter.term], Patterned) and terms[parameter.term].k > 2
        ):
            return point
        for a in (parameter.first, parameter.second):
            sd = Parameter(f"sd {a}", "sd", parameter.term, a)
            zero = self.at(sd, 0.0)
            if zero.deviance < point.deviance:
                point = replace(zero, value=point.value, phi=point.phi)
        return point

    def _root(
        self,
        parameter: Parameter,
        f: Objective,
        phi: FloatArray,
    ) -> FloatArray:
        """Root of the inverse Hessian, in whose coordinates the deviance is round."""
        if parameter not in self._whitening:
            units = self.constrained(parameter).units()
            size = np.where(units > 0, units, np.maximum(np.abs(phi), 1e-2))
            H = difference_hessian(lambda x: f(x)[1], phi, size)
            values, vectors = np.linalg.eigh(H * np.outer(size, size))
            top = max(float(np.abs(values).max(initial=0.0)), 1e-300)
            shrink = 1.0 / np.sqrt(np.maximum(np.abs(values), 1e-6 * top))
            self._whitening[parameter] = size[:, None] * vectors * shrink
        return self._whitening[parameter]

    # ------------------------------------------------------------------------ intervals

    def limit(self, parameter: Parameter, side: int, z: float) -> float:
        """Where ``|zeta|`` reaches z below (-1) or above (1) the estimate.

        The bound of the parameter when it is not reached before; NaN without an estimate.
        """
        c = self.constrained(parameter)
        if not np.isfinite(c.estimate):
            return np.nan
        bound = c.low if side < 0 else c.high
        if c.estimate == bound:
            return bound

        def excess(value: float) -> float:
            return side * self.zeta(parameter, self.at(parameter, value)) - z

        inside, below = c.estimate, -z
        step = self.first_step(parameter, side) * z
        for _ in range(MAX_STEPS):
            value = inside + side * step
            if side * (value - bound) >= 0 or abs(value - bound) < 1e-9 * abs(c.estimate - bound):
                value = bound
            above = excess(value)
            if above >= 0:
                ends = sorted((inside, value))
                return float(scipy.optimize.brentq(excess, *ends, xtol=1e-8 * step, rtol=1e-12))
            if value == bound:
                return bound
            rate = (above - below) / abs(value - inside)
            reach = -above / rate * 1.05 if rate > 0 else 2.0 * step
            inside, below, step = value, above, float(np.clip(reach, 0.05 * step, 4.0 * step))
        return np.nan

    def first_step(self, parameter: Parameter, side: int) -> float:
        """Change of the parameter that moves zeta by about one, from the size of things."""
        c = self.constrained(parameter)
        fit = self.ml.at(self.theta)
        if parameter.kind == "beta":
            j = parameter.first
            return float(np.sqrt(fit.scale * fit.vcov_unscaled[j, j]))
        if parameter.kind == "sigma":
            return c.estimate / np.sqrt(2.0 * self.ml.df)
        if parameter.kind == "cor":
            return 0.2 if side * c.estimate < 0.5 else 0.5 * (1.0 - abs(c.estimate)) + 1e-3
        if parameter.kind == "theta":
            return max(0.2 * abs(c.estimate), 0.1 * float(self.ml.units[parameter.first]))
        t, a = parameter.term, parameter.first
        unit = fit.sigma / max(float(self.ml.cross.model_rms(t)[a]), 1e-300)
        return max(0.2 * c.estimate, 0.05 * unit)

    def trace(self, parameter: Parameter, z: float, n_points: int) -> list[Point]:
        """Points of the profile about evenly spaced in zeta, from -z to z, in order.

        Parameters
        ----------
        z : float
            Largest zeta.
        n_points : int
            Steps on either side of the estimate.
        """
        c = self.constrained(parameter)
        if not np.isfinite(c.estimate):
            return []
        out = [self.estimate(parameter)]
        for side in (-1, 1):
            out += self._one_side(parameter, side, z, n_points)
        return sorted(out, key=lambda point: point.value)

    def _one_side(self, parameter: Parameter, side: int, z: float, n_points: int) -> list[Point]:
        c = self.constrained(parameter)
        bound = c.low if side < 0 else c.high
        value, reached, out = c.estimate, 0.0, []
        rate = 1.0 / self.first_step(parameter, side)
        for i in range(1, n_points + 1):
            if value == bound:
                break
            step = (z * i / n_points - reached) / rate
            target = value + side * max(step, 0.1 * z / n_points / rate)
            target = bound if side * (target - bound) > 0 else target
            point = self.at(parameter, target)
            zeta = abs(self.zeta(parameter, point))
            rate = max((zeta - reached) / abs(target - value), 0.2 * rate)
            value, reached = target, zeta
            out.append(point)
            if reached > z:
                break
        return out


def _descend(f: Objective, start: FloatArray, root: FloatArray) -> tuple[float, FloatArray]:
    """Minimum of f from ``start`` by BFGS in the coordinates ``start + root x``.

    There the Hessian is about the identity, so full steps are tried first (Nocedal & Wright 2006,
    algorithm 6.1, with backtracking). It ends when another step promises less than `PROMISE`: a
    stricter rule would lose itself in the rounding error of a large deviance.
    """
    x, inverse = np.zeros(len(start)), np.eye(len(start))
    value, gradient = f(start)
    slope = root.T @ gradient
    for _ in range(MAX_ITERATIONS):
        step = -inverse @ slope
        promise = float(-slope @ step)
        if promise < 2.0 * PROMISE:
            break
        step *= min(1.0, LONGEST / float(np.linalg.norm(step)))
        found = _backtrack(f, start + root @ x, root @ step, value, float(slope @ step))
        if found is None:
            break
        share, value, gradient = found
        new = root.T @ gradient
        step, change = share * step, new - slope
        x, slope = x + step, new
        bend = float(step @ change)
        if bend > 1e-12 * float(np.linalg.norm(step) * np.linalg.norm(change)):
            side = np.eye(len(x)) - np.outer(step, change) / bend
            inverse = side @ inverse @ side.T + np.outer(step, step) / bend
    return value, start + root @ x


def _backtrack(
    f: Objective, at: FloatArray, step: FloatArray,
    value: float, slope: float,
) -> tuple[float, float, FloatArray] | None:  # fmt: skip
    """Share of a step that lowers f, with value and gradient there; None when none does."""
    share = 1.0
    for _ in range(MAX_HALVINGS):
        try:
            trial, gradient = f(at + share * step)
        except NotPositiveDefiniteError:
            trial, gradient = np.inf, step
        if trial <= value + 1e-4 * share * slope + 1e-14 * abs(value):
            return share, trial, gradient
        share *= 0.3
    return None


def parameters(
    terms: Sequence[TermLayout], x_names: Sequence[str], *, sigma: bool = True
) -> list[Parameter]:
    """Parameters of a model in lme4's order: terms, sigma, fixed effects.

    Parameters
    ----------
    x_names : sequence of str
        Names of the independent columns of X.
    sigma : bool
        Whether the residual standard deviation is estimated.
    """
    groups = [":".join(term.levels.names) for term in terms]
    coefficients = [(g, name) for g, t in zip(groups, terms, strict=True) for name in t.columns]
    if len(set(coefficients)) < len(coefficients):  # the same bar twice
        groups = [term.name for term in terms]
    out = []
    for t, (term, group) in enumerate(zip(terms, groups, strict=True)):
        out += _of_component(t, term) if is_component(term) else _of_term(t, term, group)
    if sigma:
        out.append(Parameter("sigma", "sigma"))
    return out + [Parameter(name, "beta", first=j) for j, name in enumerate(x_names)]


def _of_component(t: int, term: TermLayout) -> list[Parameter]:
    return [Parameter(f"sd_{term.name}", "sd", t, 0)]


def _of_term(t: int, term: TermLayout, group: str) -> list[Parameter]:
    """Standard deviations and correlations of a term, column by column of its triangle."""
    names = term.columns
    common = term.structure in PATTERNED and term.k > 1
    one_sd = common and "homogeneous" in term.structure
    if one_sd:
        out = [Parameter(f"sd_{group}", "sd", t, 0)]
    else:
        out = [Parameter(f"sd_{name}|{group}", "sd", t, a) for a, name in enumerate(names)]
    if term.is_uncorrelated or term.k == 1:
        return out
    if common:
        return [*out, Parameter(f"cor_{group}", "cor", t, 0, 1)]
    pairs = [
        Parameter(f"cor_{names[b]}.{names[a]}|{group}", "cor", t, a, b)
        for a in range(term.k)
        for b in range(a + 1, term.k)
    ]
    return sorted(out + pairs, key=lambda p: (p.first, p.second))


def theta_parameters(terms: Sequence[TermLayout], n_theta: Sequence[int]) -> list[Parameter]:
    """Entries of theta, named after their term."""
    names = [
        f"theta_{term.name}" + (f"[{i}]" if n > 1 else "")
        for term, n in zip(terms, n_theta, strict=True)
        for i in range(n)
    ]
    return [Parameter(name, "theta", first=i) for i, name in enumerate(names)]
