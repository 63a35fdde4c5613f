"""Bootstrap replicates and the intervals made of them.

Parametric: responses simulated at the estimates, each fitted (Davison & Hinkley 1997, section 2.2).
Cases: levels of a grouping factor drawn with replacement together with all their rows (section
3.8; the outer factor only, the cases bootstrap of van der Leeden, Meijer & Busing 2008). A level
drawn twice counts as two levels.

Intervals, with R replicates ``t*`` of an estimate t and ``t*_(j)`` their j-th smallest (Davison &
Hinkley 1997): percentile, ``t*_((R+1) alpha)`` (eq. 5.18); basic, ``2 t - t*_((R+1)(1 - alpha))``
(eq. 5.6); normal, ``t - bias -+ z se`` (section 5.2.1); BCa, percentile at the levels (Efron 1987;
section 5.3.2)

    Phi{ w + (w + z_alpha) / (1 - a (w + z_alpha)) },      w = Phi^-1(#{t* < t} / R),

with the acceleration ``a = sum L_j^3 / (6 (sum L_j^2)^(3/2))`` from jackknife values ``L_j`` that
leave out one group at a time (section 2.7.3). Fractional ranks are interpolated on the normal
scale (eq. 5.8).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import scipy

from sparselmm.base.cholesky import NotPositiveDefiniteError
from sparselmm.base.exceptions import DataError
from sparselmm.base.seeds import stream
from sparselmm.base.threads import one_thread
from sparselmm.base.types import AnyArray, FloatArray, IntArray
from sparselmm.base.workers import Workers, in_parallel
from sparselmm.design.subsets import Groups
from sparselmm.design.terms import Design, TermLayout
from sparselmm.inference.resampling.simulate import Simulator
from sparselmm.inference.variances import VarianceLayout
from sparselmm.likelihood.covariance import Covariance
from sparselmm.likelihood.deviance import ProfiledDeviance
from sparselmm.likelihood.engine import fit_design
from sparselmm.likelihood.many.responses import ResponseFits, ResponseFitter

T = TypeVar("T")
R = TypeVar("R")

KINDS = ("percentile", "basic", "normal", "bca")

STACK = 128
"""Replicates per task when they are fitted together."""

FEW = 4
"""Replicates per task when each is fitted alone."""


# ----------------------------------------------------------------------------- replicates


@dataclass(frozen=True, eq=False)
class Replicate:
    """One simulated or resampled data set with its optimum.

    Attributes
    ----------
    deviance : ProfiledDeviance
        Shares its factorization with other replicates, and then evaluates anew when asked.
    theta : ndarray, (n_theta,)
    rows : ndarray of int, (m,), or None
        Rows of the fit that were drawn, None for those of the fit.
    """

    design: Design
    deviance: ProfiledDeviance
    theta: FloatArray
    rows: IntArray | None = None


Statistic = Callable[[Replicate], FloatArray]
"""Numbers of one replicate, (c,); always the same many."""


class ParametricReplicates:
    """Fits of simulated responses.

    Parameters
    ----------
    statistic : callable, optional
        Computed for every replicate in place of `quantities`.
    width : int
        How many numbers the statistic has.
    """

    def __init__(
        self, simulator: Simulator, fitter: ResponseFitter, statistic: Statistic | None = None,
        width: int = 0,
    ):  # fmt: skip
        self.simulator, self.fitter, self.statistic = simulator, fitter, statistic
        self.width = width
        self.task = FEW if fitter.batch is None else STACK

    def __call__(self, seed: np.random.SeedSequence, indices: range) -> tuple[FloatArray, AnyArray]:
        """Values (m, c) and reasons of failures, empty strings for none, (m,)."""
        with one_thread():
            Y = self.simulator.draw(seed, indices)
            fits = self.fitter.fit(Y)
            if self.statistic is not None:
                values = self._statistics(Y, fits)
            else:
                covariance, terms = self.fitter.deviance.covariance, self.fitter.design.terms
                values = quantities(fits.theta, fits.beta, fits.scale, covariance, terms)
        failure = np.where(fits.converged, fits.failure, "not converged")
        values[failure != ""] = np.nan
        return values, failure

    def _statistics(self, Y: FloatArray, fits: ResponseFits) -> FloatArray:
        assert self.statistic is not None
        rows: list[FloatArray | None] = []
        for i, y in enumerate(Y):
            if not fits.converged[i]:
                rows.append(None)
                continue
            deviance = self.fitter.deviance_of(self.fitter.projector(y[None]))
            design = replace(self.fitter.design, y=y)
            rows.append(self.statistic(Replicate(design, deviance, fits.theta[i])))
        return _stacked(rows, self.width)


class CaseReplicates:
    """Fits of data sets made of groups drawn with replacement.

    Parameters
    ----------
    deviance : ProfiledDeviance
        Of the fit, for what it optimizes.
    start : ndarray, (n_theta,)
        Where every search starts.
    statistic : callable, optional
        Computed for every replicate in place of `quantities`.
    width : int
        How many numbers are computed.
    """

    task = 16

    def __init__(
        self, groups: Groups, deviance: ProfiledDeviance, start: FloatArray,
        statistic: Statistic | None = None, width: int = 0,
    ):  # fmt: skip
        self.groups, self.start, self.statistic = groups, start, statistic
        self.width = width
        self.deviance = deviance

    def __call__(self, seed: np.random.SeedSequence, indices: range) -> tuple[FloatArray, AnyArray]:
        """Values (m, c) and reasons of failures, empty strings for none, (m,)."""
        G = len(self.groups)
        draws = [np.random.default_rng(stream(seed, i)).integers(0, G, G) for i in indices]
        return self.fit_draws(draws)

    def fit_draws(self, draws: Sequence[IntArray]) -> tuple[FloatArray, AnyArray]:
        """The same for given groups."""
        rows: list[FloatArray | None] = []
        failure = np.full(len(draws), "", dtype=object)
        with one_thread():
            for i, draw in enumerate(draws):
                try:
                    row, failure[i] = self._one(draw)
                except (DataError, NotPositiveDefiniteError, np.linalg.LinAlgError) as error:
                    row, failure[i] = None, str(error)
                rows.append(row)
        return _stacked(rows, self.width), failure

    def _one(self, draw: IntArray) -> tuple[FloatArray | None, str]:
        design = self.groups.design(draw)
        deviance, opt = fit_design(design, self.deviance, self.start)
        cross = deviance.cross
        if cross.basis.rank < self.deviance.cross.basis.rank:
            return None, "the fixed-effects design lost rank"
        if not opt.converged:
            return None, "not converged"
        if self.statistic is not None:
            rows = self.groups.drawn(draw)
            return self.statistic(Replicate(design, deviance, opt.theta, rows)), ""
        fit = deviance.at(opt.theta)
        beta = np.full(design.p, np.nan)
        beta[cross.basis.kept] = fit.beta
        scale = np.array([fit.scale])
        covariance, terms = deviance.covariance, design.terms
        return quantities(opt.theta[None], beta[None], scale, covariance, terms)[0], ""


def _stacked(rows: Sequence[FloatArray | None], width: int) -> FloatArray:
    """Rows as one array, NaN for those missing; of some width when all are."""
    width = next((len(row) for row in rows if row is not None), width)
    return np.array([np.full(width, np.nan) if row is None else row for row in rows], dtype=float)


# ------------------------------------------------------------------------- what is computed


def quantity_names(x_names: Sequence[str], layout: VarianceLayout) -> list[str]:
    """Names of `quantities`."""
    sizes = [
        f"{name[: -len(' Var')]} SD" if i == j else f"{name[: -len(' Cov')]} Cor"
        for name, i, j in zip(layout.names, layout.rows, layout.cols, strict=True)
    ]
    return [*x_names, *layout.names, "Residual Var", *sizes, "Residual SD"]


def quantities(
    theta: FloatArray, beta: FloatArray, scale: FloatArray, covariance: Covariance,
    terms: Sequence[TermLayout],
) -> FloatArray:  # fmt: skip
    """Everything estimated, one fit per row, (m, c).

    Fixed effects; variances and covariances, then the residual variance; standard deviations and
    correlations, then the residual one. All in the units of the data.
    """
    layout = VarianceLayout.of(terms)
    psi = []
    for term, part in zip(covariance.terms, covariance.slices, strict=True):
        lam = np.array([term.factor(row) for row in theta[:, part]]).reshape(-1, term.k, term.k)
        psi.append(scale[:, None, None] * (lam @ lam.transpose(0, 2, 1)))
    variances = np.empty((len(theta), len(layout.names)))
    sizes = np.empty_like(variances)
    with np.errstate(divide="ignore", invalid="ignore"):
        for j, (t, a, b) in enumerate(zip(layout.terms, layout.rows, layout.cols, strict=True)):
            variances[:, j] = psi[t][:, a, b]
            size = np.sqrt(psi[t][:, a, a]) * np.sqrt(psi[t][:, b, b])
            sizes[:, j] = np.sqrt(psi[t][:, a, a]) if a == b else psi[t][:, a, b] / size
    return np.column_stack([beta, variances, scale, sizes, np.sqrt(scale)])


# ------------------------------------------------------------------------------- many tasks


def run(
    replicates: Callable[[np.random.SeedSequence, range], tuple[FloatArray, AnyArray]],
    seed: np.random.SeedSequence, first: int, n: int, task: int, workers: Workers,
) -> Iterator[tuple[FloatArray, AnyArray]]:  # fmt: skip
    """Replicates ``first, ..., n - 1`` of a seed, task by task in their order.

    The tasks do not depend on the number of workers, and a replicate depends on nothing but the
    seed and its number.

    Parameters
    ----------
    replicates : callable
        Values and reasons of failures of a range of replicates.
    task : int
        Replicates per task.
    """
    ranges = (range(a, min(a + task, n)) for a in range(first, n, task))
    return in_parallel(functools.partial(replicates, seed), ranges, workers)


# -------------------------------------------------------------------------------- intervals


def intervals(
    estimate: FloatArray, values: FloatArray, alpha: float, kind: str,
    jackknife: FloatArray | None = None,
) -> FloatArray:  # fmt: skip
    """Ends of bootstrap intervals, (c, 2); see the module's head for the equations.

    Parameters
    ----------
    estimate : ndarray, (c,)
    values : ndarray, (R, c)
        Replicates; those with NaN are left out column by column.
    alpha : float
        One minus the confidence level.
    kind : {"percentile", "basic", "normal", "bca"}
    jackknife : ndarray, (g, c), optional
        Estimates without one group; needed for "bca".

    Returns
    -------
    ndarray, (c, 2)
        NaN where the estimate is NaN, or where fewer than two replicates are left.
    """
    out = np.full((len(estimate), 2), np.nan)
    levels = np.array([alpha / 2.0, 1.0 - alpha / 2.0])
    for j, t in enumerate(estimate):
        column = np.sort(values[np.isfinite(values[:, j]), j])
        if len(column) < 2 or not np.isfinite(t):
            continue
        if kind == "percentile":
            out[j] = order_statistics(column, levels)
        elif kind == "basic":
            out[j] = 2.0 * t - order_statistics(column, levels[::-1])
        elif kind == "normal":
            out[j] = 2.0 * t - column.mean() + scipy.stats.norm.ppf(levels) * column.std(ddof=1)
        else:
            assert jackknife is not None
            own = jackknife[:, j]
            a = acceleration(t, own[np.isfinite(own)])
            out[j] = order_statistics(column, _bca_levels(t, column, levels, a))
    return out


def acceleration(t: float, jackknife: FloatArray) -> float:
    """``sum L^3 / (6 (sum L^2)^(3/2))`` with ``L_j = t - t_(-j)``; 0 when nothing varies."""
    L = t - jackknife
    size = float((L**2).sum())
    return float((L**3).sum()) / (6.0 * size**1.5) if size > 0 else 0.0


def _bca_levels(t: float, column: FloatArray, levels: FloatArray, a: float) -> FloatArray:
    """Levels of the percentile interval after correction for bias and acceleration."""
    R = len(column)
    below = np.clip((column < t).mean() + 0.5 * (column == t).mean(), 0.5 / R, 1.0 - 0.5 / R)
    w = scipy.stats.norm.ppf(below)
    z = w + scipy.stats.norm.ppf(levels)
    return np.asarray(scipy.stats.norm.cdf(w + z / (1.0 - a * z)))


def order_statistics(column: FloatArray, levels: FloatArray) -> FloatArray:
    """``t*_((R+1) level)`` of sorted replicates, interpolated on the normal scale.

    Ranks outside 1 ... R are taken as the smallest or largest replicate.
    """
    R = len(column)
    rank = (R + 1) * levels
    k = np.clip(np.floor(rank).astype(int), 1, R - 1)
    z, z0, z1 = (scipy.stats.norm.ppf(at) for at in (levels, k / (R + 1), (k + 1) / (R + 1)))
    share = np.clip((z - z0) / (z1 - z0), 0.0, 1.0)
    low, high = column[k - 1], column[k]
    return np.asarray(low + share * (high - low))


def jackknife(replicates: CaseReplicates) -> tuple[FloatArray, AnyArray]:
    """Estimates without one group at a time, (g, c), and reasons of failures."""
    everyone = np.arange(len(replicates.groups))
    return replicates.fit_draws([np.delete(everyone, g) for g in everyone])
