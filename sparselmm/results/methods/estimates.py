"""Estimates and plain facts of a fitted linear model, labelled."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base.types import FloatArray
from sparselmm.inference.prediction import means as prediction
from sparselmm.results.methods.base import Matrix, ResultsBase, Vector, from_rows
from sparselmm.results.print import labels
from sparselmm.results.print.notebook import as_table


class EstimateResults(ResultsBase):
    """Part of :class:`sparselmm.MixedLMResults`."""

    @property
    def theta(self) -> FloatArray:
        """Free entries of every ``lambda_t``, (n_theta,), relative to sigma."""
        return self.pls.theta

    @property
    def scale(self) -> float:
        """Residual variance sigma^2."""
        return self.pls.scale

    @property
    def sigma(self) -> float:
        """Residual standard deviation."""
        return self.pls.sigma

    @property
    def u(self) -> FloatArray:
        """Conditional modes of the spherical random effects, (q,)."""
        return self.pls.u

    @property
    def b(self) -> FloatArray:
        """Conditional modes of the random effects, (q,), in the order of the columns of Z."""
        return self.pls.b

    @property
    def converged(self) -> bool:
        """Whether the optimizer met its criteria."""
        return self.opt.converged

    @property
    def reml(self) -> bool:
        """Whether the criterion was REML."""
        return self.pls.reml

    @property
    def method(self) -> str:
        """``"REML"`` or ``"ML"``."""
        return "REML" if self.reml else "ML"

    @property
    def nobs(self) -> int:
        """Rows with positive weight."""
        return self._est.nobs

    @property
    def df_modelwc(self) -> int:
        """Length of ``params``."""
        return len(self._est.names)

    @property
    def dropped(self) -> tuple[str, ...]:
        """Columns of X left out because they depend on the others; their estimates are NaN."""
        return self._est.dropped

    @property
    def singular(self) -> bool:
        """Whether an estimated random-effects covariance matrix is singular."""
        return self._est.singular

    @property
    def llf(self) -> float:
        """Log-likelihood, or REML log-likelihood, in lme4's convention."""
        return -0.5 * self.pls.deviance

    @property
    def llf_mc_se(self) -> float:
        """Standard error that random probes leave in ``llf``; 0 where it is exact."""
        return 0.5 * self.opt.mc_deviance

    @property
    def n_parameters(self) -> int:
        """Estimated parameters: fixed effects, covariance parameters and sigma."""
        return self._est.n_parameters

    @property
    def aic(self) -> float:
        """Akaike's criterion; NaN under REML, as in statsmodels (see ``aic_reml``)."""
        return np.nan if self.reml else self.aic_reml

    @property
    def bic(self) -> float:
        """Schwarz's criterion; NaN under REML, as in statsmodels (see ``bic_reml``)."""
        return np.nan if self.reml else self.bic_reml

    @property
    def aic_reml(self) -> float:
        """Akaike's criterion from whichever likelihood was maximized, lme4's convention.

        Under REML only comparable between models with the same fixed effects.
        """
        return self.pls.deviance + 2.0 * self.n_parameters

    @property
    def bic_reml(self) -> float:
        """Schwarz's criterion from whichever likelihood was maximized, lme4's convention."""
        return self.pls.deviance + float(np.log(self.nobs)) * self.n_parameters

    # ---------------------------------------------------------------------- fixed effects

    @property
    def fe_params(self) -> Vector:
        """Fixed effects, (k_fe,); NaN for dropped columns."""
        return self._vector(self._est.beta, self.built.layout.x_names)

    @property
    def bse_fe(self) -> Vector:
        """Standard errors of the fixed effects, (k_fe,)."""
        return self._vector(self._est.bse_fe, self.built.layout.x_names)

    # ------------------------------------------------------------------------ all parameters

    @property
    def param_names(self) -> list[str]:
        """Names of ``params``."""
        return list(self._est.names)

    @property
    def params(self) -> Vector:
        """Fixed effects, then variances and covariances as ratios to ``scale``."""
        return self._vector(self._est.params, self._est.names)

    @property
    def bse(self) -> Vector:
        """Standard errors of ``params``, variances as ratios to ``scale``."""
        return self._vector(self._est.bse, self._est.names)

    @property
    def bse_re(self) -> Vector:
        """Standard errors of variances and covariances in the units of the data.

        From the observed information in (Psi, sigma^2). NaN for a singular term.
        """
        return self._vector(self._est.bse_re, self._est.places.names)

    @property
    def tvalues(self) -> Vector:
        """``params / bse``; for a variance this is no test of its being zero."""
        return self._vector(self._est.wald.statistic, self._est.names)

    @property
    def pvalues(self) -> Vector:
        """Two-sided p-values of ``tvalues`` under the normal distribution."""
        return self._vector(self._est.wald.pvalue, self._est.names)

    # --------------------------------------------------------------------- variance parameters

    @property
    def cov_re(self) -> Matrix:
        """Covariance matrix of the random coefficients, (k_re, k_re), in the units of the data.

        Block diagonal over the ``groups`` term and the bars of the formula. A bar's intercept is
        labelled by its grouping factor, ``"s"``, another coefficient ``"s[x]"``.
        """
        return self._matrix(self._est.cov_re, self._est.cov_re_names)

    @property
    def cov_re_unscaled(self) -> Matrix:
        """``cov_re / scale``."""
        return self._matrix(self._est.cov_re_unscaled, self._est.cov_re_names)

    @property
    def vcomp(self) -> FloatArray:
        """Variance components in the units of the data, (k_vc,); always an array."""
        return np.array([self._est.psi[t][0, 0] for t in self._est.places.components])

    @property
    @as_table
    def varcorr(self) -> pd.DataFrame:
        """Variance components as lme4's ``as.data.frame(VarCorr(fit))``.

        One row per variance (``var2`` missing) and per covariance; ``vcov`` in the units of the
        data, ``sdcor`` the standard deviation or the correlation. The last row is the residual.
        """
        return labels.varcorr_frame(self._est.variance_rows)

    # ------------------------------------------------------------------------- fitted values

    @property
    @from_rows
    def fittedvalues(self) -> Vector:
        """``X beta + Z b`` plus the offset, (n,), random effects included."""
        return self._rows(self._fitted)

    @property
    @from_rows
    def resid(self) -> Vector:
        """Response minus ``fittedvalues``, (n,)."""
        return self._rows(self.built.design.y - self._fitted)

    @cached_property
    def _fitted(self) -> FloatArray:
        return prediction.fitted(self._est, random=True)

    def _wald_intervals(self, alpha: float) -> Matrix:
        ends = self._est.wald.interval(alpha)
        return pd.DataFrame(ends, index=self._est.names) if self.built.pandas else ends

    @abstractmethod
    def conf_int(self, alpha: float = 0.05, method: str = "wald", **options: Any) -> Matrix:
        """Confidence intervals."""

    @property
    def k_fe(self) -> int:
        """Columns of X, dropped ones included."""
        return self.built.layout.p

    @property
    def df_resid(self) -> int:
        """``nobs`` minus the rank of X."""
        return self._est.nobs - self.deviance.cross.basis.rank
