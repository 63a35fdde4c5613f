"""Variance components and their shares, where errors are independent; intervals."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import pandas as pd

from sparselmm.base.arguments import check_choice, check_count, check_keywords, check_level
from sparselmm.base.exceptions import ArgumentError, DataError
from sparselmm.base.types import FloatArray
from sparselmm.inference.intervals.variance_components import (
    RSquared,
    entry_order,
    icc_delta,
    icc_values,
    r_squared,
    variance_intervals,
    variance_weights,
)
from sparselmm.inference.resampling import bootstrap
from sparselmm.results.methods.base import Matrix, from_sums
from sparselmm.results.methods.effect_figures import ShareFigures
from sparselmm.results.methods.estimates import EstimateResults
from sparselmm.results.methods.simulation import SimulationResults
from sparselmm.results.print.labels import varcorr_frame
from sparselmm.results.print.notebook import as_table

BOOTSTRAP_OPTIONS = (
    "kind",
    "n_jobs",
    "progress",
    "checkpoint",
    "by",
    "jackknife",
    "resume",
    "client",
)
"""Arguments of the bootstrap that ``icc`` passes on."""


CI_OPTIONS: dict[str, tuple[str, ...]] = {
    "wald": (),
    "profile": ("which", "scale"),
    "bootstrap": (
        "kind", "resampling", "n", "statistic", "seed", "n_jobs", "progress", "checkpoint", "by",
        "jackknife", "resume", "client",
    ),
}  # fmt: skip
"""Options of ``conf_int`` by its method."""


class VarianceResults(SimulationResults, EstimateResults, ShareFigures):
    """Intervals and shares of variances where the rows have one residual variance."""

    def conf_int(self, alpha: float = 0.05, method: str = "wald", **options: Any) -> Matrix:
        """Confidence intervals.

        Parameters
        ----------
        alpha : float
            One minus the confidence level.
        method : {"wald", "profile", "bootstrap"}
            Wald intervals of ``params``, whose variances are ratios to ``scale``; or intervals of
            standard deviations and correlations, sigma and the fixed effects in the units of the
            data: by profile likelihood, or from a parametric bootstrap.
        **options
            "profile": ``which`` and ``scale`` as for :meth:`profile`. "bootstrap": ``kind`` of the
            interval, and arguments of :meth:`bootstrap` (its ``kind`` as ``resampling``).

        Returns
        -------
        DataFrame or ndarray, (number of parameters, 2)
            Columns 0 and 1: lower and upper end. "profile" and "bootstrap" always give a
            DataFrame; rows of a profile are named as for :meth:`profile`, and an end that is not
            reached is the bound of the parameter (0, -1 or 1).

        Raises
        ------
        ValueError
            When the method is unknown or ``alpha`` is not between 0 and 1.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("Penicillin")
        >>> fit = sparselmm.mixedlm("diameter ~ 1 + (1 | plate) + (1 | sample)", data).fit()
        >>> fit.conf_int(method="profile").round(4).loc["sd_Intercept|plate"].tolist()
        [0.6336, 1.1821]
        """
        alpha = check_level(alpha)
        method = check_choice(method, "method", tuple(CI_OPTIONS))
        check_keywords(options, CI_OPTIONS[method], f"conf_int(method={method!r})")
        if method == "profile":
            return self._profile_conf_int(alpha, **options)
        if method == "bootstrap":
            kind = options.pop("kind", "percentile")
            if "resampling" in options:
                options["kind"] = options.pop("resampling")
            return self.bootstrap(**options).conf_int(alpha, kind).set_axis([0, 1], axis=1)
        return self._wald_intervals(alpha)

    # ------------------------------------------------------------------- fixed effects

    # -------------------------------------------------------------- variance components

    @as_table
    def variance_components(self, alpha: float = 0.05, ci: str = "wald") -> pd.DataFrame:
        """Variance components with standard errors, confidence intervals and shares.

        Parameters
        ----------
        alpha : float
            One minus the confidence level.
        ci : {"wald", "profile"}
            Intervals from the standard errors, on scales where estimates are closest to normal;
            or by profile likelihood, which takes a search for each end and remains valid near
            zero. For intervals by the bootstrap see
            :meth:`bootstrap`.

        Returns
        -------
        DataFrame
            The rows of ``varcorr``: variances, covariances, the residual last.

            - ``vcov``, ``vcov_se``: variance or covariance and its standard error, in squared
              units of the data;
            - ``sdcor``, ``sdcor_se``: standard deviation or correlation and its standard error;
            - ``lower``, ``upper``: confidence interval of ``sdcor``; squared, that of a variance;
            - ``share``: part of the mean variance of a row that the fixed effects leave; sums to
              one. A term whose covariances count has one share, in its first row (NaN in the
              others): single parts of it would depend on where the covariates have their zero.

            Standard errors and Wald intervals of a singular term are NaN: its estimates are on
            the boundary and not asymptotically normal. The others' are as if that term were
            known. Profile intervals exist there: an end that the profile does not reach is the
            bound (0, -1 or 1). They are NaN for what is not estimated as a parameter of its own: a
            sigma held fixed, correlations between coefficients of an autoregressive term that are
            not neighbours.

        Raises
        ------
        ValueError
            When an argument is unknown.
        DataError
            For profile intervals of a fit with parameters held fixed or with penalties.

        Notes
        -----
        Standard errors are from the observed information of (Psi, sigma^2). Wald intervals on the
        log scale for standard deviations and on Fisher's z scale for correlations: Pinheiro &
        Bates (2000), section 2.4.3. They are poor with few levels; profile intervals and the
        bootstrap do not rest on normality. Profiles are of the ordinary likelihood, also after a
        REML fit: Bates, Maechler, Bolker & Walker (2015), section 5.1. Shares: the mean
        variance of a row, Johnson (2014).

        References
        ----------
        Bates, D., Maechler, M., Bolker, B. and Walker, S. (2015). Fitting linear mixed-effects
        models using lme4. *Journal of Statistical Software* 67(1).

        Johnson, P. C. D. (2014). Extension of Nakagawa & Schielzeth's R2_GLMM to random slopes
        models. *Methods in Ecology and Evolution* 5, 944-946.

        Pinheiro, J. C. and Bates, D. M. (2000). *Mixed-Effects Models in S and S-PLUS*. Springer.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("Penicillin")
        >>> fit = sparselmm.mixedlm("diameter ~ 1 + (1 | plate) + (1 | sample)", data).fit()
        >>> fit.variance_components()[["grp", "sdcor", "lower", "upper", "share"]].round(3)
                grp  sdcor  lower  upper  share
        0     plate  0.847  0.621  1.154  0.151
        1    sample  1.932  1.037  3.597  0.785
        2  Residual  0.550  0.483  0.626  0.064
        >>> fit.variance_components(ci="profile")[["lower", "upper"]].round(3)
           lower  upper
        0  0.634  1.182
        1  1.096  3.556
        2  0.486  0.629
        """
        check_level(alpha)
        ci = check_choice(ci, "ci", ("wald", "profile"))
        found = variance_intervals(self._est, alpha)
        ends = found.ends if ci == "wald" else self._profile_ends(alpha)
        order = [*entry_order(self._est), len(found.se) - 1]
        frame = varcorr_frame(self._est.variance_rows)
        frame.insert(4, "vcov_se", found.se[order])
        return frame.assign(
            sdcor_se=found.sdcor_se[order],
            lower=ends[order, 0],
            upper=ends[order, 1],
            share=found.share[order],
        )

    @from_sums
    @as_table
    def icc(
        self, ci: str = "delta", alpha: float = 0.05, n: int = 1000, seed: Any = None,
        **bootstrap_options: Any,
    ) -> pd.DataFrame:  # fmt: skip
        """Intraclass correlation of every random-effects term and of all together.

        Parameters
        ----------
        ci : {"delta", "bootstrap"}
            Intervals by the delta method on the logit scale, or percentile intervals of the
            parametric bootstrap, which remain valid for few levels and variances near zero.
        alpha : float
            One minus the confidence level.
        n : int
            Replicates of the bootstrap.
        seed : int, sequence of int or SeedSequence, optional
            Seed of the bootstrap.
        **bootstrap_options
            Other arguments of :meth:`bootstrap`, such as ``n_jobs``.

        Returns
        -------
        DataFrame
            One row per term and, last, ``"all terms"``. ``icc``: share of the mean variance of a
            row that the fixed effects leave; ``se``, ``lower``, ``upper``; ``icc_unadjusted``: the
            share with the variance of the fixed part counted in the total. Delta-method errors of
            a singular term are NaN.

        Raises
        ------
        ValueError
            When an argument is unknown.

        Notes
        -----
        Nakagawa, Johnson & Schielzeth (2017), where this is the adjusted ICC; with random slopes
        the mean over the rows, Johnson (2014).

        References
        ----------
        Nakagawa, S., Johnson, P. C. D. and Schielzeth, H. (2017). The coefficient of determination
        R2 and intra-class correlation coefficient from generalized linear mixed-effects models
        revisited and expanded. *Journal of the Royal Society Interface* 14, 20170213.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("Dyestuff")
        >>> fit = sparselmm.mixedlm("Yield ~ 1 + (1 | Batch)", data).fit()
        >>> fit.icc()[["icc", "lower", "upper"]].round(3)
                     icc  lower  upper
        Batch      0.418  0.112  0.804
        all terms  0.418  0.112  0.804
        """
        check_level(alpha)
        ci = check_choice(ci, "ci", ("delta", "bootstrap"))
        n = check_count(n, "n")
        if "statistic" in bootstrap_options:
            raise ArgumentError(
                "statistic: the bootstrap of icc computes the ICC of every replicate"
            )
        check_keywords(bootstrap_options, BOOTSTRAP_OPTIONS, "icc")
        if ci == "delta" and (bootstrap_options or seed is not None):
            given = ", ".join([*bootstrap_options, *(["seed"] if seed is not None else [])])
            raise ArgumentError(f"{given}: only for ci='bootstrap'")
        est = self._est
        found = icc_delta(est, alpha)
        se, ends = found.se, found.ends
        if ci == "bootstrap":
            done = self.bootstrap(n, seed=seed, **bootstrap_options)
            first = est.layout.p
            values = icc_values(
                variance_weights(est), done.values[:, first : first + len(est.variances) + 1]
            )
            se = np.nanstd(values, axis=0, ddof=1)
            ends = bootstrap.intervals(found.icc, values, alpha, "percentile")
        return pd.DataFrame(
            {
                "icc": found.icc,
                "se": se,
                "lower": ends[:, 0],
                "upper": ends[:, 1],
                "icc_unadjusted": self._unadjusted(found.icc),
            },
            index=[*(term.name for term in est.terms), "all terms"],
        )

    def _unadjusted(self, icc: FloatArray) -> FloatArray:
        try:
            return icc * (1.0 - r_squared(self._est).marginal)
        except DataError:  # without rows the variance of the fixed part is not known
            return np.full(len(icc), np.nan)

    @from_sums
    def r2(self) -> RSquared:
        """Marginal and conditional R2.

        Returns
        -------
        RSquared
            ``marginal``: share of the variance of the response explained by the fixed effects;
            ``conditional``: by fixed and random effects; and the variances they are made of.

        Raises
        ------
        DataError
            After ``remove_data()``.

        Notes
        -----
        Nakagawa & Schielzeth (2013), eqs. 26 and 29 (marginal) and 30 (conditional). With random
        slopes the random variance is the mean over the rows of ``z_i'Psi z_i`` (Johnson 2014).
        An offset counts neither as explained nor as variance. With prior weights the residual
        variance is the mean of ``sigma^2 / w``, which does not depend on the scale of the weights.

        References
        ----------
        Nakagawa, S. and Schielzeth, H. (2013). A general and simple method for obtaining R2 from
        generalized linear mixed-effects models. *Methods in Ecology and Evolution* 4, 133-142.

        Johnson, P. C. D. (2014). Extension of Nakagawa & Schielzeth's R2_GLMM to random slopes
        models. *Methods in Ecology and Evolution* 5, 944-946.

        Examples
        --------
        >>> import sparselmm
        >>> data = sparselmm.datasets.load("sleepstudy")
        >>> fit = sparselmm.mixedlm("Reaction ~ Days + (Days | Subject)", data).fit()
        >>> r2 = fit.r2()
        >>> round(r2.marginal, 3), round(r2.conditional, 3)
        (0.279, 0.799)
        """
        return r_squared(self._est)

    def _variance_shares(self) -> dict[str, float]:
        if self.built.layout.sums is None:
            self._need_rows("plot_variance_shares")
        r2 = self.r2()
        total = r2.var_fixed + r2.var_random + r2.var_residual
        icc = self.icc()["icc"].iloc[:-1]
        rest = (r2.var_random + r2.var_residual) / total
        shares = {"fixed effects": r2.var_fixed / total}
        shares |= {str(name): float(share * rest) for name, share in icc.items()}
        return {**shares, "residual": r2.var_residual / total}

    @abstractmethod
    def _profile_conf_int(self, alpha: float, which: Any = None, scale: str = "sd") -> pd.DataFrame:
        """Ends of profile intervals, by the names of the parameters."""

    @abstractmethod
    def _profile_ends(self, alpha: float) -> FloatArray:
        """Profile intervals of packed variances and sigma, (m + 1, 2)."""
