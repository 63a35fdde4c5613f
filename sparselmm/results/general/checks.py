"""What an expert would look at in a fit of a generalized model."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import scipy.stats as st

from sparselmm.base.arguments import check_count, check_flag
from sparselmm.base.exceptions import DataError
from sparselmm.base.types import FloatArray
from sparselmm.inference.diagnostics.diagnosis import ORDER, Diagnosis, Finding
from sparselmm.likelihood.laplace import moments
from sparselmm.likelihood.laplace.chosen import COUNTS, TRIALS, base_of
from sparselmm.likelihood.laplace.mixtures import CustomFamily
from sparselmm.likelihood.laplace.separation import pure_levels
from sparselmm.results.general.base import GeneralBase
from sparselmm.results.general.simulation import SimulationResults
from sparselmm.results.print.notebook import as_table

DRAWS = 250
"""Simulated responses."""

FEW_LEVELS = 5
"""With fewer levels a variance between them is hardly estimated."""

SIGNIFICANT = 0.05


class CheckResults(SimulationResults):
    """Part of :class:`sparselmm.MixedGLMResults`."""

    @as_table
    def simulated_checks(self, n: int = DRAWS, seed: int | np.random.Generator = 0) -> pd.DataFrame:
        """Dispersion, zeros and outliers, compared with responses simulated from the fit.

        Parameters
        ----------
        n : int
            Simulated responses, random effects drawn anew.
        seed : int or Generator

        Returns
        -------
        DataFrame
            Rows ``dispersion`` (sum of squared Pearson residuals at the modes of the random effects
            that belong to each response), ``zeros`` (of counts),
            ``outliers`` (rows outside all draws); columns ``observed``, ``expected``, ``ratio``,
            ``pvalue`` (two-sided).

        Raises
        ------
        DataError
            When the family cannot be simulated.

        Notes
        -----
        The sum of squared Pearson residuals over the degrees of freedom is biased, for the random
        effects are fitted to the same rows. Here they are fitted to every simulated response as
        well, parameters held.
        """
        check_count(n, "n")
        draws = self._draws(n, seed, "new")
        y, name, live = self.deviance.data.y, base_of(self.family).name, self.model._live
        if name == "ordinal":
            raise DataError("an ordinal response has no dispersion to check")
        own = np.array([self._pearson(column) for column in draws.T])
        rows = {"dispersion": _compared(self._pearson(y), own[np.isfinite(own)])}
        y, draws = y[live], draws[live]
        if name in COUNTS:
            rows["zeros"] = _compared(float((y == 0).sum()), (draws == 0).sum(axis=0))
        outside = (y < draws.min(axis=1)) | (y > draws.max(axis=1))
        expected = 2.0 * len(y) / (n + 1)
        if name in moments.DISCRETE:  # ties make it fewer
            half = n // 2
            ends = draws[:, :half].min(axis=1), draws[:, :half].max(axis=1)
            others = draws[:, half:]
            share = (others < ends[0][:, None]) | (others > ends[1][:, None])
            expected = float(share.sum(axis=0).mean() * (half + 1) / (n + 1))
        seen = int(outside.sum())
        p = float(st.poisson.sf(seen - 1, expected))
        rows["outliers"] = (seen, expected, seen / max(expected, 1e-12), p)
        return pd.DataFrame.from_dict(
            rows, orient="index", columns=["observed", "expected", "ratio", "pvalue"]
        )

    def _pearson(self, y: FloatArray) -> float:
        """Sum of squared Pearson residuals at the modes that belong to a response."""
        engine, numbers, live = self.deviance, self.numbers, self.model._live
        y = np.where(live, y, engine.data.y)
        b = engine.mode_of(y, self.opt.x)
        if b is None:
            return np.nan
        eta = engine.fixed.effects(numbers.parts[1], engine.data.offset) + engine.random.effects(b)
        further, m = self._further(), self._trials()
        mu = moments.mean(self.family, eta, further)
        if base_of(self.family).name in TRIALS:
            mu = m * mu
        v = moments.variance(self.family, eta, further, m)
        good = live & (v > 0)
        return float(((y - mu)[good] ** 2 / v[good]).sum())

    def check(self, simulate: bool = True, seed: int = 0) -> Diagnosis:
        """Look for what an expert would look for.

        Parameters
        ----------
        simulate : bool
            Whether dispersion, zeros and outliers are compared with simulated responses.
        seed : int

        Returns
        -------
        Diagnosis
            Findings with advice, the gravest first.
        """
        simulate = check_flag(simulate, "simulate")
        found = [*self._findings(), *(self._simulated(seed) if simulate else ())]
        found.sort(key=lambda finding: ORDER.index(finding.severity))
        return Diagnosis(tuple(found))

    def _findings(self) -> Iterator[Finding]:
        opt = self.opt
        if opt.separation:
            yield Finding(
                "separation", "problem",
                f"{', '.join(map(repr, opt.separation))} predict some responses without error; "
                "the likelihood has no maximum",
                "Merge levels, leave the columns out, or collect responses of the other kind; the "
                "estimates and standard errors mean nothing",
            )  # fmt: skip
        elif not opt.converged:
            advice = "Do not use the estimates; scale covariates, or simplify the model"
            yield Finding("convergence", "problem", opt.message, advice)
        for name in pure_levels(self.deviance.data):
            yield Finding(
                "pure levels", "warning",
                f"every level of {name!r} has only successes or only failures",
                "Its variance is hardly bounded above; use fewer levels or more rows per level",
            )  # fmt: skip
        for name in self.singular_terms:
            advice = "A variance is zero or a correlation one: a simpler term fits as well"
            yield Finding("singular", "warning", f"the covariance of {name!r} is singular", advice)
        for term in self.built.layout.terms:
            if term.form != "block" and term.n_levels < FEW_LEVELS:
                yield Finding(
                    "few levels", "note", f"{term.name!r} has {term.n_levels} levels",
                    f"A variance between fewer than {FEW_LEVELS} levels is hardly estimated; "
                    "consider fixed effects",
                )  # fmt: skip
        yield from self._at_limit()

    def _at_limit(self) -> Iterator[Finding]:
        """Parameters that went to where the family is another one."""
        name = base_of(self.family).name
        for place, _ in self.deviance.limits():
            d = float(self.opt.x[place])
            if not self.opt.at_boundary[place]:
                continue
            part = self._coefficients.part.iloc[place - len(self.opt.x)]
            if part == "zi":
                yield Finding(
                    "no excess zeros", "note",
                    f"the probability of excess zeros is estimated as zero (log odds {d:.1f})",
                    "The model without zi= fits as well",
                )  # fmt: skip
            else:
                simple = "poisson" if name.startswith("nbinom") else "binomial"
                yield Finding(
                    "no overdispersion", "note",
                    f"the dispersion parameter of {name} is at its limit (log {d:.1f})",
                    f"family={simple!r} fits as well",
                )  # fmt: skip

    def _simulated(self, seed: int) -> Iterator[Finding]:
        name = base_of(self.family).name
        if name == "ordinal" or isinstance(self.family, CustomFamily):
            return
        table = self.simulated_checks(seed=seed)
        for what, row in table.iterrows():
            if row.pvalue < SIGNIFICANT and not (what == "dispersion" and _binary(self)):
                fewer = row.observed < row.expected
                yield Finding(
                    str(what), "warning",
                    f"{what}: {row.observed:.4g} observed, {row.expected:.4g} expected by "
                    f"simulation (p = {row.pvalue:.3g})", _advice(str(what), fewer, name),
                )  # fmt: skip


def _advice(what: str, fewer: bool, family: str) -> str:
    """What to do about dispersion, zeros or outliers, more or fewer than simulated ones."""
    if what == "outliers":
        return "Look at the rows with the largest residuals('quantile')"
    if what == "zeros" and fewer:
        return (
            "The family expects zeros that are not there: hurdle='~ 1' gives them a probability of "
            "their own; where there can be none, model the counts less one"
        )
    if what == "zeros":
        return "Consider zi='~ 1' or hurdle='~ 1', or a negative binomial family"
    if fewer:
        return (
            "The responses vary less than the family says, so that standard errors are too large: "
            "is there a bound (counts of trials are binomial), or do rows repeat each other?"
        )
    if family in ("poisson", "binomial"):
        other = "nbinom2" if family == "poisson" else "betabinomial"
        return f"Use family={other!r}, or a random effect per row"
    return "Let it depend on covariates (dispersion='~ x'), or look for a covariate that is missing"


def _binary(results: GeneralBase) -> bool:
    """Single trials, whose dispersion cannot be other than it is."""
    return base_of(results.family).name == "binomial" and bool((results._trials() == 1).all())


def _compared(observed: float, simulated: FloatArray) -> tuple[float, float, float, float]:
    """Observed, mean of simulated, ratio, two-sided p-value."""
    n, expected = len(simulated), float(np.mean(simulated))
    above = (np.sum(simulated >= observed) + 1) / (n + 1)
    below = (np.sum(simulated <= observed) + 1) / (n + 1)
    p = float(min(1.0, 2.0 * min(above, below)))
    return observed, expected, observed / expected if expected else np.nan, p
