"""Marginal means and contrasts of generalized models, variance explained on the latent scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base.arguments import check_choice
from sparselmm.base.exceptions import DataError
from sparselmm.base.types import FloatArray
from sparselmm.inference.hypotheses.estimability import null_space
from sparselmm.inference.hypotheses.marginal_means import FixedEffects
from sparselmm.likelihood.laplace import moments
from sparselmm.likelihood.laplace.chosen import base_of
from sparselmm.likelihood.laplace.mixtures import CustomFamily, Hurdle, ZeroInflated
from sparselmm.results.general.base import GeneralBase
from sparselmm.results.general.prediction import marginal_variance
from sparselmm.results.print.notebook import Numbers, as_table
from sparselmm.results.tables.emmeans import (
    TYPES,
    Options,
    estimated_means,
    estimated_trends,
    joint_tests,
)
from sparselmm.results.tables.means import MarginalMeans
from sparselmm.results.tables.scales import Scale, bias_adjusted, link_scale

LATENT = {
    "logit": np.pi**2 / 3.0, "probit": 1.0, "cloglog": np.pi**2 / 6.0, "loglog": np.pi**2 / 6.0,
}  # fmt: skip
"""Variance of the latent variable that a distribution-function link cuts."""

RATIOS = {"logit": "odds.ratio", "log": "ratio"}


class MeanResults(GeneralBase):
    """Part of :class:`sparselmm.MixedGLMResults`."""

    def emmeans(
        self, specs: Any, by: Any = None, at: Mapping[str, Any] | None = None, *,
        type: str = "response", weights: str = "equal", alpha: float = 0.05,
        bias_adjust: bool | float = False,
    ) -> MarginalMeans:  # fmt: skip
        """Estimated marginal means, random effects at zero.

        Parameters
        ----------
        specs, by, at, weights
            As in :meth:`MixedLMResults.emmeans`.
        type : {"response", "link"}
            Means are averaged on the scale of the predictor; "response" carries them over, and
            differences of logarithms and logits to ratios.
        alpha : float
            One minus the confidence level.
        bias_adjust : bool or float
            With ``type="response"``: means over the levels instead of that of a typical one, by
            half the second derivative of the mean times the variance of the random effects; a
            number is the standard deviation to take instead. Ratios stay as they are.

        Returns
        -------
        MarginalMeans

        Raises
        ------
        DataError
            When the response is ordinal and ``type="response"``, or a name is unknown.

        Notes
        -----
        An offset in the formula is evaluated on the grid, at the means of its variables or the
        values of ``at``: with ``offset(log(size))``, ``at={"size": 1}`` gives rates per unit of
        size. One given as an argument counts with its mean. R's emmeans does so for glmmTMB; for
        glmer and lmer it takes the mean of either. Ratios and differences are the same.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("cbpp")
        >>> fit = sparselmm.mixedglm(
        ...     "cbind(incidence, size - incidence) ~ period + (1 | herd)", data).fit()
        >>> fit.emmeans("period").frame.response.round(3).tolist()
        [0.198, 0.084, 0.074, 0.048]
        """
        type = check_choice(type, "type", TYPES)
        scale = self._mean_scale()
        if type == "response" and scale is None:
            raise DataError(
                "means of this family have no single response scale; use type='link', or predict()"
            )
        same = scale is not None and scale.name == "identity"
        scale = bias_adjusted(scale, bias_adjust, type, self._random_variance)
        if same:
            type = "link"  # differences are differences on both
        options = Options("z", weights, alpha, type, scale)
        return estimated_means(self._fixed_effects(), self.built, specs, by, at, options)

    def emtrends(
        self, var: str, specs: Any, by: Any = None, at: Mapping[str, Any] | None = None, *,
        weights: str = "equal", alpha: float = 0.05,
    ) -> MarginalMeans:  # fmt: skip
        """Slopes of a covariate on the scale of the predictor.

        Parameters
        ----------
        var, specs, by, at, weights, alpha
            As in :meth:`MixedLMResults.emtrends`.

        Returns
        -------
        MarginalMeans
        """
        options = Options("z", weights, alpha)
        fixed = self._fixed_effects()
        return estimated_trends(fixed, self.built, var, specs, by, at, options)

    @as_table
    def joint_tests(
        self, by: Any = None, at: Mapping[str, Any] | None = None, *, weights: str = "equal"
    ) -> pd.DataFrame:
        """Chi-squared tests, over their degrees of freedom, of every effect from the means.

        Parameters
        ----------
        by, at, weights
            As in :meth:`MixedLMResults.joint_tests`.

        Returns
        -------
        DataFrame
        """
        options = Options("z", weights, 0.05)
        return joint_tests(self._fixed_effects(), self.built, by, at, options)

    def _fixed_effects(self) -> FixedEffects:
        """Coefficients of the predictor with their covariance."""
        numbers = self.numbers
        T = self.deviance.fixed.basis.T
        vcov = T @ numbers.vcov_gamma @ T.T
        null = np.zeros((len(self.built.layout.x_names), 0))
        if self.dropped:
            what = "which means of a rank-deficient X are estimable"
            null = null_space(self.built.layout.row_space(what), self._independent)
        return FixedEffects(T @ numbers.parts[1], vcov, np.asarray(numbers.kept), null)

    def _mean_scale(self) -> Scale | None:
        """The inverse link; None for families without one mean."""
        base = base_of(self.family)  # the mean of the counts before zeros
        if base.name == "ordinal" or isinstance(base, CustomFamily):
            return None
        link = self.family.link
        return link_scale(link, RATIOS.get(link))

    # ------------------------------------------------------------------- variance explained

    def _variance_parts(self) -> tuple[float, float, float]:
        """Variances of the fixed part, of the random effects and of the latent residual."""
        fixed = self.deviance.fixed.effects(self.numbers.parts[1], None)
        spread = self._mean_row((fixed - self._mean_row(fixed)) ** 2)
        return spread, self._random_variance(), self._latent_residual()

    def _mean_row(self, x: FloatArray) -> float:
        """Mean over the rows, each as often as it counts."""
        return float(np.average(x, weights=self._counts))

    def _random_variance(self) -> float:
        """Variance of the random effects in a row, the mean over the rows."""
        data = self.deviance.data
        return self._mean_row(marginal_variance(data.terms, self.numbers.psi, data.n))

    def _latent_residual(self) -> float:
        family = self.family
        if isinstance(family, (ZeroInflated, Hurdle, CustomFamily)):
            raise DataError("variance explained on the latent scale is not defined for this family")
        if family.link in LATENT and family.name in ("binomial", "ordinal"):
            return float(LATENT[family.link])
        if family.name == "gaussian" and family.link == "identity":
            return self._mean_row(np.exp(2.0 * self._further()[0]))
        if family.link == "log":
            eta = self.deviance.fixed.effects(self.numbers.parts[1], self.deviance.data.offset)
            psi = marginal_variance(self.deviance.data.terms, self.numbers.psi, len(eta))
            eta = np.full(1, np.log(self._mean_row(np.exp(eta + 0.5 * psi))))
            further = tuple(np.full(1, self._mean_row(f)) for f in self._further())
            mu = moments.mean(family, eta, further)
            ratio = moments.variance(family, eta, further, np.ones(1)) / mu**2
            return float(np.log1p(ratio)[0])
        raise DataError(
            f"variance explained on the latent scale is not defined for family {family.name!r} "
            f"with link {family.link!r}"
        )

    def icc(self) -> pd.Series:
        """Share of the latent variance that each term explains, given the fixed effects.

        Returns
        -------
        Series
            One entry per term.

        Notes
        -----
        The residual variance is that of the latent variable (pi^2 / 3 for the logit), or
        ``log(1 + Var(y) / mean^2)`` for a log link (Nakagawa, Johnson & Schielzeth 2017, *J. R.
        Soc. Interface* 14, 20170213).
        """
        engine, numbers = self.deviance, self.numbers
        own = [
            self._mean_row(marginal_variance((term,), [psi], engine.data.n))
            for term, psi in zip(engine.data.terms, numbers.psi, strict=True)
        ]
        total = sum(own) + self._latent_residual()
        return Numbers([v / total for v in own], [t.name for t in self.built.layout.terms])

    def r2(self) -> pd.Series:
        """Marginal and conditional R-squared on the latent scale (Nakagawa et al. 2017).

        Returns
        -------
        Series
            ``marginal`` (fixed effects), ``conditional`` (random effects as well).
        """
        fixed, random, rest = self._variance_parts()
        total = fixed + random + rest
        return Numbers({"marginal": fixed / total, "conditional": (fixed + random) / total})
