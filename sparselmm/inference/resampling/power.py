"""Power of a test by simulation (Green & MacLeod 2016).

Responses are simulated from a fitted model whose fixed effects were set to the effects looked for,
on its own rows or on a design with another number of groups, and tested; the share of rejections is
the power, with the exact binomial interval of Clopper & Pearson (1934). A design with more groups
repeats the rows of the present ones in turn, each copy a new group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy

from sparselmm.base.threads import one_thread
from sparselmm.base.types import AnyArray, FloatArray, IntArray
from sparselmm.design.terms import Design
from sparselmm.inference.resampling.simulate import Simulator, noise_sizes
from sparselmm.inference.wald import Wald
from sparselmm.likelihood.deviance import ProfiledDeviance
from sparselmm.likelihood.engine import of_design
from sparselmm.likelihood.many.responses import ResponseFitter


@dataclass(frozen=True, eq=False)
class Scenario:
    """A model to simulate from and to fit.

    Attributes
    ----------
    theta : ndarray, (n_theta,)
    beta : ndarray, (p,)
        True fixed effects.
    rows : ndarray of int, (n,), or None
        Rows of the fit the design is made of, None for all of them as they are.
    """

    design: Design
    deviance: ProfiledDeviance
    theta: FloatArray
    sigma: float
    beta: FloatArray
    rows: IntArray | None = None

    @property
    def simulator(self) -> Simulator:
        """Draws responses."""
        design = self.design
        mean = design.X @ np.nan_to_num(self.beta)
        mean = mean if design.offset is None else mean + design.offset
        roots = tuple(self.sigma * lam for lam in self.deviance.covariance.factors(self.theta))
        noise = noise_sizes(self.sigma, design.weights, design.n)
        return Simulator(mean, design.Z, roots, self.deviance.cross.sizes, noise)


class WaldTest:
    """Two-sided p-values of coefficients by the normal distribution, at each fit's own SE.

    Parameters
    ----------
    columns : ndarray of int, (c,)
        Coefficients to test, each alone.
    """

    def __init__(self, scenario: Scenario, columns: IntArray):
        self.columns = columns
        self.fitter = ResponseFitter(scenario.design, scenario.deviance, start=scenario.theta)

    def __call__(self, Y: FloatArray) -> FloatArray:
        """P-values of responses (m, n), (m, c); NaN where a fit failed."""
        fits = self.fitter.fit(Y)
        p = Wald(fits.beta[:, self.columns], fits.se[:, self.columns]).pvalue
        return np.where(fits.converged[:, None], p, np.nan)


class LikelihoodRatioTest:
    """P-values of all columns together by the likelihood ratio, both models by ML.

    Parameters
    ----------
    columns : ndarray of int, (c,)
        Columns of X that the smaller model lacks.
    """

    def __init__(self, scenario: Scenario, columns: IntArray):
        design, like = scenario.design, scenario.deviance
        small = _without(design, columns)
        self.fitters = [
            ResponseFitter(d, of_design(d, like, reml=False), start=scenario.theta)
            for d in (design, small)
        ]
        ranks = [fitter.deviance.cross.basis.rank for fitter in self.fitters]
        self.df = ranks[0] - ranks[1]

    def __call__(self, Y: FloatArray) -> FloatArray:
        """P-values of responses (m, n), (m, 1); NaN where a fit failed."""
        large, small = (fitter.fit(Y) for fitter in self.fitters)
        p = scipy.stats.chi2.sf(np.maximum(small.deviance - large.deviance, 0.0), self.df)
        return np.where(large.converged & small.converged, p, np.nan)[:, None]


def _without(design: Design, columns: IntArray) -> Design:
    kept = np.setdiff1d(np.arange(design.p), columns)
    return replace(design, X=design.X[:, kept], x_names=tuple(design.x_names[j] for j in kept))


class PValues:
    """P-values of simulated responses, task by task.

    Parameters
    ----------
    test : callable
        P-values (m, c) of responses (m, n).
    task : int
        Responses per task.
    """

    def __init__(self, simulator: Simulator, test: Callable[[FloatArray], FloatArray], task: int):
        self.simulator, self.test, self.task = simulator, test, task

    def __call__(self, seed: np.random.SeedSequence, indices: range) -> tuple[FloatArray, AnyArray]:
        """P-values of some replicates, and whether they failed."""
        with one_thread():
            p = self.test(self.simulator.draw(seed, indices))
        return p, np.where(np.isnan(p).any(axis=1), "no p-value", "").astype(object)


def clopper_pearson(successes: int, trials: int, alpha: float = 0.05) -> tuple[float, float]:
    """Exact binomial confidence interval (Clopper & Pearson 1934).

    Parameters
    ----------
    alpha : float
        One minus the confidence level.

    Returns
    -------
    tuple of float
        Lower and upper end; (0, 1) without trials.
    """
    x, n = successes, trials
    low = 0.0 if x == 0 else float(scipy.stats.beta.ppf(alpha / 2.0, x, n - x + 1))
    high = 1.0 if x == n else float(scipy.stats.beta.ppf(1.0 - alpha / 2.0, x + 1, n - x))
    return low, high


def cycled(n_groups: int, present: int) -> IntArray:
    """Which of the present groups each of ``n_groups`` copies, (n_groups,)."""
    return np.arange(n_groups) % present


def columns_of(names: Sequence[str], x_names: Sequence[str]) -> IntArray:
    """Places of coefficients.

    Raises
    ------
    KeyError
        When a name is unknown.
    """
    place = {name: j for j, name in enumerate(x_names)}
    return np.array([place[name] for name in names], dtype=np.intp)
