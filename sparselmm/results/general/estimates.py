"""Estimates and plain facts of a fitted generalized model, labelled."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base.arguments import check_flag, check_level
from sparselmm.base.exceptions import DataError
from sparselmm.base.types import FloatArray
from sparselmm.inference.variances import variance_rows
from sparselmm.inference.wald import Wald, two_sided
from sparselmm.likelihood.laplace.chosen import base_of
from sparselmm.results.general.base import GeneralBase
from sparselmm.results.print import labels
from sparselmm.results.print.notebook import as_table

RATIO_LINKS = ("logit", "log", "cloglog")
"""Links under which exponentials are ratios of odds, of means, of hazards."""


class EstimateResults(GeneralBase):
    """Part of :class:`sparselmm.MixedGLMResults`."""

    # ------------------------------------------------------------------------ plain facts

    @property
    def converged(self) -> bool:
        """Whether the search met its criteria; never where the fixed effects separate."""
        return self.opt.converged

    @property
    def separation(self) -> tuple[str, ...]:
        """Fixed effects that predict some responses without error; empty where none do."""
        return self.opt.separation

    @property
    def llf(self) -> float:
        """Log-likelihood, with every constant."""
        return -0.5 * self.opt.deviance

    @property
    def nobs(self) -> int:
        """Rows that count."""
        return int(self.model.nobs)

    @property
    def n_parameters(self) -> int:
        """Fixed effects, covariance parameters and further coefficients."""
        return len(self.opt.x)

    @property
    def aic(self) -> float:
        """Akaike's criterion."""
        return self.opt.deviance + 2.0 * self.n_parameters

    @property
    def bic(self) -> float:
        """Schwarz's criterion with the number of rows."""
        return float(self.opt.deviance + np.log(self.nobs) * self.n_parameters)

    @property
    def theta(self) -> FloatArray:
        """Free entries of every ``lambda_t``, (n_theta,), in units of the predictor."""
        return self.numbers.parts[0].copy()

    @property
    def u(self) -> FloatArray:
        """Conditional modes of the spherical random effects, (q,)."""
        return self.numbers.u

    @property
    def b(self) -> FloatArray:
        """Conditional modes of the random effects, (q,)."""
        return self.numbers.b

    @property
    def singular(self) -> bool:
        """Whether an estimated covariance matrix of random effects is singular."""
        return bool(self._singular.any())

    @cached_property
    def _singular(self) -> Any:
        return self.deviance.covariance.singular(self.deviance, self.numbers.parts[0])

    @property
    def singular_terms(self) -> tuple[str, ...]:
        """Names of the terms whose covariance matrix is singular."""
        terms = self.built.layout.terms
        return tuple(t.name for t, bad in zip(terms, self._singular, strict=True) if bad)

    # ---------------------------------------------------------------------- fixed effects

    @property
    def fe_params(self) -> Any:
        """Fixed effects on the scale of the predictor; NaN for dropped columns."""
        return self._vector(self.numbers.beta, self.model.exog_names)

    @property
    def bse_fe(self) -> Any:
        """Their standard errors, from differences of the exact gradient of the deviance."""
        return self._vector(np.sqrt(np.diag(self.numbers.vcov)), self.model.exog_names)

    @property
    def cov_fe(self) -> Any:
        """Their covariance matrix."""
        return self._matrix(self.numbers.vcov, self.model.exog_names)

    @cached_property
    def _coefficients(self) -> pd.DataFrame:
        """Estimate and standard error of everything with a Wald test."""
        names, parts = self.model._coefficient_names()
        numbers = self.numbers
        estimate = np.concatenate([numbers.beta, numbers.parts[2]])
        se = np.sqrt(np.concatenate([np.diag(numbers.vcov), np.diag(numbers.vcov_phi)]))
        return pd.DataFrame({"part": parts, "estimate": estimate, "se": se}, index=names)

    def _part(self, part: str) -> pd.Series:
        table = self._coefficients
        own = table[table.part == part].estimate
        prefix = f"{part}: "
        return own.rename(index=lambda name: name.removeprefix(prefix)).rename(None)

    @property
    def dispersion_params(self) -> pd.Series:
        """Coefficients of the logarithm of the dispersion parameter; empty where there is none."""
        return self._part("dispersion")

    @property
    def zi_params(self) -> pd.Series:
        """Coefficients of the log odds of an excess zero, or of a zero under a hurdle."""
        part = self._part("zi")
        return part if len(part) else self._part("hurdle")

    @property
    def thresholds(self) -> pd.Series:
        """Thresholds of an ordinal response, named ``low|high``."""
        return self._part("threshold")

    @property
    def params(self) -> pd.Series:
        """Fixed effects and the coefficients of the further predictors."""
        return self._coefficients.estimate.rename(None)

    @property
    def bse(self) -> pd.Series:
        """Standard errors of `params`."""
        return self._coefficients.se.rename(None)

    @property
    def tvalues(self) -> pd.Series:
        """Z statistics of `params`."""
        return self.params / self.bse

    @property
    def pvalues(self) -> pd.Series:
        """Two-sided p-values of `params` by the normal distribution."""
        return pd.Series(two_sided(self.tvalues.to_numpy()), self.params.index)

    def conf_int(self, alpha: float = 0.05) -> pd.DataFrame:
        """Wald intervals of `params`; see :meth:`confint` for profiles.

        Parameters
        ----------
        alpha : float
            One minus the confidence level.

        Returns
        -------
        DataFrame
            Columns 0 and 1.
        """
        check_level(alpha)
        ends = Wald(self.params.to_numpy(), self.bse.to_numpy()).interval(alpha)
        return pd.DataFrame(ends, self.params.index)

    @as_table
    def ratios(self, alpha: float = 0.05) -> pd.DataFrame:
        """Exponentials of the fixed effects: odds ratios, rate ratios, ratios of means.

        Parameters
        ----------
        alpha : float
            One minus the confidence level of the Wald intervals.

        Returns
        -------
        DataFrame
            ``ratio``, ``ci_lower``, ``ci_upper``, ``pvalue``.

        Raises
        ------
        DataError
            When exponentials mean nothing for the link.
        """
        check_level(alpha)
        self._need_ratios()
        n = len(self.model.exog_names)
        beta, se = self.params.to_numpy()[:n], self.bse.to_numpy()[:n]
        ends = np.exp(Wald(beta, se).interval(alpha))
        columns = {"ratio": np.exp(beta), "ci_lower": ends[:, 0], "ci_upper": ends[:, 1]}
        columns["pvalue"] = self.pvalues.to_numpy()[:n]
        return pd.DataFrame(columns, index=list(self.model.exog_names))

    def _need_ratios(self) -> None:
        """Refuse exponentials of coefficients where they mean nothing."""
        if self.family.link not in RATIO_LINKS:
            raise DataError(
                f"exponentials of coefficients mean nothing for the {self.family.link} link; "
                f"ratios are for {', '.join(RATIO_LINKS)}"
            )

    # ------------------------------------------------------------------ variance parameters

    @cached_property
    @as_table
    def varcorr(self) -> pd.DataFrame:
        """Variances and covariances of the random effects, lme4's ``VarCorr``."""
        rows = variance_rows(self.built.layout.terms, self.numbers.psi, 1.0)
        return labels.varcorr_frame(rows[:-1])

    @as_table
    def variance_components(self, alpha: float = 0.05) -> pd.DataFrame:
        """Variance parameters with standard errors and intervals.

        Parameters
        ----------
        alpha : float
            One minus the confidence level; intervals are on the logarithmic scale of a standard
            deviation, and Fisher's z of a correlation.

        Returns
        -------
        DataFrame
            ``vcov``, ``se``, ``sdcor``, ``ci_lower``, ``ci_upper`` (of ``sdcor``).
        """
        check_level(alpha)
        layout, psi = self.numbers.places, self.numbers.psi
        value, se = layout.pick(psi), self.numbers.variance_se
        sd = [np.sqrt(np.diag(block)) for block in psi]
        rows = []
        for i, (t, a, b) in enumerate(zip(layout.terms, layout.rows, layout.cols, strict=True)):
            size = float(sd[t][a] * sd[t][b])
            if a == b:
                centre, spread = np.sqrt(value[i]), se[i] / (2.0 * max(value[i], 1e-300))
                ends = centre * np.exp(Wald(np.zeros(1), np.array([spread])).interval(alpha)[0])
            else:
                centre = value[i] / size if size else np.nan
                rho = self._correlation_se(int(t), int(a), int(b))
                z = np.array([np.arctanh(np.clip(centre, -1 + 1e-12, 1 - 1e-12))])
                ends = np.tanh(
                    Wald(z, np.array([rho / max(1 - centre**2, 1e-12)])).interval(alpha)[0]
                )
            rows.append((value[i], se[i], centre, *ends))
        columns = ["vcov", "se", "sdcor", "ci_lower", "ci_upper"]
        return pd.DataFrame(rows, list(layout.names), columns)

    def _correlation_se(self, t: int, a: int, b: int) -> float:
        """Standard error of a correlation by differences in theta."""
        numbers = self.numbers
        covariance, theta = self.deviance.covariance, numbers.parts[0]
        part = covariance.slices[t]

        def correlation(own: FloatArray) -> float:
            psi = covariance.psi(own)[t]
            return float(psi[a, b] / np.sqrt(psi[a, a] * psi[b, b]))

        V = numbers.vcov_theta[part, part]
        slope = np.zeros(part.stop - part.start)
        with np.errstate(invalid="ignore", divide="ignore"):
            for i in range(len(slope)):
                step = np.zeros(len(theta))
                step[part.start + i] = 1e-5 * max(1e-3, abs(theta[part.start + i]))
                up, down = correlation(theta + step), correlation(theta - step)
                slope[i] = (up - down) / (2 * step[part.start + i])
            return float(np.sqrt(slope @ V @ slope))

    # ---------------------------------------------------------------------------- printed

    @as_table
    def tidy(self, alpha: float = 0.05, exponentiate: bool = False) -> pd.DataFrame:
        """One row per coefficient and variance parameter, in the columns of R's broom.

        Parameters
        ----------
        alpha : float
            One minus the confidence level.
        exponentiate : bool
            Estimates and ends of intervals of the mean's coefficients as ratios.

        Returns
        -------
        DataFrame
            ``effect``, ``component``, ``group``, ``term``, ``estimate``, ``std_error``,
            ``statistic``, ``p_value``, ``conf_low``, ``conf_high``.

        Raises
        ------
        DataError
            When exponentials mean nothing for the link, as of :meth:`ratios`.
        """
        exponentiate = check_flag(exponentiate, "exponentiate")
        if exponentiate:
            self._need_ratios()
        table, ends = self._coefficients, self.conf_int(alpha).to_numpy()
        fixed = pd.DataFrame({
            "effect": "fixed", "component": table.part.to_numpy(), "group": None,
            "term": list(table.index), "estimate": table.estimate.to_numpy(),
            "std_error": table.se.to_numpy(), "statistic": self.tvalues.to_numpy(),
            "p_value": self.pvalues.to_numpy(), "conf_low": ends[:, 0], "conf_high": ends[:, 1],
        })  # fmt: skip
        if exponentiate:
            mean = (fixed.component == "mean").to_numpy()
            for name in ("estimate", "conf_low", "conf_high"):
                fixed.loc[mean, name] = np.exp(fixed.loc[mean, name].to_numpy())
            ratio = fixed.loc[mean, "estimate"].to_numpy()
            fixed.loc[mean, "std_error"] = ratio * fixed.loc[mean, "std_error"].to_numpy()
        own = self.variance_components(alpha)
        terms = self.built.layout.terms
        random = pd.DataFrame({
            "effect": "ran_pars", "component": "mean",
            "group": [terms[t].name for t in self.numbers.places.terms], "term": list(own.index),
            "estimate": own.sdcor.to_numpy(), "std_error": np.nan, "statistic": np.nan,
            "p_value": np.nan, "conf_low": own.ci_lower.to_numpy(),
            "conf_high": own.ci_upper.to_numpy(),
        })  # fmt: skip
        return pd.concat([fixed.astype({"group": object}), random], ignore_index=True)

    @as_table
    def glance(self) -> pd.DataFrame:
        """Facts about the fit, one row."""
        facts = {
            "nobs": self.nobs, "family": base_of(self.family).name, "link": self.family.link,
            "llf": self.llf, "aic": self.aic, "bic": self.bic, "deviance": self.opt.deviance,
            "df_residual": self.nobs - self.n_parameters, "converged": self.converged,
        }  # fmt: skip
        return pd.DataFrame([facts])

    def _names(self) -> Sequence[str]:
        return list(self._coefficients.index)
