"""A fitted generalized model: estimates, tests, tables."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base.arguments import check_level
from sparselmm.base.exceptions import DataError, NotGeneralizedError
from sparselmm.base.other_names import GENERAL, NamesOthers, attribute
from sparselmm.base.types import FloatArray
from sparselmm.inference.estimates import Estimates
from sparselmm.inference.general import GeneralEstimates
from sparselmm.inference.variances import variance_rows
from sparselmm.inference.wald import Wald, two_sided
from sparselmm.likelihood.covariance import singular_terms
from sparselmm.likelihood.laplace.chosen import base_of
from sparselmm.likelihood.laplace.deviance import LaplaceDeviance
from sparselmm.likelihood.laplace.search import Optimum
from sparselmm.results.core import MixedLMResults
from sparselmm.results.general.checks import CheckResults
from sparselmm.results.general.extras import ExtraResults
from sparselmm.results.general.figures import GeneralFigureResults
from sparselmm.results.general.intervals import IntervalResults
from sparselmm.results.general.means import MeanResults
from sparselmm.results.general.prediction import PredictionResults
from sparselmm.results.general.printed import summarize
from sparselmm.results.general.simulation import SimulationResults
from sparselmm.results.methods.ranef import RanefResults
from sparselmm.results.methods.reports import GeneralReportResults
from sparselmm.results.print import labels
from sparselmm.results.print.notebook import as_table
from sparselmm.results.print.short import fitted_general

NOT_HERE = {
    "satterthwaite": "degrees of freedom by Satterthwaite are for linear models; tests here are by "
    "the normal distribution (z), by likelihood ratio, or by the bootstrap",
    "kenward_roger": "Kenward and Roger's covariance is for linear models; use profile intervals, "
    "likelihood-ratio tests or the bootstrap",
    "ddf": "denominator degrees of freedom are for linear models; tests here use the normal "
    "distribution",
    "scale": "a generalized model has no residual variance of its own; see dispersion_params",
    "sigma": "a generalized model has no residual standard deviation; see dispersion_params",
    "reml": "generalized models are fitted by maximum likelihood",
    "hatvalues": "leverages are those of a linear model; see check() and residuals('quantile')",
    "cooks_distance": "Cook's distances are those of a linear model; refit without the rows",
    "influence": "case deletion in closed form is for linear models; refit without the rows",
    "anova": "F tests are for linear models; use drop1() or compare() with likelihood ratios",
    "caic": "the conditional AIC is that of a linear model; use aic",
    "exact_rlrt": "the exact test of a variance is for linear models; use compare() or bootstrap",
    "exact_lrt": "the exact test of a variance is for linear models; use compare() or bootstrap",
    "ranova": "use compare() with a fit that leaves the term out",
    "cov_re": "see varcorr",
    "vcomp": "see varcorr",
    "t_test": "use wald_test() or tidy()",
    "f_test": "use wald_test() or joint_tests()",
    "profile": "use confint(method='profile')",
    "to_latex": "use summary().as_latex() or tidy().to_latex()",
    "to_html": "use report(), or summary().as_html()",
    "refit": "make a model of the other response and fit it",
    "fit_many": "stacks of responses are fitted for linear models only",
}
"""What does not carry over from linear models, and what to use."""


class MixedGLMResults(
    RanefResults,
    PredictionResults,
    SimulationResults,
    IntervalResults,
    MeanResults,
    CheckResults,
    ExtraResults,
    GeneralFigureResults,
    GeneralReportResults,
    NamesOthers,
):
    """A fitted generalized linear mixed model.

    Fixed effects are on the scale of the predictor (log odds, log rates); variances of random
    effects are in its squared units.

    Parameters
    ----------
    model : MixedGLM
    deviance : LaplaceDeviance
    opt : Optimum

    Attributes
    ----------
    model, deviance, opt
        As given.

    Examples
    --------
    >>> import sparselmm
    >>> data = sparselmm.datasets.load("cbpp")
    >>> fit = sparselmm.mixedglm(
    ...     "cbind(incidence, size - incidence) ~ period + (1 | herd)", data).fit()
    >>> fit.fe_params.round(3).tolist()
    [-1.399, -0.992, -1.129, -1.58]
    >>> print(f"{fit.ratios().ratio.iloc[1]:.3f}")
    0.371
    """

    deviance: Any
    opt: Any

    def __init__(self, model: Any, deviance: LaplaceDeviance, opt: Optimum):
        self.model, self.deviance, self.opt = model, deviance, opt
        self.built = model.built
        self.family = model.family
        arrays = model.built.spec.formula is None
        self.numbers = GeneralEstimates(
            model.built.design, deviance, opt, model.x_columns, arrays
        )  # fmt: skip

    _other_names = GENERAL

    def __getattr__(self, name: str) -> Any:
        if name in NOT_HERE or (not name.startswith("_") and hasattr(MixedLMResults, name)):
            why = NOT_HERE.get(name, "it is defined for linear models only")
            raise NotGeneralizedError(f"{name} is not available for generalized models: {why}")
        if name.startswith("_") or hasattr(type(self), name):
            return object.__getattribute__(self, name)
        raise attribute(self, name, self._other_names)

    def __getstate__(self) -> dict[str, Any]:
        return dict(self.__dict__)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    @property
    def _est(self) -> Estimates:  # type: ignore[override]
        """The working linear model, for what random effects have in common."""
        return self.numbers.working

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
        return singular_terms(self.deviance, self.deviance.covariance, self.numbers.parts[0])

    @property
    def singular_terms(self) -> tuple[str, ...]:
        """Names of the terms whose covariance matrix is singular."""
        terms = self.built.design.terms
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
        names = [*self.model.exog_names]
        parts = ["mean"] * len(names)
        seen = set()
        for further in self.model.further:
            if further.columns.start in seen:
                continue
            seen.add(further.columns.start)
            part = "threshold" if further.name in ("upper", "lower") else further.name
            prefix = "" if part == "threshold" else f"{part}: "
            names += [prefix + label for label in further.labels]
            parts += [part] * len(further.labels)
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
        meaning = {"logit": "odds ratio", "log": "ratio of means", "cloglog": "hazard ratio"}
        if self.family.link not in meaning:
            raise DataError(
                f"exponentials of coefficients mean nothing for the {self.family.link} link; "
                f"ratios are for {', '.join(meaning)}"
            )
        n = len(self.model.exog_names)
        beta, se = self.params.to_numpy()[:n], self.bse.to_numpy()[:n]
        ends = np.exp(Wald(beta, se).interval(alpha))
        columns = {"ratio": np.exp(beta), "ci_lower": ends[:, 0], "ci_upper": ends[:, 1]}
        columns["pvalue"] = self.pvalues.to_numpy()[:n]
        return pd.DataFrame(columns, index=list(self.model.exog_names))

    # ------------------------------------------------------------------ variance parameters

    @cached_property
    @as_table
    def varcorr(self) -> pd.DataFrame:
        """Variances and covariances of the random effects, lme4's ``VarCorr``."""
        rows = variance_rows(self.built.design.terms, self.numbers.psi, 1.0)
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
        layout, psi = self.numbers.layout, self.numbers.psi
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

    def summary(self, alpha: float = 0.05) -> Any:
        """Facts, coefficients and variances as text; ``as_html()`` and ``as_latex()`` too.

        Parameters
        ----------
        alpha : float
            One minus the confidence level.
        """
        check_level(alpha)
        return summarize(self, alpha)

    def __repr__(self) -> str:
        return "\n".join(fitted_general(self))

    def _repr_html_(self) -> str:
        return str(self.summary().as_html())

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
        """
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
        terms = self.built.design.terms
        random = pd.DataFrame({
            "effect": "ran_pars", "component": "mean",
            "group": [terms[t].name for t in self.numbers.layout.terms], "term": list(own.index),
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
